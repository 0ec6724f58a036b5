"""Markers that skip tests, a fixed seed, and a check of torch's global state."""

from __future__ import annotations

import importlib.util
import random
import shutil
import sys

import numpy as np
import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def _gpu_missing() -> bool:
    # torch takes seconds to import: without a driver there is nothing to ask it.
    if shutil.which("nvidia-smi") is None:
        return True
    import torch

    return not torch.cuda.is_available()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Where several processes share the tests, the longest come first.
    items.sort(key=lambda item: item.path.parent.name != "workflow")
    absent = {
        "slow": (lambda: not config.getoption("--slow"), "slow: run with --slow"),
        "gpu": (_gpu_missing, "no CUDA device here"),
        "ngmix": (lambda: importlib.util.find_spec("ngmix") is None, "ngmix is not installed (conda-forge)"),
        "slurm": (lambda: shutil.which("sbatch") is None, "SLURM is not installed"),
    }
    for name, (missing, reason) in absent.items():
        marked = [item for item in items if item.get_closest_marker(name)]
        if marked and missing():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (third parties may use it)


@pytest.fixture(autouse=True)
def _torch_unchanged(request: pytest.FixtureRequest):
    """Fail a test that changes torch's global settings."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return

    def state() -> tuple[object, ...]:
        return (
            torch.get_default_dtype(),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_grad_enabled(),
        )

    before = state()
    yield
    assert state() == before, "the test left torch's global settings changed"
