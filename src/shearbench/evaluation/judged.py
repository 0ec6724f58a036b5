"""Networks on another population than they were trained on, beside those that were trained on it.

A network meets galaxies and PSFs that it has not seen: it is out of distribution. Its shear is calibrated by
the response that it has on its own population, as a survey would calibrate it with simulations that differ
from the sky.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shearbench.evaluation.accuracy import accuracy
from shearbench.evaluation.joining import join
from shearbench.evaluation.shear_bias import shear_bias
from shearbench.evaluation.statistics import RESAMPLES, bootstrapped

_ACCURACY = "n n_failed rmse rmse_err rmse_over_crb rmse_over_crb_err".split()
_BIASES = "m1 m1_err m2 m2_err c1 c1_err c2 c2_err".split()
JUDGED = [
    *"trained_on population out_of_distribution noise estimator label kind seed".split(),
    *_ACCURACY,
    *"over_own over_own_err n_pairs".split(),
    *_BIASES,
]


def judged(
    estimates: pd.DataFrame,
    sheared: pd.DataFrame,
    own: pd.DataFrame,
    catalog: pd.DataFrame,
    sheared_catalog: pd.DataFrame,
    bounds: pd.DataFrame,
    biases: pd.DataFrame,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the row of ``metrics/judged.csv`` of a network that was trained on another population.

    Parameters
    ----------
    estimates, sheared : pandas.DataFrame
        Its estimates of the splits ``test`` and ``shear``, with the attribute ``trained_on``.
    own : pandas.DataFrame
        Estimates of the same test stamps by the same network, trained on this population with the same seed.
    catalog, sheared_catalog, bounds : pandas.DataFrame
        Catalogs of the two splits, and bounds of the test galaxies.
    biases : pandas.DataFrame
        ``metrics/shear_bias.csv``.
    resamples, seed : int
        Number of resamples of the bootstrap over galaxies, and its random seed.

    Returns
    -------
    dict
        The columns `JUDGED`. ``over_own`` is the RMSE over that of the network trained on this population, on
        the galaxies that both measure; numerator and denominator are resampled together. m and c are those of
        the shear calibrated by the response on the population ``trained_on``: m is R / R_trained - 1, and the
        errors are those of both responses. ``out_of_distribution`` is 1.

    Raises
    ------
    ContractError
        Tables have different galaxies.
    """
    trained_on = str(estimates.attrs["trained_on"])
    label = _label(biases, estimates)
    found = accuracy(estimates, catalog, bounds, label=label, resamples=resamples, seed=seed)
    row = {name: value for name, value in found.items() if name in JUDGED}
    row |= {"trained_on": trained_on, "out_of_distribution": 1}
    squares = [_squares(table, catalog) for table in (estimates, own)]
    both = np.isfinite(squares).all(axis=0)
    ratio, error = bootstrapped(
        np.column_stack(squares)[both], lambda m: np.sqrt(m[..., :1] / m[..., 1:]), resamples, seed
    )
    row |= {"over_own": float(ratio[0]), "over_own_err": float(error[0])}
    plain = shear_bias(sheared, sheared_catalog, resamples=resamples, seed=seed)[0]
    row["n_pairs"] = plain["n_pairs"]
    home = _row_of(biases, {**row, "population": trained_on}, "none")
    for k in "12":
        response, response_error = home.get(f"R{k}", np.nan), home.get(f"m{k}_err", np.nan)
        relative = plain[f"R{k}"] / response
        row[f"m{k}"] = relative - 1
        row[f"m{k}_err"] = np.hypot(plain[f"m{k}_err"], relative * response_error) / abs(response)
        row[f"c{k}"], row[f"c{k}_err"] = plain[f"c{k}"] / response, plain[f"c{k}_err"] / abs(response)
    return {name: row.get(name, np.nan) for name in JUDGED}


def at_home(
    own: pd.DataFrame,
    catalog: pd.DataFrame,
    bounds: pd.DataFrame,
    biases: pd.DataFrame,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the row of a network on the population that it was trained on, for comparison.

    m and c are those of ``metrics/shear_bias.csv`` after calibration, ``over_own`` is 1 and
    ``out_of_distribution`` 0; parameters are those of `judged`.
    """
    label = _label(biases, own)
    found = accuracy(own, catalog, bounds, label=label, resamples=resamples, seed=seed)
    row = {name: value for name, value in found.items() if name in JUDGED}
    row |= {"trained_on": row["population"], "out_of_distribution": 0, "over_own": 1.0, "over_own_err": 0.0}
    calibrated = _row_of(biases, row, "response")
    row |= {name: calibrated.get(name, np.nan) for name in ("n_pairs", *_BIASES)}
    return {name: row.get(name, np.nan) for name in JUDGED}


def judged_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of `judged` and `at_home` as the table ``metrics/judged.csv``."""
    return pd.DataFrame(list(rows), columns=JUDGED)


def _squares(estimates: pd.DataFrame, catalog: pd.DataFrame) -> NDArray[np.float64]:
    """Return the mean squared error of each galaxy, NaN where it is flagged."""
    rows = join(estimates, catalog, rule="predict")
    return np.where(rows.good, (rows.residual**2).mean(axis=1), np.nan)


def _row_of(biases: pd.DataFrame, who: Mapping[str, Any], calibration: str) -> dict[str, Any]:
    """Return the row of shear bias of a population, noise level, network and seed; empty if there is none."""
    chosen = biases[biases["calibration"] == calibration]
    for name in ("population", "noise", "estimator", "seed"):
        chosen = chosen[chosen[name] == who[name]]
    return {str(name): value for name, value in chosen.iloc[0].items()} if len(chosen) else {}


def _label(biases: pd.DataFrame, estimates: pd.DataFrame) -> str | None:
    """Return the label of a network in the table of shear bias, or None if it is not in the table."""
    labels = biases.loc[biases["estimator"] == estimates.attrs["estimator"], "label"]
    return str(labels.iloc[0]) if len(labels) else None
