"""Locks on files: the kernel drops them when the process that holds them ends, however it ends.

The `filelock` package is not used: where a file system has no such locks, it makes marker files instead,
which outlive a kill.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import tempfile
from pathlib import Path
from typing import IO, Any

log = logging.getLogger(__name__)

_without: set[Path] = set()  # folders of which it was said that their files cannot be locked


def lock(file: IO[Any], wait: bool = False) -> bool:
    """Lock an open file for this process alone, until the file is closed.

    Where the file system has no locks (some Lustre, NFS and FUSE mounts), a warning says so once, and nobody
    is kept out.

    Parameters
    ----------
    file : file object
        Opened for writing; it must have a name.
    wait : bool
        Wait until another process gives it up.

    Returns
    -------
    bool
        False only where another process holds the lock.
    """
    folder = Path(file.name).parent
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        # Permission denied: a lock that another process holds, on CIFS; else that nobody may lock there.
        if error.errno == errno.EACCES and can_lock(folder):
            return False
        if folder not in _without:
            _without.add(folder)
            log.warning(
                f"files in {folder} cannot be locked ({error.strerror}): two processes that work on the same "
                "files are not kept apart"
            )
    return True


def can_lock(folder: str | os.PathLike[str]) -> bool:
    """Return whether the file system of a folder has locks, by locking a new file in it."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
