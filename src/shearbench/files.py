"""Whole files or none, each with its origin and a checksum of its contents.

Everything is written under a temporary name and renamed when it is complete. HDF5, Parquet and torch files
carry their `Origin` and checksums in themselves; text (CSV, JSON, LaTeX) has them in a hidden file beside it,
``.NAME.json``. A reader refuses a damaged file and, where it is told which origin to expect, any other file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from shearbench.errors import ContractError, DiskFullError, ShearbenchError
from shearbench.leftovers import temporary_name
from shearbench.origin import Origin, parse_record, record, side_file

if TYPE_CHECKING:
    import h5py

_METADATA_KEY = b"shearbench"
_NOTHING = 65536  # bytes: a disk with less is full, for what a block of a file takes
_GROUP = 65536  # rows of a Parquet table that share a checksum
# A table may take so much memory whatever the size of its file, and beyond it so many times that size.
_SMALL, _RATIO = 2**26, 100
_NO_LOCK = {errno.EAGAIN, errno.EDEADLK, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
_DAMAGED = (OSError, RuntimeError, ValueError, TypeError, KeyError, IndexError, pa.ArrowException)
"""What the readers of damaged files raise."""


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


# Text, with a record beside it


def write_text(path: str | os.PathLike[str], text: str, origin: Origin | None = None) -> None:
    """Write a text file whole or not at all, with its record beside it where it has an origin."""
    data, side = text.encode(), side_file(path)
    side.unlink(missing_ok=True)
    with atomic(path) as temporary:
        temporary.write_bytes(data)
    if origin is not None:
        with atomic(side) as temporary:
            temporary.write_text(_record_of(data, origin), encoding="utf-8")


def read_text(path: str | os.PathLike[str], expected: Origin | None = None) -> str:
    """Read a text file and compare it with the record beside it.

    Parameters
    ----------
    path : path-like
    expected : Origin, optional
        What the file must be. Without, a file that has no record is read as it is.

    Raises
    ------
    ContractError
        It is not as it was written, or of another origin.
    OSError
        It cannot be read.
    """
    data, side = Path(path).read_bytes(), side_file(path)
    found = None
    if side.exists():
        found = _checked(path, data, side.read_bytes(), expected)
    if expected is not None:
        expected.check(path, found)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise unreadable(path, error, "text in UTF-8", expected.rule if expected else None) from error


def write_csv(path: str | os.PathLike[str], table: pd.DataFrame, origin: Origin | None = None) -> None:
    """Write a table as CSV, whole or not at all, with all the digits a float64 needs."""
    write_text(path, table.to_csv(index=False), origin)


def read_csv(
    path: str | os.PathLike[str], text: Collection[str], expected: Origin | None = None
) -> pd.DataFrame:
    """Read a table of `write_csv`, every number as it was written and every name as text.

    Parameters
    ----------
    path : path-like
    text : collection of str
        The columns that hold text, also where it looks like a number or a missing value (``1``, ``None``).
        All others hold numbers or booleans, missing where the field is empty.
    expected : Origin, optional
        As for `read_text`.

    Raises
    ------
    ContractError
        It is not as it was written, of another origin, or no such table.
    OSError
        It cannot be read.
    """
    content = read_text(path, expected)
    try:
        names = list(pd.read_csv(io.StringIO(content), nrows=0))
        missing: Any = {name: [""] for name in names if name not in text}
        table = pd.read_csv(
            io.StringIO(content),
            dtype=dict.fromkeys(set(names) & set(text), "str"),
            keep_default_na=False,
            na_values=missing,
        )
    except (ValueError, pd.errors.ParserError) as error:
        raise unreadable(path, error, "a CSV table", expected.rule if expected else None) from error
    return table


def _record_of(data: bytes, origin: Origin | None) -> str:
    return record(origin, content=hashlib.sha256(data).hexdigest())


def _checked(
    path: str | os.PathLike[str], data: bytes, text: bytes, expected: Origin | None, rule: str | None = None
) -> Origin | None:
    """Return the origin that a record names, if it is the record of these data."""
    rule = expected.rule if expected else rule
    try:
        found = parse_record(text)
    except (ValueError, TypeError) as error:
        raise ContractError.of(path, "record", f"unreadable ({error})", "origin and checksum", rule) from None
    if found.get("content") != hashlib.sha256(data).hexdigest():
        rule = rule or (found["origin"] and found["origin"].rule)
        raise ContractError.of(path, "checksum", "another content", "the one it was written with", rule)
    return found["origin"]


# Bytes, with the record as their last line


def write_sealed(path: str | os.PathLike[str], data: bytes, origin: Origin | None = None) -> None:
    """Write bytes and a record after them, whole or not at all: readers of ZIP do not mind what follows."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.write(data)
        file.write(f"\n{_record_of(data, origin)}".encode())


def read_sealed(path: str | os.PathLike[str], rule: str, expected: Origin | None = None) -> bytes:
    """Read what `write_sealed` wrote.

    Parameters
    ----------
    path : path-like
    rule : str
        The rule that makes the file, named in errors.
    expected : Origin, optional
        What the file must be.

    Raises
    ------
    ContractError
        It is not as it was written, of an earlier version, or of another origin.
    OSError
        It cannot be read.
    """
    data, _, text = Path(path).read_bytes().rpartition(b"\n")
    found = _checked(path, data, text, expected, rule)
    if expected is not None:
        expected.check(path, found)
    return data


# Parquet


def write_table(
    path: str | os.PathLike[str],
    table: pd.DataFrame,
    metadata: Mapping[str, Any] | None = None,
    origin: Origin | None = None,
) -> None:
    """Write a table as Parquet, whole or not at all.

    Parameters
    ----------
    path : path-like
    table : pandas.DataFrame
    metadata : mapping, optional
        Attributes of the table (plain JSON values), read back by `read_table` as ``table.attrs``.
    origin : Origin, optional
        What the file is.
    """
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    rows = _rows_digests(arrow.to_pandas(ignore_metadata=True))
    text = record(origin, attributes=dict(metadata or {}), columns=arrow.column_names, rows=rows)
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), _METADATA_KEY: text.encode()})
    # A dictionary of floats would make one of all NaNs.
    words = [field.name for field in arrow.schema if not pa.types.is_primitive(field.type)]
    with atomic(path) as temporary:
        pq.write_table(
            arrow, temporary, row_group_size=_GROUP, use_dictionary=words, write_page_checksum=True
        )


def read_table(
    path: str | os.PathLike[str],
    columns: Iterable[str],
    rule: str,
    rows: bool | tuple[int, int] = True,
    expected: Origin | None = None,
) -> pd.DataFrame:
    """Read a Parquet table and check that it is as it was written and has the columns promised.

    Parameters
    ----------
    path : path-like
    columns : iterable of str
        The columns that must be there; others are read too.
    rule : str
        The rule that makes the file, named in errors.
    rows : bool or (int, int)
        False reads the columns' names and the attributes only; (start, stop) reads these rows and no others
        into memory for longer than it takes to check them.
    expected : Origin, optional
        What the file must be.

    Returns
    -------
    pandas.DataFrame
        With the file's attributes in ``.attrs``.

    Raises
    ------
    ContractError
        The file is not Parquet, not as it was written, of another origin, lacks a column or rows, or would
        take far more memory than a table of its size.
    OSError
        It cannot be read.
    """
    rule = expected.rule if expected else rule
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            found = _table_record(path, file, rule)
            origin = found["origin"]
            if expected is not None:
                expected.check(path, origin)
            rule = origin.rule if origin else rule
            names = file.schema_arrow.names
            if names != found["columns"]:
                raise ContractError.of(path, "columns", names, found["columns"], rule)
            missing = [name for name in columns if name not in names]
            if missing:
                raise ContractError.of(path, f"column '{missing[0]}'", f"only {names}", "the column", rule)
            if rows is False:
                table = file.schema_arrow.empty_table().to_pandas(ignore_metadata=True)
            else:
                table = _rows(path, file, found["rows"], None if rows is True else rows, rule)
    except ContractError:
        raise
    except (*_DAMAGED, MemoryError) as error:
        raise unreadable(path, error, "a Parquet table", rule) from error
    table.attrs = found["attributes"]
    return table


def _table_record(path: str | os.PathLike[str], file: pq.ParquetFile, rule: str) -> dict[str, Any]:
    size = os.stat(path).st_size
    groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
    memory = max(
        8 * sum(group.num_rows for group in groups) * file.metadata.num_columns,
        sum(group.total_byte_size for group in groups),
    )
    if memory > _SMALL + _RATIO * size:
        raise ContractError.of(path, "size", f"{memory} bytes once read", f"less, from {size} bytes", rule)
    text = (file.schema_arrow.metadata or {}).get(_METADATA_KEY)
    if text is None:
        raise ContractError.of(
            path, "record", "none (made by an earlier version?)", "origin and checksum", rule
        )
    try:
        return parse_record(text)
    except (ValueError, TypeError) as error:
        raise ContractError.of(path, "record", f"unreadable ({error})", "origin and checksum", rule) from None


def _rows(
    path: str | os.PathLike[str],
    file: pq.ParquetFile,
    digests: list[str],
    wanted: tuple[int, int] | None,
    rule: str,
) -> pd.DataFrame:
    """Read all rows of a table, or those wanted, and compare them with their checksums."""
    lengths = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
    total = sum(lengths)
    whole = len(lengths) == len(digests) and all(length == _GROUP for length in lengths[:-1])
    if not whole and (total, digests) != (0, []):
        raise ContractError.of(path, "rows", total, f"{len(digests)} times up to {_GROUP}", rule)
    start, stop = wanted or (0, total)
    if stop > total:
        raise ContractError.of(path, "rows", total, f"at least {stop}", rule)
    groups = list(range(start // _GROUP, -(-stop // _GROUP)))
    table = file.read_row_groups(groups).to_pandas(ignore_metadata=True)
    if _rows_digests(table) != [digests[group] for group in groups]:
        raise ContractError.of(path, "rows", "other values", "those it was written with", rule)
    first = groups[0] * _GROUP if groups else 0
    return table if wanted is None else table.iloc[start - first : stop - first].reset_index(drop=True)


def _rows_digests(table: pd.DataFrame) -> list[str]:
    """Return a digest of the values of each group of rows."""
    digests = []
    for start in range(0, len(table), _GROUP):
        sha = hashlib.sha256()
        for name, column in table.iloc[start : start + _GROUP].items():
            values, about = column.to_numpy(), [str(name)]
            if values.dtype.kind in "biuf":
                about.append(values.dtype.str)
            else:  # text: numbers in the order of its first appearance, and the words they stand for
                values, words = pd.factorize(column)
                about.extend(map(str, words))
            sha.update(json.dumps(about).encode())
            sha.update(np.ascontiguousarray(values).tobytes())
        digests.append(sha.hexdigest())
    return digests


# HDF5


@contextlib.contextmanager
def create_hdf5(path: str | os.PathLike[str], origin: Origin | None = None) -> Iterator[h5py.File]:
    """Yield an HDF5 file to write into, whole or not at all; `add_dataset` adds the data.

    The format is HDF5's 1.10, whose structures carry checksums of their own.
    """
    import h5py

    with atomic(path) as temporary, h5py.File(temporary, "w", libver=("v110", "v110")) as file:
        file.attrs["record"] = np.bytes_(record(origin))
        yield file
        file.attrs["checksum"] = np.bytes_(json.dumps(_layout(file)))


def add_dataset(
    group: h5py.Group,
    name: str,
    data: Any = None,
    shape: tuple[int, ...] | None = None,
    dtype: Any = None,
    chunks: tuple[int, ...] | None = None,
) -> h5py.Dataset:
    """Add numbers to an HDF5 group, with a checksum for each chunk (the whole, if not said otherwise)."""
    shape = np.shape(data) if shape is None else shape
    return group.create_dataset(name, shape, dtype, data, chunks=chunks or shape, fletcher32=True)


@contextlib.contextmanager
def open_hdf5(
    path: str | os.PathLike[str],
    what: str,
    rule: str,
    expected: Origin | None = None,
    seen: bool = False,
) -> Iterator[h5py.File]:
    """Yield an HDF5 file of `create_hdf5` to read from; damage that shows itself while it is read is named.

    Parameters
    ----------
    path : path-like
    what : str
        What kind of file it should be, named in errors.
    rule : str
        The rule that makes it, named in errors.
    expected : Origin, optional
        What the file must be.
    seen : bool
        Whether this process has opened it before: then only the data that are read are checked.

    Raises
    ------
    ContractError
        It is no such file, not as it was written, of another origin, refers to other files, or declares more
        data than it holds.
    ShearbenchError
        Another program has it open, or the file system refuses locks.
    OSError
        The operating system cannot read it.
    """
    import h5py

    rule = expected.rule if expected else rule
    try:
        with h5py.File(path, "r") as file:
            if not seen:
                rule = _check_layout(path, file, rule, expected)
            yield file
    except _DAMAGED as error:
        raise unreadable(path, error, what, rule) from error


def _check_layout(path: str | os.PathLike[str], file: h5py.File, rule: str, expected: Origin | None) -> str:
    """Compare an open file with its record; return the rule that made it."""
    if "record" not in file.attrs or "checksum" not in file.attrs:
        problem = "none (made by an earlier version?)"
        raise ContractError.of(path, "record", problem, "origin and checksum", rule)
    origin = parse_record(file.attrs["record"])["origin"]
    if expected is not None:
        expected.check(path, origin)
    rule = origin.rule if origin else rule
    _check_own(path, file, rule)
    written, found = json.loads(file.attrs["checksum"]), _layout(file)
    for name in written | found:
        if found.get(name) != written.get(name):
            problem = "nothing" if name not in found else "another value, shape or type"
            raise ContractError.of(path, name, problem, "what was written", rule)
    return rule


def _check_own(path: str | os.PathLike[str], group: h5py.Group, rule: str, depth: int = 0) -> None:
    """Refuse what is not in the file itself, or is declared larger than the file."""
    import h5py

    size = os.stat(path).st_size
    for name in group:
        place = f"{group.name.rstrip('/')}/{name}"
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink) or depth > 3:
            raise ContractError.of(path, place, f"a {type(link).__name__}", "data in the file itself", rule)
        item = group[name]
        if isinstance(item, h5py.Group):
            _check_own(path, item, rule, depth + 1)
            continue
        if item.external or item.is_virtual or not item.fletcher32 or item.compression or item.scaleoffset:
            raise ContractError.of(path, place, "stored otherwise", "plain numbers with a checksum", rule)
        if item.dtype.kind not in "biuf" or item.nbytes > size:
            declared = f"{item.nbytes} bytes of type {item.dtype} in a file of {size} bytes"
            raise ContractError.of(path, place, declared, "numbers that are in the file", rule)


def _layout(file: h5py.File) -> dict[str, str]:
    """Return a digest of each attribute, and of the shape and type of each data set."""
    found: dict[str, str] = {}

    def note(name: str, *about: Any) -> None:
        found[name] = hashlib.sha256(json.dumps(about, default=str).encode()).hexdigest()[:16]

    def look(name: str, item: Any) -> None:
        kind = "dataset" if hasattr(item, "shape") else "group"
        note(f"{kind} '{name}'", *([item.shape, item.dtype.str] if kind == "dataset" else []))
        for key, value in item.attrs.items():
            if (name, key) != ("", "checksum"):
                plain = value.tolist() if isinstance(value, np.generic | np.ndarray) else value
                note(f"attribute '{name}{'/' if name else ''}{key}'", plain)

    look("", file)
    file.visititems(look)
    return found


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
