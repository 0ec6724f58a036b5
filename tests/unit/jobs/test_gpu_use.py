"""The record of a job's GPU use, with a simulated GPU."""

from __future__ import annotations

import math
import os
import sys
import time
import types

import pytest

from shearbench.evaluation.throughput import read_gpu_use
from shearbench.jobs import gpu_use as module
from shearbench.jobs.gpu_use import recorded_gpu_use, utilisation


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Put a script `nvidia-smi` on the path that reports the use of the GPU ``GPU-7f``."""
    script = tmp_path / "nvidia-smi"
    script.write_text('#!/bin/sh\ncase "$*" in *--id=GPU-7f*) echo 42;; *) exit 6;; esac\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.fixture
def on_gpu(monkeypatch):
    """Make torch report that it has used a GPU."""
    cuda = types.SimpleNamespace(
        is_initialized=lambda: True,
        current_device=lambda: 0,
        max_memory_reserved=lambda: 3_000_000_000,
        get_device_properties=lambda device: types.SimpleNamespace(uuid="7f"),
    )
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))


def test_memory_and_mean_utilisation_are_noted(tool, on_gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_INTERVAL", 0.05)
    path = tmp_path / "train/seed1.gpu.csv"
    with recorded_gpu_use(path):
        time.sleep(0.5)
    assert read_gpu_use(path) == {"gpu_mb": 3000.0, "gpu_percent": 42.0}


def test_a_job_that_used_none_leaves_nothing_and_clears_what_was_there(tmp_path):
    path = tmp_path / "seed1.gpu.csv"
    path.write_text("gpu_mb,gpu_percent\n1,1\n")
    with recorded_gpu_use(path):
        pass
    assert not path.exists()
    assert all(math.isnan(value) for value in read_gpu_use(path).values())


def test_a_failing_job_leaves_it_too_and_an_unknown_utilisation_stays_empty(tool, on_gpu, tmp_path):
    path = tmp_path / "seed1.gpu.csv"
    with pytest.raises(ZeroDivisionError), recorded_gpu_use(path):
        _ = 1 / 0
    assert read_gpu_use(path)["gpu_mb"] == 3000.0
    assert math.isnan(read_gpu_use(path)["gpu_percent"])
    assert utilisation("GPU-7f") == 42
    assert math.isnan(utilisation("GPU-other"))
