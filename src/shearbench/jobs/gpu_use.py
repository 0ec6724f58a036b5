"""How much of a GPU a job used: Snakemake's own benchmark files know of none."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from shearbench.files.text import write_text

_INTERVAL = 5.0  # seconds between two looks


@contextlib.contextmanager
def gpu_use(path: str | os.PathLike[str]) -> Iterator[None]:
    """Note which part of its GPU the block used; nothing is written where it used none.

    Parameters
    ----------
    path : path-like
        A CSV of one row: ``gpu_mb``, the most memory that this process held there [MB], and ``gpu_percent``,
        the mean over time of the utilisation of the whole GPU, by all that ran on it [percent]; empty where
        ``nvidia-smi`` does not say.
    """
    Path(path).unlink(missing_ok=True)
    ended = threading.Event()
    seen: list[float] = []

    def watch() -> None:
        while not ended.wait(_INTERVAL):
            gpu = _gpu()
            if gpu is not None and not math.isnan(percent := utilisation(gpu)):
                seen.append(percent)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        if _gpu() is not None:
            megabytes = sys.modules["torch"].cuda.max_memory_reserved() / 1e6
            percent = f"{fmean(seen):.0f}" if seen else ""
            write_text(path, f"gpu_mb,gpu_percent\n{megabytes:.0f},{percent}\n")


def utilisation(gpu: str) -> float:
    """Return how busy a GPU was of late [percent]; NaN where ``nvidia-smi`` does not say."""
    command = ["nvidia-smi", f"--id={gpu}", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        return float(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return math.nan


def _gpu() -> str | None:
    """Return the name of the GPU that this process computes on, if it has begun to."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
