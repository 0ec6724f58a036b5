"""The errors that a user can act on: each message names the fault, its place and the remedy."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable


class ShearbenchError(Exception):
    """An error that a user, rather than a developer, can put right."""


class ConfigError(ShearbenchError):
    """The configuration is wrong; raised before any job starts."""


class DiskFullError(ShearbenchError, OSError):
    """The disk has no room for a file."""


class ContractError(ShearbenchError):
    """A file breaks its contract: a field is missing, damaged or has an impossible value."""

    @classmethod
    def of(cls, path: object, field: str, found: object, expected: object, rule: str | None) -> ContractError:
        """Build the message that all readers of files use.

        Parameters
        ----------
        path : object
            The file at fault.
        field : str
            The column, dataset or attribute at fault.
        found, expected : object
            The value in the file, and the value or condition that the reader requires.
        rule : str or None
            The rule to run again; None where it is not known.

        Returns
        -------
        ContractError
        """
        text = str(path)
        # Given a path relative to the working directory, Snakemake makes that file alone again, not all of
        # the rule's files.
        known = os.sep in text and " " not in text and not os.path.isabs(text)
        target = text if known or rule is None else rule
        named = f"rule '{rule}'" if rule else "the rule that makes it"
        return cls(
            f"{path}: {field}: found {found}, expected {expected}. "
            f"Run {named} again: snakemake --forcerun {target}"
        )


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest allowed name, or an empty string."""
    close = difflib.get_close_matches(str(name), list(allowed), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""
