"""Whole files or none: everything is written under a temporary name and renamed when it is complete."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from shearbench.errors import ContractError, DiskFullError
from shearbench.leftovers import temporary_name

_METADATA_KEY = b"shearbench"
_NOTHING = 65536  # bytes: a disk with less is full, for what a block of a file takes


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well.

    The file is on disk before it has its name, so neither a kill nor a power cut leaves a half-written
    file that looks whole. On an error the temporary file is removed and the error goes on; that of a killed
    process stays until the next run starts (`shearbench.leftovers`).

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


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: str | os.PathLike[str], table: pd.DataFrame) -> None:
    """Write a table as CSV, whole or not at all, with all the digits a float64 needs."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)


def write_table(
    path: str | os.PathLike[str], table: pd.DataFrame, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write a table as Parquet, whole or not at all.

    Parameters
    ----------
    path : path-like
    table : pandas.DataFrame
    metadata : mapping, optional
        Attributes of the table (plain JSON values), read back by `read_table` as ``table.attrs``.
    """
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    arrow = arrow.replace_schema_metadata(
        {**(arrow.schema.metadata or {}), _METADATA_KEY: json.dumps(dict(metadata or {})).encode()}
    )
    with atomic(path) as temporary:
        pq.write_table(arrow, temporary, row_group_size=65536)


def read_table(
    path: str | os.PathLike[str], columns: Iterable[str], rule: str, rows: bool = True
) -> pd.DataFrame:
    """Read a Parquet table and check that it has the columns promised.

    Parameters
    ----------
    path : path-like
    columns : iterable of str
        The columns that must be there; others are read too.
    rule : str
        The rule that makes the file, named in errors.
    rows : bool
        Without them, only the columns' names and the attributes are read.

    Returns
    -------
    pandas.DataFrame
        With the file's attributes in ``.attrs``.

    Raises
    ------
    ContractError
        The file is not Parquet, is cut short, or lacks a column.
    """
    try:
        arrow = pq.read_table(path) if rows else pq.read_schema(path).empty_table()
    except (OSError, pa.ArrowException) as error:
        raise ContractError.of(path, "file", f"unreadable ({error})", "a Parquet table", rule) from error
    missing = [name for name in columns if name not in arrow.column_names]
    if missing:
        raise ContractError.of(
            path, f"column '{missing[0]}'", f"only {arrow.column_names}", "the column", rule
        )
    attributes = json.loads((arrow.schema.metadata or {}).get(_METADATA_KEY, b"{}"))
    table = arrow.to_pandas()
    table.attrs = attributes  # those of pandas itself would outlive a change
    return table


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
