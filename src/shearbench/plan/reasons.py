"""The reason that Snakemake gives for a job, in one short line."""

from __future__ import annotations

import re

MOST = 2
"""Number of files that a reason names."""

_FILES = re.compile(r"([A-Z][^:;]* files[^:;]*: )([^;]+)")
_PARAMS = re.compile(r"Params have changed since last execution: ([^;]+)")
_SECTION = re.compile(r"'(\w+) [0-9a-f]{16}'")


def short_reason(text: str) -> str:
    """Return the reason for a job, shortened.

    Snakemake names every file that another job has updated, a hundred for the manifest, and all parameters
    that have changed, as they were and as they are.

    Parameters
    ----------
    text : str
        Snakemake's reason.

    Returns
    -------
    str
        It names at most `MOST` files, and of the parameters only the changed sections of the configuration.
    """
    return _PARAMS.sub(_changed, _FILES.sub(_some, text))


def _some(match: re.Match[str]) -> str:
    files = match[2].split(", ")
    more = f" and {len(files) - MOST} more" if len(files) > MOST else ""
    return match[1] + ", ".join(files[:MOST]) + more


def _changed(match: re.Match[str]) -> str:
    sections = sorted(set(_SECTION.findall(match[1])))
    of = f" of {', '.join(sections)}" if sections else ", code or inputs"
    return f"Options{of} have changed"
