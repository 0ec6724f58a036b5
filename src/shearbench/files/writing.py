"""Whole files or none: a file is written under a temporary name and renamed when it is complete."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from shearbench.errors import ContractError, DiskFullError, ShearbenchError
from shearbench.files.leftovers import temporary_name

if TYPE_CHECKING:
    pass


_NOTHING = 65536  # bytes: a disk with less is full, for what a block of a file takes
_NO_LOCK = {errno.EAGAIN, errno.EDEADLK, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
DAMAGED = (OSError, RuntimeError, ValueError, TypeError, KeyError, IndexError, pa.ArrowException)
"""What the readers of damaged files raise."""


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well.

    The file is on disk before it has its name, so neither a kill nor a power cut leaves a half-written
    file that looks whole. On an error the temporary file is removed and the error goes on; that of a killed
    process stays until the next run starts (`shearbench.files.leftovers`).

    Parameters
    ----------
    path : path-like
        Where the file is to be. Its folder is made if need be.

    Yields
    ------
    pathlib.Path
        Where to write. It keeps the suffix of `path`, which some writers look at.

    Raises
    ------
    DiskFullError
        There was no room for the file, whatever error the writer made of that.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        full = _no_room(error, temporary, path)
        temporary.unlink(missing_ok=True)
        if full is not None:
            raise full from error
        raise


def _no_room(error: BaseException, temporary: Path, path: Path) -> DiskFullError | None:
    """Return the error for a file that found no room on its disk, or None where it failed for another reason.

    HDF5, torch and numpy may hide the system's error in a text, behind an error of their own, or altogether.
    """
    if not isinstance(error, Exception):
        return None
    numbers: set[int] = set()
    cause: BaseException | None = error
    while cause is not None:
        for number in (errno.ENOSPC, errno.EDQUOT):
            if getattr(cause, "errno", None) == number or os.strerror(number) in str(cause):
                numbers.add(number)
        cause = cause.__cause__ or cause.__context__
    written = temporary.stat().st_size if temporary.is_file() else 0
    free = shutil.disk_usage(path.parent).free
    if not numbers and free < _NOTHING and isinstance(error, OSError | RuntimeError):
        numbers.add(errno.ENOSPC)
    if not numbers:
        return None
    return DiskFullError(
        f"{path}: {os.strerror(numbers.pop())}: {written / 1e6:.1f} MB of the file were written, and "
        f"{free / 1e6:.1f} MB are free in {path.parent}. Make room and start again; finished files stay"
    )


def unreadable(
    path: str | os.PathLike[str], error: BaseException, expected: str, rule: str | None
) -> Exception:
    """Return the error to raise where a file could not be read: the file's fault, or the system's.

    Parameters
    ----------
    path : path-like
    error : BaseException
        Of the reader.
    expected : str
        What the file should have been.
    rule : str or None
        The rule that makes it.

    Returns
    -------
    Exception
        `OSError` where the operating system refused (no permission, a failing disk, no such file);
        `ShearbenchError` where it refused a lock; else `ContractError`.
    """
    number = getattr(error, "errno", None)
    if number is None and (said := re.search(r"errno = (\d+)", str(error))):
        number = int(said[1])
    if number in _NO_LOCK:
        return ShearbenchError(
            f"{path} cannot be locked for reading: {os.strerror(number)} (errno {number}). Another program "
            "(a notebook?) has it open for writing, or the file system has no locks. Close it there, or set "
            "HDF5_USE_FILE_LOCKING=FALSE in the environment, and run again."
        )
    if number:
        return OSError(number, os.strerror(number), os.fspath(path))
    return ContractError.of(path, "file", f"unreadable ({error})", expected, rule)


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
