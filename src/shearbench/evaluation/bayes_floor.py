"""Errors of estimators over the Bayes floor, the least error that an estimator can have on average."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shearbench.errors import ContractError
from shearbench.evaluation.joining import identity, join
from shearbench.evaluation.statistics import RESAMPLES, bootstrap_means

BAYES_FLOOR = (
    "population noise estimator label kind seed n n_failed floor floor_err crb floor_over_crb "
    "floor_over_crb_err rmse rmse_err rmse_over_floor rmse_over_floor_err ess_median ess_least"
).split()
POSTERIOR_MEAN = "posterior-mean"
"""Name of the posterior mean in the column ``estimator``."""


def bayes_floor(
    posterior: pd.DataFrame,
    catalog: pd.DataFrame,
    bounds: pd.DataFrame,
    estimates: Iterable[tuple[pd.DataFrame, str | None]] = (),
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return the rows of ``metrics/bayes_floor.csv`` of a population.

    Parameters
    ----------
    posterior : pandas.DataFrame
        Table of `shearbench.bounds.bayes_floor.sample_posterior`.
    catalog, bounds : pandas.DataFrame
        Tables of the same galaxies; further galaxies are ignored.
    estimates : iterable of (pandas.DataFrame, str or None)
        Estimates of the population's galaxies, and the label of the estimator in figures.
    resamples, seed : int
        Number of resamples of the bootstrap over galaxies, and its random seed.

    Returns
    -------
    list of dict
        The columns `BAYES_FLOOR`, for the same n galaxies. ``floor`` is the root mean posterior variance of a
        component. It is the expected RMSE of the posterior mean; the expected RMSE of any estimator is at
        least as large. ``crb`` is the root mean variance bound. ``rmse`` is the measured RMSE of the
        posterior mean (estimator `POSTERIOR_MEAN`, without the error from the finite number of samples) or of
        an estimator. ``rmse_over_floor`` is that RMSE over the measured RMSE of the posterior mean, on the
        galaxies that the estimator did not flag. Both have the same noise, most of which cancels in the
        ratio. ``ess_median`` and ``ess_least`` are effective numbers of samples.

    Raises
    ------
    ContractError
        Galaxies are missing from the catalog, the bounds or the estimates.
    """
    rows: list[dict[str, Any]] = []
    population = catalog.attrs["population"]
    ids = pd.Index(posterior["galaxy_id"].unique())
    catalog, bounds = _only(catalog, ids, "catalog"), _only(bounds, ids, "bounds")
    truth = catalog[["g1", "g2"]].to_numpy(float)
    squares: dict[float, NDArray[np.float64]] = {}
    levels: dict[float, dict[str, Any]] = {}
    for noise in posterior["noise"].unique().tolist():
        level = _only(posterior[posterior["noise"] == noise], ids, "posterior")
        residual = level[["g1", "g2"]].to_numpy(float) - truth
        finite = level[["mc_g1", "mc_g2"]].to_numpy(float)
        squares[noise] = (residual**2 - finite**2).mean(axis=1)
        variance = (level[["sd_g1", "sd_g2"]].to_numpy(float) ** 2).mean(axis=1)
        bound = ((noise * bounds[["crb_g1", "crb_g2"]].to_numpy(float)) ** 2).mean(axis=1)
        drawn = bootstrap_means(np.column_stack([variance, bound, squares[noise]]), resamples, seed)
        levels[noise] = {
            "population": population,
            "noise": noise,
            "n": len(ids),
            "floor": np.sqrt(variance.mean()),
            "floor_err": np.sqrt(drawn[:, 0]).std(ddof=1),
            "crb": np.sqrt(bound.mean()),
            "floor_over_crb": np.sqrt(variance.mean() / bound.mean()),
            "floor_over_crb_err": np.sqrt(drawn[:, 0] / drawn[:, 1]).std(ddof=1),
            "ess_median": level["ess"].median(),
            "ess_least": level["ess"].min(),
        }
        rows.append(
            levels[noise]
            | {"estimator": POSTERIOR_MEAN, "label": "posterior mean", "kind": "bayes", "seed": -1}
            | {"n_failed": 0, "rmse_over_floor": 1.0, "rmse_over_floor_err": 0.0}
            | {"rmse": _root(squares[noise].mean()), "rmse_err": _root(drawn[:, 2]).std(ddof=1)}
        )
    for table, label in estimates:
        noise = float(table.attrs["sigma"])
        joined = join(_only(table, ids, "estimates"), catalog)
        good = joined.good
        row = levels[noise] | identity(table, label) | {"n_failed": int((~good).sum())}
        if good.any():
            square = (joined.residual[good] ** 2).mean(axis=1)
            least = squares[noise][good]
            drawn = bootstrap_means(np.column_stack([square, least]), resamples, seed)
            row |= {
                "rmse": np.sqrt(square.mean()),
                "rmse_err": np.sqrt(drawn[:, 0]).std(ddof=1),
                "rmse_over_floor": _root(square.mean() / least.mean()),
                "rmse_over_floor_err": _root(drawn[:, 0] / drawn[:, 1]).std(ddof=1),
            }
        rows.append(row)
    return rows


def bayes_floor_table(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Return rows of `bayes_floor` as the table ``metrics/bayes_floor.csv``."""
    return pd.DataFrame(list(rows), columns=BAYES_FLOOR)


def _only(table: pd.DataFrame, ids: pd.Index, source: str) -> pd.DataFrame:
    at = pd.Index(table["galaxy_id"]).get_indexer(ids)
    if (at < 0).any():
        missing = int((at < 0).sum())
        raise ContractError.of(
            source, "galaxy_id", f"{missing} missing", "all galaxies of the posterior", "measure"
        )
    chosen = table.iloc[at].reset_index(drop=True)
    chosen.attrs = dict(table.attrs)
    return chosen


def _root(value: Any) -> Any:
    """Return the square root; NaN if a mean square is negative, by chance or because of too few samples."""
    return np.sqrt(np.where(value >= 0, value, np.nan))[()]
