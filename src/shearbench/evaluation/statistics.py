"""Bootstrap errors, and means over the seeds of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

RESAMPLES = 400
_BLOCK = 4_000_000  # indices drawn at a time; bounds the memory


def bootstrap_means(
    values: NDArray[np.float64], resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """Return the column means of bootstrap resamples of the rows.

    Every statistic of this package is a function of means, so its bootstrap distribution is that function
    of these. All columns of a row are drawn together, and equal `seed` and number of rows draw equal
    rows: statistics of the same galaxies are compared on the same resamples.

    Parameters
    ----------
    values : ndarray, shape (n, k)
    resamples : int
    seed : int

    Returns
    -------
    ndarray, shape (resamples, k)

    Notes
    -----
    Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 6. The error of a mean found from 400
    resamples is itself uncertain by 1/sqrt(2 * 400) = 3.5 per cent.
    """
    n, k = values.shape
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, k))
    step = max(1, _BLOCK // max(n, 1))
    for low in range(0, resamples, step):
        high = min(low + step, resamples)
        drawn = rng.integers(0, n, (high - low, n))
        for column in range(k):
            means[low:high, column] = np.take(values[:, column], drawn).mean(axis=1)
    return means


def over_seeds(values: Sequence[float], errors: Sequence[float]) -> tuple[float, float]:
    """Return the mean over seeds and its error.

    Parameters
    ----------
    values, errors : sequence of float
        One result per seed and its bootstrap error. Seeds without a result (NaN) are left out.

    Returns
    -------
    mean, error : float
        The error is sqrt(s^2 / k + b^2): s the scatter of the k seeds, b the mean bootstrap error. Every
        seed is judged on the same galaxies, so b does not fall with k. With one seed there is only b.
    """
    value, error = np.asarray(values, float), np.asarray(errors, float)
    error = error[np.isfinite(value)]
    value = value[np.isfinite(value)]
    if value.size == 0:
        return float("nan"), float("nan")
    galaxies = error.mean()
    training = value.std(ddof=1) / np.sqrt(value.size) if value.size > 1 else 0.0
    return float(value.mean()), float(np.hypot(galaxies, training))


def combine_seeds(
    table: pd.DataFrame,
    keys: Sequence[str],
    with_error: Mapping[str, str],
    means: Sequence[str] = (),
    sums: Sequence[str] = (),
) -> pd.DataFrame:
    """Return one row for each combination of `keys`, its seeds combined.

    Parameters
    ----------
    table : pandas.DataFrame
        With a column ``seed``.
    keys : sequence of str
        What rows must agree in to be seeds of the same thing.
    with_error : mapping of str to str
        Columns to average, and the columns of their errors (see `over_seeds`).
    means, sums : sequence of str
        Columns to average, leaving NaN out, or to add up.

    Returns
    -------
    pandas.DataFrame
        `keys`, then ``n_seeds``, then the other columns; in the order in which `table` first has them.
    """
    rows = []
    for key, group in table.groupby(list(keys), sort=False, dropna=False):
        row: dict[str, object] = dict(zip(keys, key))
        row["n_seeds"] = group["seed"].nunique()
        for value, error in with_error.items():
            row[value], row[error] = over_seeds(group[value].tolist(), group[error].tolist())
        row.update({name: group[name].mean() for name in means})
        row.update({name: group[name].sum() for name in sums})
        rows.append(row)
    columns = [*keys, "n_seeds", *[c for pair in with_error.items() for c in pair], *means, *sums]
    return pd.DataFrame(rows, columns=columns)
