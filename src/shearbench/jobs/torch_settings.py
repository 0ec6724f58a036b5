"""Torch's global settings for the length of a block, the choice of a device, and seeds."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from shearbench.jobs.devices import claim_gpu, visible_gpus

_memory: Any = torch.utils.deterministic  # its flag is a property that type checkers do not see


def pick_device() -> torch.device:
    """Return the device to compute on: the job's GPU, or a GPU that no other job here uses, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    names = visible_gpus()
    torch.cuda.set_device(claim_gpu(names if len(names) == count else [str(k) for k in range(count)]))
    return torch.device("cuda", torch.cuda.current_device())


@contextlib.contextmanager
def torch_settings(threads: int, seed: int, device: torch.device) -> Iterator[None]:
    """Compute reproducibly and in full float32 precision inside the block; restore all settings after it.

    Parameters
    ----------
    threads : int
        Number of CPU threads. It can change the order of sums, and so the last bits of results.
    seed : int
        Seed of torch's own generators, which initialise weights.
    device : torch.device
        Device of the computation, whose generator is restored too.
    """
    before = (
        torch.get_num_threads(),
        torch.get_deterministic_debug_mode(),
        torch.get_default_dtype(),
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
        _memory.fill_uninitialized_memory,
    )
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        try:
            # cuBLAS reads this when it starts and is not deterministic without it.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.set_num_threads(threads)
            # torch.use_deterministic_algorithms would import torch's compiler, which takes three seconds.
            torch.set_deterministic_debug_mode("error")
            _memory.fill_uninitialized_memory = False  # it only helps debugging, and costs time
            torch.set_default_dtype(torch.float32)
            torch.backends.cudnn.benchmark = False
            # TF32 has a mantissa of 10 bits: its rounding would limit shapes at a signal-to-noise of 2e4.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.manual_seed(seed)
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.set_deterministic_debug_mode(before[1])
            torch.set_default_dtype(before[2])
            torch.backends.cudnn.benchmark = before[3]
            torch.backends.cudnn.allow_tf32 = before[4]
            torch.backends.cuda.matmul.allow_tf32 = before[5]
            _memory.fill_uninitialized_memory = before[6]
            if workspace is None:
                os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def seeded(generator: torch.Generator, *numbers: int) -> torch.Generator:
    """Seed a generator with a hash of integers and return it; other integers give an independent stream."""
    state = np.random.SeedSequence(numbers).generate_state(2)
    return generator.manual_seed(int(state[0]) << 31 ^ int(state[1]))
