"""Errors of single shapes, in units of g and of the Cramer-Rao bound."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shearbench.evaluation.joining import identity, join
from shearbench.evaluation.statistics import RESAMPLES, bootstrap_means

ACCURACY = (
    "population noise estimator label kind seed n n_failed snr bias_g1 bias_g2 slope_g1 slope_g2 "
    "scatter rmse rmse_err median_abs crb crb_median prior_bound rmse_over_crb rmse_over_crb_err coverage68 "
    "seconds_per_stamp"
).split()


def accuracy(
    estimates: pd.DataFrame,
    catalog: pd.DataFrame,
    bounds: pd.DataFrame,
    prior_bound: NDArray[np.float64] | None = None,
    *,
    label: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    source: str = "estimates",
    rule: str = "measure",
) -> dict[str, Any]:
    """Return the row of ``metrics/accuracy.csv`` of one estimator at one noise level.

    Parameters
    ----------
    estimates, catalog, bounds : pandas.DataFrame
        Tables of the same galaxies, in any order.
    prior_bound : ndarray, shape (n, 2), optional
        Prior-limited standard deviation of (g1, g2) at this noise level, rows as in `bounds`.
    label : str, optional
        Label of the estimator in figures; its name by default.
    resamples, seed : int
        Number of resamples of the bootstrap over galaxies, and its random seed.
    source, rule : str
        File of the estimates and the rule that makes it, named in errors.

    Returns
    -------
    dict
        The columns `ACCURACY`. They are computed per component from the residual, estimate minus truth, of
        the good (unflagged) rows. ``bias`` is the mean residual. ``slope`` is the least-squares slope of the
        estimate against the truth, minus 1. ``scatter`` is the rms residual after offset and slope are
        subtracted. ``rmse`` is the rms residual, averaged in quadrature over g1 and g2. ``median_abs`` is
        1.4826 times the median |residual|. ``crb`` and ``prior_bound`` are root mean variance bounds of the
        same galaxies, ``crb_median`` is the median bound. ``coverage68`` is the fraction of |residual|
        smaller than the error that the estimator gives. For ``rmse_over_crb_err``, numerator and denominator
        are resampled together. A value that cannot be computed is NaN. ``n_failed`` counts flagged rows.

    Raises
    ------
    ContractError
        The tables have different galaxies (see `shearbench.evaluation.joining.join`).
    """
    rows = join(estimates, catalog, bounds, source=source, rule=rule)
    good = rows.good
    row = identity(estimates, label) | {
        "n": len(good),
        "n_failed": int((~good).sum()),
        "snr": float(np.median(rows.snr)) if len(good) else np.nan,
        "seconds_per_stamp": float(estimates.attrs["seconds"]) / max(len(good), 1),
    }
    if not good.any():
        return {name: row.get(name, np.nan) for name in ACCURACY}
    residual, truth = rows.residual[good], rows.truth[good]
    bias = residual.mean(axis=0)
    centred = truth - truth.mean(axis=0)
    spread = (centred**2).sum(axis=0)
    slope = np.divide((centred * residual).sum(axis=0), spread, out=np.full(2, np.nan), where=spread > 0)
    variance = (rows.bound[good] ** 2).mean(axis=1)
    square = (residual**2).mean(axis=1)
    drawn = bootstrap_means(np.column_stack([square, variance]), resamples, seed)
    error = rows.error[good]
    stated = np.isfinite(error)
    row |= {
        "bias_g1": bias[0],
        "bias_g2": bias[1],
        "slope_g1": slope[0],
        "slope_g2": slope[1],
        "scatter": np.sqrt(np.mean((residual - bias - np.nan_to_num(slope) * centred) ** 2)),
        "rmse": np.sqrt(square.mean()),
        "rmse_err": np.sqrt(drawn[:, 0]).std(ddof=1),
        "median_abs": 1.4826 * np.median(np.abs(residual)),
        "crb": np.sqrt(variance.mean()),
        "crb_median": np.median(rows.bound[good]),
        "rmse_over_crb": np.sqrt(square.mean() / variance.mean()),
        "rmse_over_crb_err": np.sqrt(drawn[:, 0] / drawn[:, 1]).std(ddof=1),
        "coverage68": np.mean(np.abs(residual)[stated] < error[stated]) if stated.any() else np.nan,
    }
    if prior_bound is not None:
        order = pd.Index(bounds["galaxy_id"]).get_indexer(pd.Index(catalog["galaxy_id"]))
        row["prior_bound"] = np.sqrt(np.mean(np.asarray(prior_bound, float)[order][good] ** 2))
    return {name: _plain(row.get(name, np.nan)) for name in ACCURACY}


def resampled_ratios(
    estimates: pd.DataFrame,
    catalog: pd.DataFrame,
    bounds: pd.DataFrame,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    source: str = "estimates",
    rule: str = "measure",
) -> NDArray[np.float64]:
    """Return ``rmse_over_crb`` on resamples of the galaxies, which are the same for all estimators.

    Parameters
    ----------
    estimates, catalog, bounds, resamples, seed, source, rule
        As for `accuracy`.

    Returns
    -------
    ndarray, shape (resamples,)
        Flagged galaxies are left out of the estimator's ratio; NaN where all of a resample are flagged.

    Raises
    ------
    ContractError
        As for `accuracy`.
    """
    rows = join(estimates, catalog, bounds, source=source, rule=rule)
    square = np.where(rows.good, (np.nan_to_num(rows.residual) ** 2).mean(axis=1), 0.0)
    variance = np.where(rows.good, (rows.bound**2).mean(axis=1), 0.0)
    drawn = bootstrap_means(np.column_stack([square, variance]), resamples, seed)
    with np.errstate(invalid="ignore"):
        return np.sqrt(drawn[:, 0] / drawn[:, 1])


def accuracy_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of `accuracy` as the table ``metrics/accuracy.csv``."""
    return pd.DataFrame(list(rows), columns=ACCURACY)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
