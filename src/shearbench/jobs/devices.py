"""Which GPU a job computes on, where several share a machine: one of its own as long as there are enough."""

from __future__ import annotations

import itertools
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from shearbench.jobs.locks import can_lock, lock

# Whose files nobody keeps are closed, and unlocked.
_claimed: dict[tuple[str, ...], list[tuple[int, IO[bytes]]]] = {}


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process may use, without loading what computes on them.

    Returns
    -------
    list of str
        Those in ``CUDA_VISIBLE_DEVICES`` where it is set, else the numbers of those that ``nvidia-smi``
        lists; none where there is no driver.
    """
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name]
    # A GPU's own parts (MIG) stand below it, indented.
    return [str(number) for number in range(sum(line.startswith("GPU") for line in listed.splitlines()))]


def claim_gpu(gpus: Sequence[str], folder: str | os.PathLike[str] | None = None) -> int:
    """Choose a GPU that no other job on this machine has, and keep it as long as this process lives.

    Where there are more jobs than GPUs, they are shared evenly. One that is alone was chosen by others (a
    scheduler), and is taken as it is. The claim is a lock on a file, which the kernel drops when the process
    ends, however it ends. A process that asks again gets the same answer.

    Parameters
    ----------
    gpus : sequence of str
        Names of the GPUs to choose from, at least one.
    folder : path-like, optional
        Where the locks are; by default the user's own, in the machine's folder for temporary files.

    Returns
    -------
    int
        Position in `gpus`.
    """
    return claim_gpus(gpus, 1, folder)[0]


def claim_gpus(gpus: Sequence[str], count: int, folder: str | os.PathLike[str] | None = None) -> list[int]:
    """Choose several GPUs, as `claim_gpu` chooses one.

    Parameters
    ----------
    gpus : sequence of str
        Names of the GPUs to choose from; no fewer than `count`. Just as many are taken as they are.
    count : int
    folder : path-like, optional
        As for `claim_gpu`.

    Returns
    -------
    list of int
        Different positions in `gpus`.
    """
    names = tuple(gpus)
    if len(names) == count:
        return list(range(count))
    claimed = _claimed.setdefault(names, [])
    if len(claimed) < count:
        locks = Path(folder or Path(tempfile.gettempdir(), f"shearbench-gpus-{os.getuid()}"))
        locks.mkdir(parents=True, exist_ok=True)
    while len(claimed) < count:
        taken = [position for position, _ in claimed]
        claimed.append(_first_free(names, locks, taken))
    return [position for position, _ in claimed[:count]]


def _first_free(names: Sequence[str], locks: Path, taken: Sequence[int]) -> tuple[int, IO[bytes]]:
    """Lock the first free place: those of the first job on each GPU, then those of the second, and so on.

    Positions that are taken already are left out. Where files cannot be locked, all places are free, and the
    process's number chooses one.
    """
    first = 0 if can_lock(locks) else os.getpid() % len(names)
    order = [*range(first, len(names)), *range(first)]
    for place in itertools.count():
        for position in order:
            if position in taken:
                continue
            # Open as long as it is claimed.
            file = open(locks / f"{names[position]}.{place}", "ab")  # noqa: SIM115
            if lock(file):
                return position, file
            file.close()
    raise AssertionError("there is always another place")
