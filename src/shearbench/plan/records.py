"""Results without a record of Snakemake: copied from another checkout, or ``.snakemake`` was lost.

Snakemake assumes that such files are up to date. But each file contains its `Origin`. If that differs from
the expected origin, a record with the other origin is written for Snakemake, which then makes the file again.
"""

from __future__ import annotations

import base64
import json
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from shearbench.files.origin import Origin, read_origin

FOLDERS = (
    "catalogs",
    "stamps",
    "bounds",
    "estimates",
    "models",
    "encoders",
    "calibrations",
    "metrics",
    "tables",
    "paper",
    "observations",
    "networks",
    "morphology",
    "frameworks",
    "searches",
)
"""The folders of a run whose files have an origin."""


def record_others(
    run: str,
    expected: Callable[[str], Origin | None],
    version: int,
    job: Callable[[Origin], str],
    state: str | os.PathLike[str] = ".snakemake",
) -> list[str]:
    """Write records for results of a run that were made with other options or code and have no record.

    Parameters
    ----------
    run : str
        Folder of the run, as in the workflow.
    expected : callable
        Function from a path to its origin, or None for a file that does not belong to the run.
    version : int
        Version of Snakemake's record format.
    job : callable
        Function from the origin of a file to a name of the job that makes it, the same for all files of the
        job.
    state : path-like
        Snakemake's folder.

    Returns
    -------
    list of str
        Files for which a record was written.
    """
    unknown = [
        os.path.join(folder, name)
        for top in FOLDERS
        for folder, _, names in os.walk(os.path.join(run, top), followlinks=True)
        for name in sorted(names)
        if not name.startswith(".")
    ]
    unknown += [path] if os.path.exists(path := os.path.join(run, "config.yaml")) else []
    unknown = [path for path in unknown if not _record_file(path, state).exists()]
    jobs: dict[str, list[str]] = defaultdict(list)
    others: set[str] = set()
    found: dict[str, str] = {}
    for path in unknown:
        wanted = expected(path)
        if wanted is None:
            continue
        own = read_origin(path)
        name = job(wanted)
        jobs[name].append(path)
        found[path] = own.depends if own else "not known"
        if own != wanted:
            others.add(name)
    written = [path for name in sorted(others) for path in jobs[name]]
    for path in written:
        # Snakemake compares the files of a job only if all of them have records.
        content = {"rule": None, "params": [found[path]], "record_format_version": version}
        target = _record_file(path, state)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps({**content, "incomplete": False}), encoding="utf-8")
    return written


def _record_file(path: str, state: str | os.PathLike[str]) -> Path:
    """Return the path of Snakemake's record of a file."""
    name = base64.urlsafe_b64encode(path.encode()).decode()
    pieces = [name[start : start + 254] for start in range(0, len(name), 254)]
    return Path(state, "metadata", *(f"@{piece}" for piece in pieces[:-1]), pieces[-1])
