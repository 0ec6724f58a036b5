"""Bootstrap errors, regression on known parameters, and means over training seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

RESAMPLES = 400
_BLOCK = 4_000_000  # indices drawn at a time, to limit the memory


def bootstrap_means(
    values: NDArray[np.float64], resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """Return the column means of bootstrap resamples of the rows.

    Every statistic of this package is a function of means. Its bootstrap distribution is that function of the
    resampled means. All columns of a row are drawn together. Calls with the same `seed` and number of rows
    draw the same rows, so statistics of the same galaxies are compared on the same resamples.

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
    Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 6. An error from 400 resamples is itself
    uncertain by 1/sqrt(2 * 400) = 3.5 per cent.
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


def bootstrapped(
    columns: NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a statistic of the means of columns, and its bootstrap error; NaN for fewer than two rows.

    Parameters
    ----------
    columns : ndarray, shape (n, k)
        Numbers of each galaxy.
    statistic : callable
        Function of means (..., k) that returns (..., s).
    resamples, seed : int
        See `bootstrap_means`.

    Returns
    -------
    value, error : ndarray, shape (s,)
    """
    if len(columns) < 2:
        nothing = np.full_like(statistic(np.full(columns.shape[1], np.nan)), np.nan)
        return nothing, nothing.copy()
    drawn = statistic(bootstrap_means(columns, resamples, seed))
    return statistic(columns.mean(axis=0)), drawn.std(axis=0, ddof=1)


def polynomials(variables: NDArray[np.float64], most: int, degree: int = 4) -> NDArray[np.float64]:
    """Return products of Legendre polynomials of the variables, without the constant.

    Parameters
    ----------
    variables : ndarray, shape (n, k)
        Each variable is scaled to its range; a constant variable is omitted.
    most : int
        Largest number of terms, with the constant. It determines the total degree.
    degree : int
        Largest total degree.

    Returns
    -------
    ndarray, shape (n, terms)
        There are no terms if `most` is too small for the first degree.
    """
    low, high = variables.min(axis=0, initial=np.inf), variables.max(axis=0, initial=-np.inf)
    kept = high > low
    scaled = 2 * (variables - low)[:, kept] / (high - low)[kept] - 1
    count = int(kept.sum())
    degree = max((d for d in range(degree + 1) if math.comb(count + d, d) <= most), default=0)
    powers = [np.polynomial.legendre.legvander(column, degree) for column in scaled.T]
    terms = [
        np.prod([power[:, order] for power, order in zip(powers, orders)], axis=0)
        for orders in itertools.product(range(degree + 1), repeat=count)
        if 0 < sum(orders) <= degree
    ]
    return np.column_stack(terms) if terms else np.empty((len(variables), 0))


def at_composition(
    values: NDArray[np.float64], terms: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Correct values to a sample in which each term is zero on average.

    This is the regression estimator of survey sampling (Cochran 1977, Sampling Techniques, ch. 7): a
    least-squares fit of the values by the terms is subtracted, except for its constant.

    Parameters
    ----------
    values : ndarray, shape (n, k)
    terms : ndarray, shape (n, p)
        Terms minus their mean over the sample that the values are corrected to.

    Returns
    -------
    values : ndarray, shape (n, k)
        Corrected values.
    inflation : float
        Factor sqrt((n + p) / (n - p)) on the errors of the means: the fit of p coefficients makes residuals
        too small and adds the noise of the coefficients.
    """
    n, p = terms.shape
    if p == 0 or n <= p + 1:
        return values, 1.0
    design = np.column_stack([np.ones(n), terms])
    coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
    return values - terms @ coefficients[1:], float(np.sqrt((n + p) / (n - p)))


def over_seeds(values: Sequence[float], errors: Sequence[float]) -> tuple[float, float]:
    """Return the mean over training seeds and its error.

    Parameters
    ----------
    values, errors : sequence of float
        Result of each seed and its bootstrap error. Seeds without a result (NaN) are ignored.

    Returns
    -------
    mean, error : float
        The error is sqrt(s^2 / k + b^2), with the scatter s of the k seeds and the mean bootstrap error b.
        All seeds have the same test galaxies, so b does not decrease with k. For one seed, the error is b.
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
    """Return one row for each combination of `keys`, combined over training seeds.

    Parameters
    ----------
    table : pandas.DataFrame
        Table with a column ``seed``.
    keys : sequence of str
        Columns that identify a result apart from the seed.
    with_error : mapping of str to str
        Columns to average, and the columns of their errors (see `over_seeds`).
    means, sums : sequence of str
        Columns to average, without NaN, and columns to add.

    Returns
    -------
    pandas.DataFrame
        `keys`, ``n_seeds``, then the other columns; rows in the order of their first seed in `table`.
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
