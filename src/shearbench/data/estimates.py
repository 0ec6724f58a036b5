"""Estimates: the shapes that an estimator returns, and the files that keep them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pandas as pd

from shearbench.data.shapes import Shapes
from shearbench.data.stamps import StampSet
from shearbench.errors import ContractError
from shearbench.files.origin import Origin
from shearbench.files.tables import read_table, write_table

RULE = "measure"
COLUMNS = ("galaxy_id", "g1", "g2", "g1_err", "g2_err", "flag")
_ATTRIBUTES = ("seconds", "n", "estimator", "population", "split", "sigma", "seed", "kind", "catalog_digest")


def estimates_table(
    shapes: Shapes, stamp_set: StampSet, sigma: float, kind: str, seconds: float
) -> pd.DataFrame:
    """Return a table of estimates, as `measure_stamps` does, of shapes that were measured elsewhere.

    Parameters
    ----------
    shapes : Shapes
        Shapes of all stamps of the split, in order.
    stamp_set : StampSet
    sigma : float
        Noise per pixel.
    kind : str
        The estimator's kind.
    seconds : float
        Time spent measuring.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    ValueError
        An array does not have one value for each stamp.
    """
    return labelled(shapes_table(shapes, len(stamp_set)), stamp_set, sigma, kind, seconds)


def labelled(
    table: pd.DataFrame, stamp_set: StampSet, sigma: float, kind: str, seconds: float
) -> pd.DataFrame:
    """Add the column ``galaxy_id`` and the attributes of estimates to a table of shapes, and return it.

    Parameters
    ----------
    table : pandas.DataFrame
        From `shapes_table`, of the first stamps of the split; changed in place.
    stamp_set : StampSet
    sigma : float
        Noise per pixel.
    kind : str
        The estimator's kind.
    seconds : float
        Time spent measuring.
    """
    table.insert(0, "galaxy_id", stamp_set.galaxy_id[: len(table)])
    table.attrs = {
        "seconds": seconds,
        "n": len(table),
        "kind": kind,
        "population": stamp_set.population,
        "split": stamp_set.split,
        "sigma": float(sigma),
        "catalog_digest": stamp_set.catalog_digest,
    }
    return table


def write_estimates(
    path: str | os.PathLike[str],
    table: pd.DataFrame,
    estimator: str,
    seed: int | None = None,
    origin: Origin | None = None,
) -> None:
    """Write a table of estimates, such as `measure_stamps` returns.

    Parameters
    ----------
    path : path-like
    table : pandas.DataFrame
    estimator : str
        Name of the estimator or network variant in the configuration.
    seed : int, optional
        Seed of a network's training; None for other estimators.
    origin : Origin, optional
        The origin to store with the file.
    """
    attributes = {str(name): value for name, value in table.attrs.items()}
    write_table(path, table, attributes | {"estimator": estimator, "seed": seed}, origin)


def read_estimates(path: str | os.PathLike[str], expected: Origin | None = None) -> pd.DataFrame:
    """Read estimates and check them.

    Parameters
    ----------
    path : path-like
    expected : Origin, optional
        The origin that the file must carry.

    Returns
    -------
    pandas.DataFrame
        As from `measure_stamps`, with the attributes ``estimator`` and ``seed`` added.

    Raises
    ------
    ContractError
        The file is damaged or has another origin, a column or attribute is missing, rows are missing or
        repeated, or an estimate with flag 0 is impossible: a shape that is not finite or has |g| >= 1
        (allowed for estimators with an ensemble response), or an error that is zero, negative or infinite.
    """
    table = read_table(path, COLUMNS, RULE, expected=expected)
    rule = expected.rule if expected else "predict" if table.attrs.get("kind") == "network" else RULE
    for name in _ATTRIBUTES:
        if name not in table.attrs:
            found = ", ".join(map(str, table.attrs))
            raise ContractError.of(path, f"attribute '{name}'", f"only {found}", "the attribute", rule)
    for name in COLUMNS:
        if not pd.api.types.is_numeric_dtype(table[name]):
            raise ContractError.of(path, name, f"type {table[name].dtype}", "numbers", rule)
    if len(table) != table.attrs["n"]:
        raise ContractError.of(path, "rows", len(table), table.attrs["n"], rule)
    if not table["galaxy_id"].is_unique:
        raise ContractError.of(path, "galaxy_id", "repeated numbers", "unique numbers", rule)
    good = table["flag"] == 0
    for name in ("g1", "g2"):
        bad = int((~np.isfinite(table.loc[good, name])).sum())
        if bad:
            found = f"{bad} values with flag 0 that are not finite"
            raise ContractError.of(path, name, found, "finite values", rule)
    if "R11" not in table:  # with R11, g1 and g2 are ellipticities, to be divided by a mean response
        bad = int((~(np.hypot(table.loc[good, "g1"], table.loc[good, "g2"]) < 1)).sum())
        if bad:
            raise ContractError.of(path, "g1, g2", f"{bad} shapes with flag 0 and |g| >= 1", "|g| < 1", rule)
    for name in ("g1_err", "g2_err"):
        bad = int(impossible_error(table.loc[good, name]).sum())
        if bad:
            found = f"{bad} errors with flag 0 that are zero, negative or infinite"
            raise ContractError.of(path, name, found, "positive errors, or NaN", rule)
    if not table.attrs["seconds"] >= 0:
        raise ContractError.of(path, "attribute 'seconds'", table.attrs["seconds"], "a time >= 0", rule)
    return table


def impossible_error(error: pd.Series) -> pd.Series:
    """Return where an error is zero, negative or infinite; NaN is allowed, for estimators without errors."""
    return (error <= 0) | np.isinf(error)


def shapes_table(shapes: Shapes, n: int) -> pd.DataFrame:
    """Return shapes as a table with the columns of estimates, without ``galaxy_id``, and the extra columns.

    Parameters
    ----------
    shapes : Shapes
    n : int
        Number of stamps.

    Returns
    -------
    pandas.DataFrame
        One row for each stamp.

    Raises
    ------
    ValueError
        An array does not have one value for each stamp.
    """
    columns: dict[str, Any] = {name: getattr(shapes, name) for name in COLUMNS[1:]}
    columns.update(shapes.extra)
    for name, values in columns.items():
        if np.shape(values) != (n,):
            raise ValueError(f"{name} has shape {np.shape(values)} for {n} stamps")
    table = pd.DataFrame(columns)
    table["flag"] = table["flag"].astype(np.int64)
    return table
