"""The largest configuration is planned in seconds, with hundreds of jobs."""

from __future__ import annotations

import re
import resource
import subprocess
import sys

import preloaded
import pytest
from checkout import copy_workflow

PLAN = ["--dry-run", "--workflow-profile", "workflow/profiles/slurm", "--configfile"]


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Return what a dry run of the largest configuration prints, and the seconds of computing it took."""
    folder = tmp_path_factory.mktemp("plan")
    copy_workflow(folder)
    command = [sys.executable, "-m", "snakemake", *PLAN, "config/large.yaml"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed[-4000:]
    return printed, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


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


def test_a_training_on_several_gpus_asks_for_them_and_for_the_memory_of_their_processes(tmp_path):
    copy_workflow(tmp_path)
    site = tmp_path / "workflow/profiles/slurm/site.yaml"
    status, printed = preloaded.run(tmp_path, *PLAN, "config/tiny.yaml")
    assert status == 0, printed[-4000:]
    one = resources(printed, "train")
    site.write_text(site.read_text().replace("gpus_per_training: 1", "gpus_per_training: 2"))
    status, printed = preloaded.run(tmp_path, *PLAN, "config/tiny.yaml")
    assert status == 0, printed[-4000:]
    two = resources(printed, "train")
    assert (one["gpu"], two["gpu"], two["nodes"]) == ("1", "2", "1")
    assert int(two["mem_mb"]) == 2 * int(one["mem_mb"])
    # As many seeds a job as before, one after the other, in the time there was.
    assert two["runtime"] == one["runtime"]
    assert resources(printed, "predict")["gpu"] == "1"


def resources(printed, rule):
    """Return the resources of the first job of a rule in what a dry run prints."""
    words = re.search(rf"rule {rule}:\n(?:.*\n)*?\s+resources: (.*)", printed)[1]
    return dict(word.split("=") for word in words.split(", "))
