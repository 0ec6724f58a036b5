"""Parquet tables with their origin and checksums."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from shearbench.errors import ContractError
from shearbench.files.origin import Origin, parse_record, record

if TYPE_CHECKING:
    pass
from shearbench.files.writing import DAMAGED, atomic, unreadable

_METADATA_KEY = b"shearbench"
_GROUP = 65536  # rows of a Parquet table that share a checksum
# A table may take so much memory whatever the size of its file, and beyond it so many times that size.
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
    except (*DAMAGED, MemoryError) as error:
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
