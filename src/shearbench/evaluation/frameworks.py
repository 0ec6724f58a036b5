"""One small network in several frameworks: accuracy and cost in one table, and the errors of arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from shearbench.errors import ShearbenchError
from shearbench.evaluation.joining import Joined
from shearbench.evaluation.statistics import RESAMPLES, bootstrap_means

_FROM_ACCURACY = (
    "population noise estimator label seed n n_failed rmse rmse_err crb rmse_over_crb rmse_over_crb_err "
    "seconds_per_stamp"
).split()
_FROM_TRAINING = "loss train_seconds compile_seconds memory_mb parameters batches".split()

FRAMEWORKS = (*_FROM_ACCURACY, *_FROM_TRAINING)
"""Columns of ``metrics/frameworks.csv``."""

PRECISION = (
    "population noise precision n rmse difference difference_err crb noise_of_floor noise_of_floor_err"
).split()
"""Columns of ``metrics/frameworks_precision.csv``."""


def frameworks_table(
    accuracy: pd.DataFrame,
    histories: Iterable[tuple[str, str, int, pd.DataFrame]],
    checkpoints: Sequence[str] = (),
) -> pd.DataFrame:
    """Return ``metrics/frameworks.csv``: the accuracy of each network at each noise level, and its cost.

    Parameters
    ----------
    accuracy : pandas.DataFrame
        ``metrics/accuracy.csv``.
    histories : iterable of (str, str, int, pandas.DataFrame)
        Population, network, seed and the history of its training (`shearbench.frameworks.train.train`).
    checkpoints : sequence of str
        Networks that were trained elsewhere, whose cost is not known.

    Returns
    -------
    pandas.DataFrame
        The columns `FRAMEWORKS`; ``loss`` is that of the last epoch.

    Raises
    ------
    ShearbenchError
        Networks of one population and seed were trained with different batches, so that they cannot be
        compared.
    """
    ends = [
        {"population": population, "estimator": name, "seed": seed, **history.iloc[-1][_FROM_TRAINING]}
        for population, name, seed, history in histories
    ]
    costs = pd.DataFrame(ends, columns=["population", "estimator", "seed", *_FROM_TRAINING])
    for (population, seed), group in costs.groupby(["population", "seed"]):
        if group["batches"].nunique() > 1:
            found = ", ".join(f"{one.estimator}: {one.batches}" for one in group.itertuples())
            raise ShearbenchError(
                f"the networks of population {population} and seed {seed} were trained with different "
                f"batches ({found}); the versions of NumPy of their environments may differ"
            )
    chosen = accuracy[accuracy["estimator"].isin([*costs["estimator"], *checkpoints])]
    keys = ["population", "estimator", "seed"]
    return chosen[_FROM_ACCURACY].merge(costs, on=keys, how="left")[list(FRAMEWORKS)]


def precision_row(
    rows: Joined, exact: Joined, about: Mapping[str, Any], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Return the row of ``metrics/frameworks_precision.csv`` of one arithmetic at one noise level.

    Parameters
    ----------
    rows, exact : Joined
        Shapes of the same galaxies by the same network: in this arithmetic, and in float64.
    about : mapping
        ``population``, ``noise`` and ``precision``.
    resamples, seed : int
        Number of resamples of the bootstrap over galaxies, and its random seed.

    Returns
    -------
    dict
        The columns `PRECISION`, of the galaxies that are good in both. ``difference`` is the rms difference
        from float64, per component of g. ``noise_of_floor`` is the noise per pixel at which the Cramer-Rao
        bound, which is proportional to the noise, is as large as this difference: with less noise, no
        network of this arithmetic and of these rounding errors reaches the bound.
    """
    good = rows.good & exact.good
    square = ((rows.estimate - exact.estimate)[good] ** 2).mean(axis=1)
    variance = (rows.bound[good] ** 2).mean(axis=1)
    drawn = np.sqrt(bootstrap_means(np.column_stack([square, variance]), resamples, seed))
    difference, crb = np.sqrt(square.mean()), np.sqrt(variance.mean())
    return dict(about) | {
        "n": int(good.sum()),
        "rmse": float(np.sqrt((rows.residual[good] ** 2).mean())),
        "difference": float(difference),
        "difference_err": float(drawn[:, 0].std(ddof=1)),
        "crb": float(crb),
        "noise_of_floor": float(about["noise"] * difference / crb),
        "noise_of_floor_err": float((about["noise"] * drawn[:, 0] / drawn[:, 1]).std(ddof=1)),
    }


def precision_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of `precision_row` as the table ``metrics/frameworks_precision.csv``."""
    return pd.DataFrame(list(rows), columns=PRECISION)
