"""The largest run that is meant: planned in seconds, in hundreds of jobs."""

from __future__ import annotations

import re
import resource
import subprocess
import sys

import pytest
from conftest import copy_workflow


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Return what a dry run through the SLURM profile prints, and the seconds of computing it took."""
    folder = tmp_path_factory.mktemp("plan")
    copy_workflow(folder)
    profile = ["--workflow-profile", "workflow/profiles/slurm"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--dry-run", *profile, "--configfile", "config/large.yaml"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=500,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout + done.stderr, seconds


def test_it_is_the_run_that_is_meant(plan):
    assert re.search(r"^train +400$", plan[0], re.MULTILINE)  # 20 variants, 5 seeds, 4 populations
    assert re.search(r"^predict +80$", plan[0], re.MULTILINE)  # at all noise levels


def test_it_is_planned_within_a_minute(plan):
    assert plan[1] < 60


def test_its_jobs_are_hundreds_and_fewer_in_slurm(plan):
    jobs = {int(number) for number in re.findall(r"^total +(\d+)$", plan[0], re.MULTILINE)}
    assert max(jobs) < 1000
    groups = re.findall(r"^\[.*\] Group job (\S+)", plan[0], re.MULTILINE)
    alone = re.findall(r"^(?:local)?rule \w+:$", plan[0], re.MULTILINE)
    # The seeds of a variant share a job.
    assert sum(name.startswith("train_") for name in groups) == 80
    assert len(groups) + len(alone) < 700
