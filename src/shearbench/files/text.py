"""Text (CSV, JSON, LaTeX) with its record in a hidden file beside it; bytes with their record at the end."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from shearbench.errors import ContractError
from shearbench.files.origin import Origin, parse_record, record, side_file

if TYPE_CHECKING:
    pass
from shearbench.files.writing import atomic, unreadable


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
