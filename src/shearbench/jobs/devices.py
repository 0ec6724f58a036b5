"""The choice of a GPU: jobs that share a machine each get a GPU of their own, as long as there are enough."""

from __future__ import annotations

import itertools
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from shearbench.jobs.locks import can_lock, lock

# Positions of the claimed GPUs, with the locked files: kept here, because a file that is not referenced
# is closed and so unlocked.
_claimed: dict[tuple[str, ...], list[tuple[int, IO[bytes]]]] = {}


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process may use, without importing torch.

    Returns
    -------
    list of str
        The entries of ``CUDA_VISIBLE_DEVICES`` if it is set, else the numbers of the GPUs that
        ``nvidia-smi`` lists. Empty if there is no driver.
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
    # Indented lines list the partitions (MIG) of a GPU.
    return [str(number) for number in range(sum(line.startswith("GPU") for line in listed.splitlines()))]


def claim_gpu(gpus: Sequence[str], folder: str | os.PathLike[str] | None = None) -> int:
    """Choose a GPU that no other job on this machine uses, and reserve it until this process ends.

    If there are more jobs than GPUs, the GPUs are shared evenly. A single GPU is returned without a
    reservation, because a scheduler has chosen it. The reservation is a lock on a file, which the kernel
    releases when the process ends, even if it is killed. Later calls in the same process return the same GPU.

    Parameters
    ----------
    gpus : sequence of str
        Names of the GPUs to choose from, at least one.
    folder : path-like, optional
        Folder of the lock files; by default a folder of this user in the machine's temporary folder.

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
        Names of the GPUs to choose from, at least `count`. If there are exactly `count`, all are returned
        without a reservation.
    count : int
        Number of GPUs to choose.
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
    """Lock the first free place: the first places of all GPUs come before their second places, and so on.

    The positions `taken` are left out. If files cannot be locked, no place is known to be in use, and the
    process number decides which one is tried first.
    """
    first = 0 if can_lock(locks) else os.getpid() % len(names)
    order = [*range(first, len(names)), *range(first)]
    for place in itertools.count():
        for position in order:
            if position in taken:
                continue
            # The file stays open, and so locked, as long as the GPU is claimed.
            file = open(locks / f"{names[position]}.{place}", "ab")  # noqa: SIM115
            if lock(file):
                return position, file
            file.close()
    raise AssertionError("there is always another place")
