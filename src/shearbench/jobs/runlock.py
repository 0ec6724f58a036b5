"""The lock of a run, which keeps a second workflow from working on the same run at the same time."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import IO

from shearbench.errors import ShearbenchError
from shearbench.files.leftovers import folders_below
from shearbench.jobs.locks import lock

_held: list[IO[str]] = []  # files kept open: one without a reference is closed, and its lock released


def hold_lock(path: str | os.PathLike[str]) -> IO[str]:
    """Take the lock of a run and hold it until this process ends, or until the file returned is closed.

    The kernel releases the lock when the process ends, so after a kill there is nothing to unlock.

    Parameters
    ----------
    path : path-like
        A file in the run's folder.

    Returns
    -------
    file object

    Raises
    ------
    ShearbenchError
        Another process holds the lock, or this user may not write to the run's folder or to a folder in it.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  (stays open: closing releases the lock)
    except OSError as error:
        raise _unwritable(error.filename or path, error.strerror) from None
    if not lock(file):
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise ShearbenchError(f"{path.parent}: {holder} is working on this run; wait for it or stop it")
    for folder in folders_below(path.parent):
        if not os.access(folder, os.W_OK | os.X_OK):
            file.close()
            raise _unwritable(folder, "no permission to write")
    # The holder's name only serves error messages: if the disk is full, a job will report that later.
    with contextlib.suppress(OSError):
        os.truncate(path, 0)
        os.write(file.fileno(), f"process {os.getpid()} on {os.uname().nodename}".encode())
    _held.append(file)
    return file


def _unwritable(path: str | Path, cause: str | None) -> ShearbenchError:
    return ShearbenchError(
        f"{path}: {cause}. The run writes there: make it writable for this user, or give the run another "
        "name ('run' in the configuration)"
    )
