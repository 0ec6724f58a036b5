"""Choice of a GPU by processes on one machine; the GPUs are only names."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from shearbench.jobs.devices import claim_gpu, visible_gpus

JOB = """
import sys
from shearbench.jobs.devices import claim_gpu
names, folder = sys.argv[1].split(","), sys.argv[2]
print(claim_gpu(names, folder), claim_gpu(names, folder), flush=True)
sys.stdin.read()
"""


class Job:
    """A process that claims a GPU and keeps it until it is ended."""

    def __init__(self, names, folder):
        self.process = subprocess.Popen(
            [sys.executable, "-c", JOB, names, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def gpu(self):
        first, second = self.process.stdout.readline().split()
        assert first == second
        return int(first)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def start(tmp_path):
    jobs = []

    def start_one(names="0,1,2,3"):
        jobs.append(Job(names, tmp_path))
        return jobs[-1]

    yield start_one
    for job in jobs:
        job.kill()


def test_jobs_that_start_together_get_a_gpu_each_and_a_killed_ones_is_free_again(start):
    jobs = {job.gpu(): job for job in [start() for _ in range(4)]}
    assert sorted(jobs) == [0, 1, 2, 3]
    jobs[2].kill()
    assert start().gpu() == 2


def test_more_jobs_than_gpus_share_them_evenly(start):
    assert sorted(job.gpu() for job in [start("0,1") for _ in range(6)]) == [0, 0, 0, 1, 1, 1]


def test_the_same_gpu_by_another_set_of_visible_ones_is_not_given_twice(start):
    assert start("2,3").gpu() == 0
    assert start("2,5").gpu() == 1


def test_the_gpu_that_a_scheduler_gave_is_taken_by_all_who_were_given_it(start):
    assert [start("3").gpu() for _ in range(3)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("given", "names"),
    [(None, ["0", "1"]), ("1", ["1"]), ("", []), ("GPU-8a,MIG-7f", ["GPU-8a", "MIG-7f"])],
)
def test_visible_gpus_are_those_given_or_all(tmp_path, monkeypatch, given, names):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: a)'\necho '  MIG 1g'\necho 'GPU 1: B (UUID: b)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_gpus() == names


def test_without_a_driver_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert visible_gpus() == []


def test_claims_of_one_process_do_not_change(tmp_path):
    assert claim_gpu(["a", "b"], tmp_path) == claim_gpu(["a", "b"], tmp_path) == 0
