"""Parquet tables with their origin and checksums."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shearbench.errors import ContractError
from shearbench.files.origin import Origin, parse_record, record
from shearbench.files.writing import DAMAGED, atomic, unreadable

_METADATA_KEY = b"shearbench"
_GROUP = 65536  # rows of a Parquet table that share a checksum
# Most memory that a table may take: _SMALL bytes plus _RATIO times the size of its file.
_SMALL, _RATIO = 2**26, 100


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
        The origin to store with the file.
    """
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    rows = _rows_digests(arrow.to_pandas(ignore_metadata=True))
    text = record(origin, attributes=dict(metadata or {}), columns=arrow.column_names, rows=rows)
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), _METADATA_KEY: text.encode()})
    # In Parquet's dictionary encoding of floats, all NaNs would become one and the same.
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
    attributes: Iterable[str] = (),
) -> pd.DataFrame:
    """Read a Parquet table written by `write_table`; check that it is unchanged and has the wanted columns.

    Parameters
    ----------
    path : path-like
    columns : iterable of str
        The columns that must exist; others are read too.
    rule : str
        The rule that makes the file, for error messages.
    rows : bool or (int, int)
        True reads all rows; False reads only the columns' names and the attributes; (start, stop) returns
        these rows, and holds little more than these in memory.
    expected : Origin, optional
        The origin that the file must carry.
    attributes : iterable of str
        The attributes that must exist.

    Returns
    -------
    pandas.DataFrame
        With the file's attributes in ``.attrs``.

    Raises
    ------
    ContractError
        The file is not Parquet, was changed since it was written, has another origin, lacks a column, an
        attribute or rows, or would take far more memory than its size explains.
    OSError
        The file cannot be read.
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
    except (*DAMAGED, MemoryError) as error:
        raise unreadable(path, error, "a Parquet table", rule) from error
    table.attrs = found["attributes"]
    for name in attributes:
        if name not in table.attrs:
            raise ContractError.of(
                path, f"attribute '{name}'", f"only {list(table.attrs)}", "the attribute", rule
            )
    return table


def _table_record(path: str | os.PathLike[str], file: pq.ParquetFile, rule: str) -> dict[str, Any]:
    size = os.stat(path).st_size
    groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
    memory = max(
        8 * sum(group.num_rows for group in groups) * file.metadata.num_columns,
        sum(group.total_byte_size for group in groups),
    )
    if memory > _SMALL + _RATIO * size:
        most = f"at most {_SMALL + _RATIO * size} for a file of {size} bytes"
        raise ContractError.of(path, "size", f"{memory} bytes in memory", most, rule)
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
    """Read all rows of a table, or the rows wanted, and check their checksums."""
    lengths = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
    total = sum(lengths)
    whole = len(lengths) == len(digests) and all(length == _GROUP for length in lengths[:-1])
    if not whole and (total, digests) != (0, []):
        expected = f"{len(digests)} groups of up to {_GROUP} rows"
        raise ContractError.of(path, "rows", total, expected, rule)
    start, stop = wanted or (0, total)
    if stop > total:
        raise ContractError.of(path, "rows", total, f"at least {stop}", rule)
    groups = list(range(start // _GROUP, -(-stop // _GROUP)))
    table = file.read_row_groups(groups).to_pandas(ignore_metadata=True)
    if _rows_digests(table) != [digests[group] for group in groups]:
        raise ContractError.of(path, "rows", "values that changed", "the values that were written", rule)
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
            else:  # text: the distinct words, and for each row the number of its word
                values, words = pd.factorize(column)
                about.extend(map(str, words))
            sha.update(json.dumps(about).encode())
            sha.update(np.ascontiguousarray(values).tobytes())
        digests.append(sha.hexdigest())
    return digests


def require_possible(
    path: str | os.PathLike[str],
    table: pd.DataFrame,
    possible: Mapping[tuple[str, str], pd.Series[bool] | NDArray[np.bool_]],
    rule: str,
) -> None:
    """Refuse a table with an impossible value, and name the first galaxy that has one.

    Parameters
    ----------
    path : path-like
        File of the table.
    table : pandas.DataFrame
        It has a column ``galaxy_id``.
    possible : mapping of (str, str) to Series or ndarray of bool
        For the name of a quantity and its allowed values, whether the value of each row is possible.
    rule : str
        The rule that makes the file, for the message.

    Raises
    ------
    ContractError
        A row has an impossible value.
    """
    for (name, allowed), good in possible.items():
        if not good.all():
            first = table.loc[~good, "galaxy_id"].iloc[0]
            raise ContractError.of(path, name, f"an impossible value (galaxy_id {first})", allowed, rule)
