"""One workflow at a time for each run."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO

from shearbench.errors import ShearbenchError

_held: list[IO[str]] = []  # a file that nobody keeps is closed, and its lock gone


def hold_lock(path: str | os.PathLike[str]) -> IO[str]:
    """Take the lock of a run for as long as this process lives, or until the file returned is closed.

    The kernel drops it when the process ends, however it ends, so there is nothing to unlock after a kill.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    file object

    Raises
    ------
    ShearbenchError
        Another process holds it.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  (open as long as the lock is to be held)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise ShearbenchError(
            f"{Path(path).parent}: {holder} is working on this run; wait for it or stop it"
        ) from None
    # Who holds it is for people to read: a full disk, of which a job will tell, need not stop the run here.
    with contextlib.suppress(OSError):
        os.truncate(path, 0)
        os.write(file.fileno(), f"process {os.getpid()} on {os.uname().nodename}".encode())
    _held.append(file)
    return file
