"""Catalogs: their columns, and the functions that read and check their files."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pandas as pd

from shearbench.errors import ContractError
from shearbench.files.origin import Origin
from shearbench.files.tables import read_table, require_possible

RULE = "sample_catalog"
COLUMNS = (
    "galaxy_id noise_id pair_id rotation shear1 shear2 e1 e2 g1 g2 hlr flux sersic_n profile dx dy "
    "psf_fwhm psf_g1 psf_g2"
).split()
PARAMETER_COLUMNS = {
    "flux": "flux",
    "x": "dx",
    "y": "dy",
    "hlr": "hlr",
    "g1": "g1",
    "g2": "g2",
    "n": "sersic_n",
}
"""The catalog column of each parameter of a galaxy's model."""


def read_catalog(path: str | os.PathLike[str], expected: Origin | None = None) -> pd.DataFrame:
    """Read a catalog and check it.

    Parameters
    ----------
    path : path-like
    expected : Origin, optional
        The origin that the file must carry.

    Returns
    -------
    pandas.DataFrame
        Columns `COLUMNS` and others (`shearbench.simulation.catalog.sample_catalog`); attributes
        ``population, split, psf, digest``.

    Raises
    ------
    ContractError
        The file is damaged or has another origin, a column or attribute is missing, a ``galaxy_id`` appears
        twice, the rows changed since they were written, or a galaxy has impossible parameters.
    """
    attributes = ("population", "split", "psf", "digest")
    table = read_table(path, COLUMNS, RULE, expected=expected, attributes=attributes)
    if not table["galaxy_id"].is_unique:
        raise ContractError.of(path, "galaxy_id", "repeated numbers", "unique numbers", RULE)
    if content_digest(table) != table.attrs["digest"]:
        raise ContractError.of(path, "rows", "values that changed", "the values that were written", RULE)
    _check_plausible(path, table)
    return table


def read_catalog_rows(
    path: str | os.PathLike[str], start: int, stop: int, expected: Origin | None = None
) -> pd.DataFrame:
    """Read rows `start` to `stop` of a catalog, without keeping the others in memory.

    Parameters
    ----------
    path : path-like
    start, stop : int
        The first row, and the row after the last one.
    expected : Origin, optional
        The origin that the file must carry.

    Returns
    -------
    pandas.DataFrame
        As from `read_catalog`. The digest is not checked, because that takes all rows.

    Raises
    ------
    ContractError
        As for `read_catalog`, of the rows read.
    """
    table = read_table(path, COLUMNS, RULE, (start, stop), expected)
    _check_plausible(path, table)
    return table


def _check_plausible(path: str | os.PathLike[str], table: pd.DataFrame) -> None:
    """Refuse galaxies with impossible shapes, sizes, fluxes or positions."""
    good = {
        ("e1, e2", "|e| < 1"): np.hypot(table["e1"], table["e2"]) < 1,
        ("g1, g2", "|g| < 1"): np.hypot(table["g1"], table["g2"]) < 1,
        ("hlr", "a finite size > 0"): (table["hlr"] > 0) & np.isfinite(table["hlr"]),
        ("flux", "a finite flux > 0"): (table["flux"] > 0) & np.isfinite(table["flux"]),
        ("dx, dy", "finite offsets"): np.isfinite(table["dx"] + table["dy"]),
    }
    require_possible(path, table, good, RULE)


def content_digest(table: pd.DataFrame) -> str:
    """Return a digest of a catalog's values; the files of its stamps carry it too."""
    sha = hashlib.sha256()
    for column in sorted(table.columns):
        values = table[column].to_numpy()
        sha.update(column.encode())
        sha.update("\n".join(map(str, values)).encode() if values.dtype == object else values.tobytes())
    return sha.hexdigest()[:16]
