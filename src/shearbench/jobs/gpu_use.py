"""A job's use of its GPU: memory and utilisation, which Snakemake's benchmark files do not contain."""

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

_INTERVAL = 5.0  # seconds between two measurements of the utilisation


@contextlib.contextmanager
def recorded_gpu_use(path: str | os.PathLike[str]) -> Iterator[None]:
    """Measure how much of its GPU a block of code uses, and write it to a file when the block ends.

    Parameters
    ----------
    path : path-like
        A CSV file of one row: ``gpu_mb``, the largest memory that this process held on the GPU [MB], and
        ``gpu_percent``, the mean utilisation of the whole GPU by all its processes [percent], empty if
        ``nvidia-smi`` does not report it. If the block uses no GPU, no file is written, and an older one is
        removed.
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
    """Return the current utilisation of a GPU [percent]; NaN if ``nvidia-smi`` does not report it.

    Parameters
    ----------
    gpu : str
        Name or number of the GPU, as ``nvidia-smi --id`` takes it.
    """
    command = ["nvidia-smi", f"--id={gpu}", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        return float(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return math.nan


def _gpu() -> str | None:
    """Return the name of the GPU that this process computes on; None if it has not used one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
