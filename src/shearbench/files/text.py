"""Text files (CSV, JSON, LaTeX) and byte files, each with a record of its origin and a checksum.

The record of a text file is in a hidden file beside it, that of a byte file at the file's end.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from shearbench.errors import ContractError
from shearbench.files.origin import Origin, parse_record, record, side_file
from shearbench.files.writing import atomic, unreadable


def write_text(path: str | os.PathLike[str], text: str, origin: Origin | None = None) -> None:
    """Write a text file, whole or not at all; with an origin, also the record beside it.

    Parameters
    ----------
    path : path-like
    text : str
    origin : Origin, optional
        The origin to store with the file.

    Raises
    ------
    DiskFullError
        The disk has no room for the file.
    """
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
        The origin that the file must carry. By default, any origin is accepted, and a file without a record.

    Returns
    -------
    str

    Raises
    ------
    ContractError
        The file was changed since it was written, or has another origin.
    OSError
        The file cannot be read.
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
    """Write a table as CSV, whole or not at all; numbers have all digits that a float64 needs.

    Parameters
    ----------
    path : path-like
    table : pandas.DataFrame
    origin : Origin, optional
        The origin to store with the file.
    """
    write_text(path, table.to_csv(index=False), origin)


def read_csv(
    path: str | os.PathLike[str], text: Collection[str], expected: Origin | None = None
) -> pd.DataFrame:
    """Read a table written by `write_csv`; numbers come back exactly, names as text.

    Parameters
    ----------
    path : path-like
    text : collection of str
        The columns to read as text, even where it looks like a number or a missing value (``1``, ``None``).
        The other columns hold numbers or booleans; an empty field is a missing value.
    expected : Origin, optional
        As for `read_text`.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    ContractError
        The file was changed since it was written, has another origin, or is no CSV table.
    OSError
        The file cannot be read.
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
    """Return the origin in the record of a file, after a check that the record belongs to these data."""
    rule = expected.rule if expected else rule
    try:
        found = parse_record(text)
    except (ValueError, TypeError) as error:
        raise ContractError.of(path, "record", f"unreadable ({error})", "origin and checksum", rule) from None
    if found.get("content") != hashlib.sha256(data).hexdigest():
        rule = rule or (found["origin"] and found["origin"].rule)
        raise ContractError.of(path, "checksum", "content that changed", "the content that was written", rule)
    return found["origin"]


def write_sealed(path: str | os.PathLike[str], data: bytes, origin: Origin | None = None) -> None:
    """Write bytes followed by their record, whole or not at all.

    Readers of ZIP files, torch's too, ignore the record at the end.

    Parameters
    ----------
    path : path-like
    data : bytes
    origin : Origin, optional
        The origin to store with the file.
    """
    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.write(data)
        file.write(f"\n{_record_of(data, origin)}".encode())


def read_sealed(path: str | os.PathLike[str], rule: str, expected: Origin | None = None) -> bytes:
    """Read a file written by `write_sealed`.

    Parameters
    ----------
    path : path-like
    rule : str
        The rule that makes the file, for error messages.
    expected : Origin, optional
        The origin that the file must carry.

    Returns
    -------
    bytes
        The data, without the record.

    Raises
    ------
    ContractError
        The file was changed since it was written, has no record, or has another origin.
    OSError
        The file cannot be read.
    """
    data, _, text = Path(path).read_bytes().rpartition(b"\n")
    found = _checked(path, data, text, expected, rule)
    if expected is not None:
        expected.check(path, found)
    return data
