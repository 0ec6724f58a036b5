"""One workflow at a time for each run."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import IO

from shearbench.errors import ShearbenchError
from shearbench.files.leftovers import folders_below
from shearbench.jobs.locks import lock

_held: list[IO[str]] = []  # a file that nobody keeps is closed, and its lock gone


def hold_lock(path: str | os.PathLike[str]) -> IO[str]:
    """Take the lock of a run for as long as this process lives, or until the file returned is closed.

    The kernel drops it when the process ends, however it ends, so there is nothing to unlock after a kill.

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
        Another process holds it, or this user may not write to the run's folder or to a folder in it.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  (open as long as the lock is to be held)
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
    # Who holds it is for people to read: a full disk, of which a job will tell, need not stop the run here.
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
