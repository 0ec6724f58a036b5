"""Tables of galaxies from users: a number per row in each of the columns that a configuration names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shearbench.errors import ConfigError, nearest

_FORMATS = {".fits": "fits", ".fit": "fits", ".parquet": "parquet", ".csv": "ascii.csv"}


def read_galaxy_table(
    key: str, path: str | os.PathLike[str], columns: Mapping[str, str]
) -> dict[str, NDArray[np.float64]]:
    """Read columns of numbers of a table, with astropy.

    Parameters
    ----------
    key : str
        Key of the population in the configuration, for error messages.
    path : path-like
        A FITS, Parquet or CSV file; a FITS or CSV file may be compressed by gzip.
    columns : mapping of str to str
        Names of columns by those of the options that give them.

    Returns
    -------
    dict of str to ndarray of float64, shape (n,)
        The columns by the names of the options; NaN where the table has no value.

    Raises
    ------
    ConfigError
        The file cannot be read, a column is missing, or it has something else than a number in each row.
    """
    from astropy.table import Table

    path = os.fspath(path)
    suffix = os.path.splitext(path.removesuffix(".gz"))[1].lower()
    if suffix not in _FORMATS:
        raise ConfigError(
            f"{key}.catalogue_file: {path} has the suffix '{suffix}', expected one of {', '.join(_FORMATS)}"
        )
    try:
        table = Table.read(path, format=_FORMATS[suffix])
    except Exception as error:  # readers raise errors of many kinds
        raise ConfigError(
            f"{key}.catalogue_file: {path} is no {suffix[1:]} table that astropy reads ({error})"
        ) from error
    found = {}
    for option, name in columns.items():
        at = f"{key}.catalogue_columns.{option}"
        if name not in table.colnames:
            raise ConfigError(
                f"{at}: {path} has no column '{name}'{nearest(name, table.colnames)}; its columns are "
                f"{', '.join(table.colnames)}"
            )
        found[option] = _numbers(at, path, name, table[name])
    return found


def _numbers(at: str, path: str, name: str, column: Any) -> NDArray[np.float64]:
    values = np.ma.asarray(column)
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        raise ConfigError(
            f"{at}: the column '{name}' of {path} has values of type {values.dtype} and shape "
            f"{values.shape[1:]}, expected one number in each row"
        )
    return np.asarray(np.ma.filled(values.astype(np.float64), np.nan))
