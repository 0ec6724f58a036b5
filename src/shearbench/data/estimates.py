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
    """Return shapes measured elsewhere as `measure_stamps` returns its own.

    Parameters
    ----------
    shapes : Shapes
        Of every stamp of the split, in order.
    stamp_set : StampSet
    sigma : float
        Noise per pixel.
    kind : str
        The estimator's kind.
    seconds : float
        Time spent measuring.
    """
    return labelled(shapes_table(shapes, len(stamp_set)), stamp_set, sigma, kind, seconds)


def labelled(
    table: pd.DataFrame, stamp_set: StampSet, sigma: float, kind: str, seconds: float
) -> pd.DataFrame:
    """Return a table of shapes with the identities of the stamps and the attributes of estimates."""
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
    """Write what `measure_stamps` returned.

    Parameters
    ----------
    path : path-like
    table : pandas.DataFrame
    estimator : str
        The estimator's (or network variant's) name in the configuration.
    seed : int, optional
        A network's seed; None for everything else.
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
        See `measure_stamps`; with the attributes ``estimator`` and ``seed``.

    Raises
    ------
    ContractError
        Damaged or of another origin, a column or attribute is missing, rows are missing or repeat, or an
        estimate that is flagged good cannot be: a shape that is no number or has |g| >= 1 (unless it is an
        ensemble estimator's), an error that is not positive.
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
        raise ContractError.of(path, "galaxy_id", "repeated numbers", "unique ones", rule)
    good = table["flag"] == 0
    for name in ("g1", "g2"):
        bad = int((~np.isfinite(table.loc[good, name])).sum())
        if bad:
            raise ContractError.of(path, name, f"{bad} values that are no numbers with flag 0", "none", rule)
    if "R11" not in table:  # else ellipticities, to be divided by a response
        bad = int((~(np.hypot(table.loc[good, "g1"], table.loc[good, "g2"]) < 1)).sum())
        if bad:
            raise ContractError.of(path, "g1, g2", f"{bad} shapes of |g| >= 1 with flag 0", "none", rule)
    for name in ("g1_err", "g2_err"):
        bad = int(impossible_error(table.loc[good, name]).sum())
        if bad:
            raise ContractError.of(path, name, f"{bad} errors that cannot be with flag 0", "none", rule)
    if not table.attrs["seconds"] >= 0:
        raise ContractError.of(path, "attribute 'seconds'", table.attrs["seconds"], "a time >= 0", rule)
    return table


def impossible_error(error: pd.Series) -> pd.Series:
    """Return where an error is zero, negative or infinite; NaN is that of an estimator that has none."""
    return (error <= 0) | np.isinf(error)


def shapes_table(shapes: Shapes, n: int) -> pd.DataFrame:
    """Return shapes as a table: the columns of estimates but ``galaxy_id``, and the extra ones.

    Raises
    ------
    ValueError
        An array has not one value for each of the `n` stamps.
    """
    columns: dict[str, Any] = {name: getattr(shapes, name) for name in COLUMNS[1:]}
    columns.update(shapes.extra)
    for name, values in columns.items():
        if np.shape(values) != (n,):
            raise ValueError(f"{name} has shape {np.shape(values)} for {n} stamps")
    table = pd.DataFrame(columns)
    table["flag"] = table["flag"].astype(np.int64)
    return table
