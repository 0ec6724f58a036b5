"""Residuals of single galaxies, and their dependence on the properties of the galaxies."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shearbench.evaluation.joining import Joined, identity, join

RESIDUALS = (
    "population noise estimator label kind seed galaxy_id g1 g2 g1_est g2_est flag hlr flux dx dy sersic_n "
    "crb_g1 crb_g2"
).split()
TRENDS = (
    "population noise estimator label kind seed property low high centre n bias bias_err rmse rmse_err crb"
).split()
PROPERTIES = ("hlr", "flux", "g", "centroid", "sersic_n")


def residuals(
    estimates: pd.DataFrame,
    catalog: pd.DataFrame,
    bounds: pd.DataFrame,
    *,
    label: str | None = None,
    limit: int = 2000,
    source: str = "estimates",
    rule: str = "measure",
) -> pd.DataFrame:
    """Return truth and estimate of the first galaxies of the catalog, with the flagged ones.

    Parameters
    ----------
    estimates, catalog, bounds : pandas.DataFrame
        Of the same galaxies.
    label : str, optional
    limit : int
        Largest number of galaxies; they are the same for every estimator.
    source, rule : str
        File of the estimates and the rule that makes it, named in errors.

    Returns
    -------
    pandas.DataFrame
        The columns `RESIDUALS`. The bounds ``crb_g1, crb_g2`` are for the noise level of the estimates.

    Raises
    ------
    ContractError
        The tables are not of the same galaxies.
    """
    rows = join(estimates, catalog, bounds, source=source, rule=rule)
    table = rows.catalog[["galaxy_id", "g1", "g2", "hlr", "flux", "dx", "dy", "sersic_n"]].reset_index(
        drop=True
    )
    table = table.assign(
        g1_est=rows.estimate[:, 0],
        g2_est=rows.estimate[:, 1],
        flag=rows.estimates["flag"].to_numpy(),
        crb_g1=rows.bound[:, 0],
        crb_g2=rows.bound[:, 1],
        **identity(estimates, label),
    )
    table.attrs = {}
    return table.loc[: limit - 1, RESIDUALS]


def trends(
    estimates: pd.DataFrame,
    catalog: pd.DataFrame,
    bounds: pd.DataFrame,
    *,
    label: str | None = None,
    bins: int = 8,
    source: str = "estimates",
    rule: str = "measure",
) -> pd.DataFrame:
    """Return bias and rms residual of the good rows in bins of galaxy properties.

    Parameters
    ----------
    estimates, catalog, bounds : pandas.DataFrame
        Of the same galaxies.
    label : str, optional
    bins : int
        Number of bins per property. They have equal numbers of the catalog's galaxies and are the same for
        every estimator.
    source, rule : str
        File of the estimates and the rule that makes it, named in errors.

    Returns
    -------
    pandas.DataFrame
        The columns `TRENDS`, one row per property and bin with at least two good galaxies; there are no rows
        for a property that does not vary. ``property`` is hlr [arcsec], flux, g (the true |g|), centroid
        (distance from the centre of the stamp [arcsec]) or sersic_n; ``centre`` is its mean in the bin.
        ``bias`` is the mean component of the residual along the true shape; it is positive if galaxies are
        measured too elongated. (The mean residual of g1 or g2 would vanish over random position angles even
        if |g| is biased.) ``rmse`` and ``crb`` are per component, as in the accuracy table.

    Raises
    ------
    ContractError
        The tables are not of the same galaxies.
    """
    rows = join(estimates, catalog, bounds, source=source, rule=rule)
    who = identity(estimates, label)
    found = []
    for name in PROPERTIES:
        values = _property(rows, name)
        edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1))) if len(values) else np.empty(0)
        if len(edges) < 2:
            continue
        # the last bin includes its upper edge
        index = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
        for i, (low, high) in enumerate(pairwise(edges)):
            inside = rows.good & (index == i)
            if inside.sum() >= 2:
                ends = {"property": name, "low": float(low), "high": float(high)}
                found.append(
                    who | ends | {"centre": float(values[inside].mean())} | _statistics(rows, inside)
                )
    return pd.DataFrame(found, columns=TRENDS)


def together(tables: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """Concatenate tables; if there is none, return an empty table with these columns."""
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(columns))


def _property(rows: Joined, name: str) -> NDArray[np.float64]:
    if name == "g":
        return np.hypot(rows.truth[:, 0], rows.truth[:, 1])
    if name == "centroid":
        return np.hypot(rows.catalog["dx"].to_numpy(float), rows.catalog["dy"].to_numpy(float))
    return rows.catalog[name].to_numpy(float)


def _statistics(rows: Joined, inside: NDArray[np.bool_]) -> dict[str, float]:
    residual, truth = rows.residual[inside], rows.truth[inside]
    n = len(residual)
    size = np.hypot(truth[:, 0], truth[:, 1])
    along = np.divide((residual * truth).sum(axis=1), size, out=np.zeros(n), where=size > 0)
    square = (residual**2).mean(axis=1)
    rmse = float(np.sqrt(square.mean()))
    return {
        "n": n,
        "bias": float(along.mean()),
        "bias_err": float(along.std(ddof=1) / np.sqrt(n)),
        "rmse": rmse,
        # d sqrt(x) = dx / (2 sqrt(x)), with the standard error of the mean square
        "rmse_err": float(square.std(ddof=1) / np.sqrt(n) / (2 * rmse)) if rmse > 0 else 0.0,
        "crb": float(np.sqrt((rows.bound[inside] ** 2).mean())),
    }
