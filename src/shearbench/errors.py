"""The errors a user can act on: each says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ShearbenchError(Exception):
    """Anything that a user, rather than a developer, can put right."""


class ConfigError(ShearbenchError):
    """The configuration is wrong; raised before any job starts."""


class DiskFullError(ShearbenchError, OSError):
    """There is no room for a file."""


class ContractError(ShearbenchError):
    """A file does not hold what its reader was promised."""

    @classmethod
    def of(cls, path: object, field: str, found: object, expected: object, rule: str) -> ContractError:
        """Build the message every reader uses.

        Parameters
        ----------
        path : object
            The file at fault.
        field : str
            The column, dataset or attribute at fault.
        found, expected : object
            What is there and what should have been.
        rule : str
            The rule to run again.
        """
        return cls(
            f"{path}: {field}: found {found}, expected {expected}. "
            f"Delete the file and run rule '{rule}' again (snakemake --forcerun {rule})."
        )


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest allowed name, or an empty string."""
    close = difflib.get_close_matches(str(name), list(allowed), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""
