"""Copies of the checkout, in which tests run the workflow."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("workflow", "scripts", "config", "envs", "src")


def copy_workflow(folder: Path) -> None:
    """Copy what a run needs into a folder, so that tests may change it.

    The compiled code of Python and Numba is copied too, which takes a minute to make.
    """
    for name in FOLDERS:
        # Another process may be writing compiled code, to files with other names at first.
        ignore = shutil.ignore_patterns("*.egg-info", "*.pyc.*", "*.part", "*.tmp.*")
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
