"""Pairs of stamps under opposite shears, or opposite shapes of the PSF: the base galaxies of a split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shearbench.errors import ContractError
from shearbench.evaluation.joining import Joined, identity, join
from shearbench.evaluation.statistics import (
    RESAMPLES,
    at_composition,
    bootstrap_means,
    bootstrapped,
    polynomials,
)

# Their logarithms and |e|^2 are the variables of the regression: the response decreases towards faint and
# small galaxies, and the fluxes of a catalogue can cover three decades.
_PARAMETERS = ("flux", "hlr", "sersic_n", "psf_fwhm")
Means = NDArray[np.float64]  # (..., k): means of k columns
Half = tuple[NDArray[np.float64], float]  # columns of some base galaxies, and the factor on their errors


@dataclass(frozen=True)
class Pairs:
    """Stamps of each base galaxy without a flagged stamp; one row per base galaxy.

    `estimate` and `truth` are [base, rotation, member, component], `error` [base, rotation, member],
    `response` [base, member, row, column] (mean over rotations) or None; the members are
    +s and -s in the first component, +s and -s in the second. `observed` [base, rotation, member] is what was
    given to `pairs_of`, or None; `responses` [base, rotation, member, component] is the diagonal of the
    response that the estimator measures for each stamp, or None. `parameters` [base, k] are the
    variables of the regression (`halves_of`); `shear` is s, the applied shear or the change of the PSF's
    shape.
    """

    estimate: NDArray[np.float64]
    truth: NDArray[np.float64]
    error: NDArray[np.float64]
    response: NDArray[np.float64] | None
    parameters: NDArray[np.float64]
    calibrates: NDArray[np.bool_]
    n_failed: int
    shear: float
    observed: NDArray[np.float64] | None = None
    responses: NDArray[np.float64] | None = None


def pairs_of(
    rows: Joined,
    applied: tuple[str, str] = ("shear1", "shear2"),
    observed: NDArray[np.float64] | None = None,
) -> Pairs:
    """Return the base galaxies of a ``shear`` or ``leakage`` split without a flagged stamp.

    Parameters
    ----------
    rows : Joined
        Estimates with the catalog of their galaxies, in any order.
    applied : (str, str)
        The columns of the catalog with what is applied to each galaxy, plus and minus s in each component:
        the shear, or ``psf_shear1, psf_shear2`` of the split ``leakage``.
    observed : ndarray, shape (n,), optional
        A quantity of each row, to be arranged in the same way.

    Returns
    -------
    Pairs

    Raises
    ------
    ContractError
        The catalog does not have each base galaxy under all shears, or all shapes of the PSF.
    """
    catalog = rows.catalog
    shear = catalog[list(applied)].to_numpy(float)
    sign = np.sign(shear)
    # member: 0, 1, 2, 3 for +s and -s in g1, +s and -s in g2; -1 for any other shear
    member = np.select(
        [(sign == (a, b)).all(axis=1) for a, b in ((1, 0), (-1, 0), (0, 1), (0, -1))],
        [0, 1, 2, 3],
        default=-1,
    )
    pair, rotation = catalog["pair_id"].to_numpy(), catalog["rotation"].to_numpy()
    rotations = int(rotation.max()) + 1 if len(rotation) else 1
    order = np.lexsort((member, rotation, pair))
    size = np.abs(shear).sum(axis=1)
    complete = len(order) > 0 and len(order) % (4 * rotations) == 0
    if complete:
        shape = (-1, rotations, 4)
        blocks: NDArray[Any] = pair[order].reshape(shape)
        complete = bool(
            (member[order].reshape(shape) == np.arange(4)).all()
            and (rotation[order].reshape(shape) == np.arange(rotations)[:, None]).all()
            and (blocks == blocks[:, :1, :1]).all()
            and len(np.unique(blocks[:, 0, 0])) == len(blocks)
            and np.allclose(size, size[0], rtol=1e-12)
        )
    if not complete:
        raise ContractError.of(
            f"catalog of {catalog.attrs.get('population', 'the split')}",
            f"{', '.join(applied)}, pair_id, rotation",
            f"{len(order)} rows that do not form complete sets",
            "each base galaxy in every rotation under (+s,0), (-s,0), (0,+s), (0,-s)",
            "sample_catalog",
        )
    good: NDArray[np.bool_] = np.all(rows.good[order].reshape(-1, rotations * 4), axis=1)

    def by_member(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values[order].reshape(-1, rotations, 4, *values.shape[1:])[good]

    response = responses = None
    names = [["R11", "R12"], ["R21", "R22"]]
    if {"R11", "R22"} <= set(rows.estimates):
        full = {"R12", "R21"} <= set(rows.estimates)
        matrix = np.zeros((len(order), 2, 2))
        for i, j in ((0, 0), (1, 1), (0, 1), (1, 0)) if full else ((0, 0), (1, 1)):
            matrix[:, i, j] = rows.estimates[names[i][j]].to_numpy(float)
        response = by_member(matrix).mean(axis=1)
        responses = np.diagonal(by_member(matrix), axis1=-2, axis2=-1)
    known = [np.log(catalog[name].to_numpy(float)) for name in _PARAMETERS if name in catalog]
    known.append(catalog["e1"].to_numpy(float) ** 2 + catalog["e2"].to_numpy(float) ** 2)
    return Pairs(
        estimate=by_member(rows.estimate),
        truth=by_member(rows.truth),
        error=by_member(np.hypot(*rows.error.T)),
        response=response,
        parameters=by_member(np.column_stack(known))[:, 0, 0],
        # by position in the split, so that a failure does not move other galaxies to the other half
        calibrates=(np.arange(len(good)) % 2 == 0)[good],
        n_failed=int((~good).sum()),
        shear=float(size[0]),
        observed=None if observed is None else by_member(observed),
        responses=responses,
    )


def response_to_shear(values: NDArray[Any], shear: float) -> NDArray[np.float64]:
    """Return (x(+s) - x(-s)) / 2s of each component under its own shear.

    Parameters
    ----------
    values : ndarray, shape (..., 4, 2)
        Two components of each member of `Pairs`.
    shear : float
        The applied shear s.

    Returns
    -------
    ndarray, shape (..., 2)
    """
    first = values[..., 0, 0] - values[..., 1, 0]
    second = values[..., 2, 1] - values[..., 3, 1]
    return np.stack([first, second], axis=-1) / (2 * shear)


def own_response_columns(pairs: Pairs) -> NDArray[np.float64]:
    """Return the estimates and the responses that the estimator measured, whose means `shears` takes.

    Returns
    -------
    ndarray, shape (base, 24)
    """
    assert pairs.response is not None
    n = len(pairs.estimate)
    return np.column_stack([pairs.estimate.mean(axis=1).reshape(n, 8), pairs.response.reshape(n, 16)])


def shears(means: Means) -> tuple[Means, Means]:
    """Return the shear of each member, <e> = R gamma solved for gamma, and the mean response R.

    Parameters
    ----------
    means : ndarray, shape (..., 24)
        Means of `own_response_columns`.

    Returns
    -------
    shear : ndarray, shape (..., 4, 2)
    response : ndarray, shape (..., 4, 2, 2)
    """
    estimate = means[..., :8].reshape(*means.shape[:-1], 4, 2, 1)
    response = means[..., 8:].reshape(*means.shape[:-1], 4, 2, 2)
    shear = np.asarray(np.linalg.solve(response, estimate)[..., 0], np.float64)
    return shear, response


def halves_of(pairs: Pairs, columns: NDArray[np.float64]) -> tuple[Half, Half]:
    """Return the columns of calibrating and judged galaxies, corrected to the mean parameters of all.

    Parameters
    ----------
    pairs : Pairs
    columns : ndarray, shape (base, k)
        Numbers of each base galaxy.

    Returns
    -------
    calibrating, judged : (ndarray, float)
        The columns of one half, shape (base, k), and the factor on the error of their means, see
        `shearbench.evaluation.statistics.at_composition`.
    """
    halves = pairs.calibrates, ~pairs.calibrates
    terms = polynomials(pairs.parameters, min(half.sum() for half in halves) // 20)
    centred = terms - terms.sum(axis=0) / max(len(terms), 1)
    first, second = (at_composition(columns[half], centred[half]) for half in halves)
    return first, second


def calibrated(
    halves: tuple[Half, Half],
    statistic: Callable[[Means, Means], Means],
    resamples: int,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a statistic of the means of calibrating and judged galaxies, and its bootstrap error.

    Parameters
    ----------
    halves : (Half, Half)
        From `halves_of`.
    statistic : callable
        Function of the means (..., k) of the calibrating and of the judged galaxies; it returns (..., s).
    resamples, seed : int
        Number of resamples of the bootstrap over base galaxies, and its random seed.

    Returns
    -------
    value, error : ndarray, shape (s,)
        The error is NaN where a half has less than two base galaxies.
    """
    means = [
        columns.mean(axis=0) if len(columns) else np.full(columns.shape[1], np.nan) for columns, _ in halves
    ]
    value = statistic(*means)
    if min(len(columns) for columns, _ in halves) < 2:
        return np.full_like(value, np.nan), np.full_like(value, np.nan)
    drawn = [
        mean + inflation * (bootstrap_means(columns, resamples, seed + i) - mean)
        for i, (mean, (columns, inflation)) in enumerate(zip(means, halves))
    ]
    return value, statistic(*drawn).std(axis=0, ddof=1)


def compared(
    estimates: pd.DataFrame,
    reference: pd.DataFrame,
    catalog: pd.DataFrame,
    columns_of: Callable[[Pairs], NDArray[np.float64]],
    size: Callable[[Means], Means],
    name: str,
    *,
    label: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    source: str = "estimates",
    rule: str = "measure_shear",
) -> dict[str, Any]:
    """Compare the scatter of an estimator with that of another one, on the same base galaxies.

    Parameters
    ----------
    estimates, reference : pandas.DataFrame
        Estimates of the split ``shear`` at the same noise level; of stamps in both, the first are compared.
    catalog : pandas.DataFrame
    columns_of : callable
        Returns numbers of each base galaxy, (base, columns).
    size : callable
        Returns the scatter from the means of these columns (..., columns).
    name : str
        Name of the scatter in the result.
    label : str, optional
        Label of the estimator in figures; its name by default.
    resamples, seed : int
        Number of resamples of the bootstrap over base galaxies, and its random seed.
    source, rule : str
        File of the estimates and the rule that makes it, named in errors.

    Returns
    -------
    dict
        ``{name}``, ``{name}_err``, ``{name}_reference``, their ``ratio`` and ``ratio_err``, of the base
        galaxies that both measure without a failure. Both are resampled together, so that what they have in
        common cancels in the error of the ratio. ``reference`` is the name of the other estimator,
        ``n_pairs`` the number of base galaxies, ``n_failed`` that of those left out; and the columns that
        name the estimator.

    Raises
    ------
    ContractError
        The tables have other galaxies than the catalog.
    """
    count = min(len(estimates), len(reference))
    both = [
        join(table.head(count), catalog.head(count), source=source, rule=rule)
        for table in (estimates, reference)
    ]
    good = both[0].good & both[1].good
    pairs = [pairs_of(rows.flagged(good)) for rows in both]
    columns = np.column_stack([columns_of(one) for one in pairs])

    def statistic(means: Means) -> Means:
        half = means.shape[-1] // 2
        own, other = (size(part) for part in (means[..., :half], means[..., half:]))
        return np.stack([own, other, own / other], axis=-1)

    value, error = (numbers.tolist() for numbers in bootstrapped(columns, statistic, resamples, seed))
    return identity(estimates, label) | {
        "reference": reference.attrs["estimator"],
        "n_pairs": len(columns),
        "n_failed": pairs[0].n_failed,
        name: value[0],
        f"{name}_err": error[0],
        f"{name}_reference": value[1],
        "ratio": value[2],
        "ratio_err": error[2],
    }
