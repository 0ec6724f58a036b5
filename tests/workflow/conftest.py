"""One tiny run of the whole workflow, shared by the tests that look at it or copy it."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import preloaded
import pytest
from checkout import ROOT, copy_workflow


def snakemake(
    folder: Path, *options: str, targets: Sequence[str] = (), check: bool = True, timeout: float = 1500
) -> str:
    """Run snakemake on the tiny configuration in a folder, and return all that it printed."""
    status, printed = preloaded.run(folder, *arguments(*options, targets=targets), timeout=timeout)
    if check:
        assert status == 0, printed[-8000:]
    return printed


def arguments(*options: str, targets: Sequence[str] = ()) -> list[str]:
    """Return the arguments of snakemake for the tiny configuration."""
    # Options that take several values end at the next one, and at `--`.
    return ["--cores", "2", *options, "--configfile", "config/tiny.yaml", "--", *targets]


def planned(folder: Path, targets: Sequence[str] = ()) -> dict[str, int]:
    """Return how many jobs of each rule a dry run plans; empty if nothing is to be done."""
    return jobs_in(snakemake(folder, "--dry-run", targets=targets))


def jobs_in(output: str) -> dict[str, int]:
    """Return how many jobs of each rule are planned in what a dry run printed."""
    table = re.search(r"^Job stats:\njob +count\n-+ +-+\n(.*?)\n\n", output, re.DOTALL | re.MULTILINE)
    if table is None:
        assert "Nothing to be done" in output, output[-4000:]
        return {}
    counts = dict(line.split() for line in table[1].splitlines())
    return {rule: int(count) for rule, count in counts.items() if rule not in ("total", "all")}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the tiny configuration has run to its end. Not to be changed: see `run`.

    It runs once, also where several processes share the tests. If the environment variable `FINISHED` is set,
    the run that is in the checkout is copied; a run in the copy makes what is missing.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "finished"
    with open(shared / "finished.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = shared / "finished.done"
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            copy_workflow(folder)
            if "FINISHED" in os.environ:
                for name in ("results/tiny", ".snakemake/metadata"):
                    shutil.copytree(ROOT / name, folder / name)
            snakemake(folder)
            done.touch()
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished run, to be changed at will, with new modification times."""
    folder = tmp_path / "run"
    # copyfile, not copy2: as after a clone, every file is as old as the copy. But the code keeps its times,
    # by which Python and Numba know what they compiled of it.
    shutil.copytree(finished, folder, copy_function=shutil.copyfile)
    for source in (finished / "src").rglob("*.py"):
        shutil.copystat(source, folder / source.relative_to(finished))
    return folder
