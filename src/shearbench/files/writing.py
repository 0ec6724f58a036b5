"""Files are written under a temporary name and renamed when complete, so that no half-written file exists."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from shearbench.errors import ContractError, DiskFullError, ShearbenchError
from shearbench.files.leftovers import temporary_name

_NOTHING = 65536  # bytes: a disk with less free space than this counts as full
_NO_LOCK = {errno.EAGAIN, errno.EDEADLK, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
DAMAGED = (OSError, RuntimeError, ValueError, TypeError, KeyError, IndexError, pa.ArrowException)
"""The exceptions that libraries raise when they read a damaged file."""


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename the file to `path` when the block ends without an error.

    The data are on disk before the file gets its name, so neither a kill nor a power cut leaves a
    half-written file that looks complete. On an error, the temporary file is removed and the error is raised
    again. A killed process leaves its temporary file, which the next run removes
    (`shearbench.files.leftovers`).

    Parameters
    ----------
    path : path-like
        Path of the finished file. Its folder is made if it does not exist.

    Yields
    ------
    pathlib.Path
        Path to write to. It has the suffix of `path`, which some writers need.

    Raises
    ------
    DiskFullError
        The disk has no room for the file, whichever error the writer raised because of that.
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
    """Return the error to raise if the disk is full, or None if the file failed for another reason.

    HDF5, torch and numpy may give the system's error as text only, as the cause of their own error, or not at
    all.
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
    """Return the error to raise for a file that could not be read.

    Parameters
    ----------
    path : path-like
    error : BaseException
        The error that the reader raised.
    expected : str
        The kind of file expected, for the message.
    rule : str or None
        The rule that makes the file.

    Returns
    -------
    Exception
        `OSError` where the operating system refused (no permission, a failing disk, no such file);
        `ShearbenchError` where the file could not be locked; otherwise `ContractError`: the file is damaged.
    """
    number = getattr(error, "errno", None)
    if number is None and (said := re.search(r"errno = (\d+)", str(error))):
        number = int(said[1])
    if number in _NO_LOCK:
        return ShearbenchError(
            f"{path} cannot be locked for reading: {os.strerror(number)} (errno {number}). Another program "
            "(a notebook?) has it open for writing, or the file system has no locks. Close the file in that "
            "program, or set HDF5_USE_FILE_LOCKING=FALSE in the environment, and run again."
        )
    if number:
        return OSError(number, os.strerror(number), os.fspath(path))
    return ContractError.of(path, "file", f"unreadable ({error})", expected, rule)


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
