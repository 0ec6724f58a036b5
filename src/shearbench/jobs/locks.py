"""Locks on files, which the kernel releases when the process that holds them ends, even if it is killed.

The `filelock` package is not used: on a file system without locks it makes marker files, which stay after a
kill.
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

_without: set[Path] = set()  # folders without locks, for which the warning was given


def lock(file: IO[Any], wait: bool = False) -> bool:
    """Lock an open file for this process alone, until the file is closed.

    Some file systems (Lustre, NFS and FUSE mounts) have no locks. Then a warning is logged once, True is
    returned, and other processes are not kept out.

    Parameters
    ----------
    file : file object
        A file opened for writing, with a name.
    wait : bool
        Whether to wait until another process releases the lock.

    Returns
    -------
    bool
        False if another process holds the lock, else True.
    """
    folder = Path(file.name).parent
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        # CIFS denies permission if another process holds the lock; other file systems if they have no locks.
        if error.errno == errno.EACCES and can_lock(folder):
            return False
        if folder not in _without:
            _without.add(folder)
            log.warning(
                f"files in {folder} cannot be locked ({error.strerror}): nothing keeps two processes from "
                "using the same files"
            )
    return True


def can_lock(folder: str | os.PathLike[str]) -> bool:
    """Return whether a file in a folder can be locked; a temporary file is made for the test."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
