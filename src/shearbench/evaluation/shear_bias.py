"""Multiplicative and additive shear bias from pairs of stamps under opposite shears.

The mean estimate under a shear gamma is (1 + m) gamma + c. In the ``shear`` split, every base galaxy is drawn
under +s and -s in each component with the same noise, so that shape and noise cancel in the difference. It is
also drawn with its intrinsic shape rotated, so that the shape cancels in the sum (Massey et al. 2007, MNRAS
376, 13; Pujol et al. 2019, A&A 621, A2).

The remaining scatter of m comes from the different responses of galaxies and from noise in the response. The
calibration uses other galaxies than the measurement of m, so the difference between these two samples would
add to the error of m. Regression on the true parameters corrects both samples to the same mean parameters
(Cochran 1977, Sampling Techniques, ch. 7). The standard deviation of m over base galaxies after this
correction was measured on ``exp_gauss``, with four rotations (16 stamps), and with two rotations and noise of
both signs (also 16 stamps)::

    noise   exponential fit               plain network (RMSE 10 times the bound at 1e-5)
    1e-5    1.0e-4, +-noise 1.1e-5        1.7e-2
    1e-3    9.5e-3, +-noise 2.2e-3        2.7e-2, +-noise 3.2e-2
    1e-2    7.5e-2, +-noise 5.0e-2        6.0e-2, +-noise 9.2e-2; without regression 0.37

A calibrated m from N base galaxies, half of which are used for the calibration, has the error 2 sd / sqrt(N).
For the exponential fit with noise of both signs, a standard error of 1e-5 at noise 1e-5 needs 50 base
galaxies (too few for the regression), 3e-4 at 1e-3 needs 220, and 1e-3 at 1e-2 needs 10,000. To detect a bias
of that size at three standard errors needs nine times as many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shearbench.errors import ContractError
from shearbench.evaluation.joining import Joined, identity, join
from shearbench.evaluation.statistics import RESAMPLES, at_composition, bootstrap_means, polynomials

SHEAR_BIAS = (
    "population noise estimator label kind seed calibration n_pairs n_failed "
    "m1 m1_err m2 m2_err c1 c1_err c2 c2_err R1 R2"
).split()
SHEAR_BIAS_BINS = (
    "population noise estimator label kind seed calibration bin error share n_pairs m1 m1_err m2 m2_err S1 S2"
).split()
BINS = 4
_PARAMETERS = ("flux", "hlr", "sersic_n", "psf_fwhm")  # with |e|^2, the variables of the regression
_Means = NDArray[np.float64]  # (..., k): means of k columns


@dataclass(frozen=True)
class _Pairs:
    """Stamps of each base galaxy without a flagged stamp; one row per base galaxy.

    `estimate` and `truth` are [base, rotation, member, component], `error` [base, rotation, member],
    `response` [base, member, row, column] (mean over rotations) or None; the members are
    +s and -s in the first component, +s and -s in the second. `parameters` [base, k] are true parameters.
    """

    estimate: NDArray[np.float64]
    truth: NDArray[np.float64]
    error: NDArray[np.float64]
    response: NDArray[np.float64] | None
    parameters: NDArray[np.float64]
    calibrates: NDArray[np.bool_]
    n_failed: int
    shear: float


def shear_bias(
    estimates: pd.DataFrame,
    catalog: pd.DataFrame,
    *,
    label: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    source: str = "estimates",
    rule: str = "measure",
) -> list[dict[str, Any]]:
    """Return the rows of ``metrics/shear_bias.csv`` of one estimator at one noise level.

    Parameters
    ----------
    estimates, catalog : pandas.DataFrame
        Tables of the ``shear`` split.
    label : str, optional
        Label of the estimator in figures; its name by default.
    resamples, seed : int
        Number of resamples of the bootstrap over base galaxies, and its random seed.
    source, rule : str
        File of the estimates and the rule that makes it, named in errors.

    Returns
    -------
    list of dict
        Two rows with the columns `SHEAR_BIAS`: without calibration (``calibration`` = none) and with it
        (response). ``n_pairs`` is the number of base galaxies used. ``n_failed`` is the number of base
        galaxies left out because one or more of their stamps is flagged; leaving out single stamps would be a
        selection that depends on the shear.

        *none*: D is (ghat(+s) - ghat(-s)) / 2s averaged over rotations and galaxies, and D_true the same for
        the true observed shapes. Then R = D / D_true, m = R - 1 and c = <ghat - g_true>. D_true differs from
        1 by a term of order <g^2> that two rotations do not cancel. Dividing by it gives m = 0 for the true
        shapes.

        *response*: R and the offset c are measured on every second base galaxy and applied to the others, on
        which m and c are measured. The errors include the noise of both halves. (Averaging with exchanged
        halves would not test the calibration: the two m have opposite signs to first order.) The means of
        both halves are corrected by regression to the mean parameters of all galaxies.

        An estimator that measures its own response (columns R11, R22 and possibly R12, R21) gives the shear
        gamma of an ensemble from <e> = R gamma, with the mean R of these columns (Sheldon & Huff 2017, ApJ
        841, 24). For it, m and c compare gamma with the applied shear, on all galaxies, and R1, R2 are the
        mean R11, R22.

    Raises
    ------
    ContractError
        The tables have different galaxies, or the catalog does not have each base galaxy under all shears.
    """
    rows = join(estimates, catalog, source=source, rule=rule)
    pairs = _pairs(rows)
    columns, n = _columns(pairs), len(pairs.estimate)
    results = [("none", n, _estimate(columns, _plain_bias, resamples, seed))]
    if pairs.response is not None:
        own = _own_response_columns(pairs)
        results.append(
            ("response", n, _estimate(own, lambda m: _own_response_bias(m, pairs.shear), resamples, seed))
        )
    else:
        halves = _halves(pairs, columns)
        value, error = _calibrated(halves, _calibrated_bias, resamples, seed)
        results.append(("response", len(halves[1][0]), _named(value, error)))
    who = identity(estimates, label)
    return [
        who | {"calibration": calibration, "n_pairs": n_pairs, "n_failed": pairs.n_failed} | result
        for calibration, n_pairs, result in results
    ]


def shear_bias_bins(
    estimates: pd.DataFrame,
    catalog: pd.DataFrame,
    *,
    label: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    source: str = "estimates",
    rule: str = "measure",
) -> list[dict[str, Any]]:
    """Return the rows of ``metrics/shear_bias_bins.csv``: m of galaxies selected by an observed quantity.

    The observed quantity is the estimator's own error, sqrt(g1_err^2 + g2_err^2), which depends on the
    observed signal-to-noise ratio and size. A bin is a weight that is 1 at the centre of the bin and falls
    linearly (in the logarithm of the error) to 0 at the centres of the neighbouring bins; all weights add up
    to 1. The centres are the medians of the four quarters of the calibrating galaxies. Bins with sharp edges
    would have 10 to 100 times the variance, because the shear moves single galaxies across an edge.

    Parameters
    ----------
    estimates, catalog, label, resamples, seed, source, rule
        As for `shear_bias`.

    Returns
    -------
    list of dict
        The columns `SHEAR_BIAS_BINS`. Bin 1 has the largest errors; bin 0 is all galaxies. ``error`` is the
        centre of the bin, ``share`` its fraction of the judged stamps. The shear changes the observed error,
        so the weight w of each stamp is computed under its own shear. The response of a bin is that of the
        weighted sum of shapes and includes the selection (Sheldon & Huff 2017, ApJ 841, 24, eq. 13):
        R = <w(+s) ghat(+s) - w(-s) ghat(-s)> / 2s over <(w(+s) + w(-s))/2 (g(+s) - g(-s))> / 2s of the
        true shapes. ``S1, S2`` is the part of m that comes from the change of w.

        ``calibration`` is *none*, *response* (division by the response of all calibrating galaxies) or
        *binned* (division by the response of the calibrating galaxies in the same bin, so that a selection
        by bins is unbiased; for bin 0, each shape is divided by the response at its error).

        There are no rows for an estimator that measures its own response, that gives no errors, or that gives
        the same error to all galaxies.

    Raises
    ------
    ContractError
        As `shear_bias`.
    """
    pairs = _pairs(join(estimates, catalog, source=source, rule=rule))
    if pairs.response is not None or len(pairs.error) < 4 or not np.isfinite(pairs.error).all():
        return []
    observed = -np.log(np.maximum(pairs.error, np.finfo(float).tiny))
    centres = np.quantile(observed[pairs.calibrates], (np.arange(BINS) + 0.5) / BINS)
    if not (np.diff(centres) > 0).all():
        return []
    weights = [np.ones_like(observed), *(np.interp(observed, centres, row) for row in np.eye(BINS))]
    columns = np.column_stack([_weighted_columns(pairs, weight) for weight in weights])
    halves = _halves(pairs, columns)
    value, error = _calibrated(halves, _binned_bias, resamples, seed)
    value, error = (array.reshape(3, BINS + 1, 4) for array in (value, error))
    return [
        identity(estimates, label)
        | {
            "calibration": calibration,
            "bin": k,
            "error": float(np.exp(-centres[k - 1])) if k else np.nan,
            "share": float(weights[k][~pairs.calibrates].mean()),
            "n_pairs": int((~pairs.calibrates).sum()),
            "m1": value[i, k, 0],
            "m1_err": error[i, k, 0],
            "m2": value[i, k, 1],
            "m2_err": error[i, k, 1],
            "S1": value[i, k, 2],
            "S2": value[i, k, 3],
        }
        for i, calibration in enumerate(("none", "response", "binned"))
        for k in range(BINS + 1)
    ]


def shear_bias_bins_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of `shear_bias_bins` as the table ``metrics/shear_bias_bins.csv``."""
    return pd.DataFrame(list(rows), columns=SHEAR_BIAS_BINS)


def shear_bias_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of `shear_bias` as the table ``metrics/shear_bias.csv``."""
    return pd.DataFrame(list(rows), columns=SHEAR_BIAS)


def unbiased(value: float, error: float, tolerance: float, n_sigma: float = 3.0) -> bool:
    """Return whether |value| < max(tolerance, n_sigma * error); if so, no bias is detected.

    The criterion of LSSTDESC/descwl-shear-sims, with tolerance 1e-3 for m and 1e-4 for c. False for NaN.
    """
    return bool(abs(value) < max(tolerance, n_sigma * error))


def _pairs(rows: Joined) -> _Pairs:
    catalog = rows.catalog
    shear = catalog[["shear1", "shear2"]].to_numpy(float)
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
            f"catalog of {catalog.attrs.get('population', 'the shear split')}",
            "shear1, shear2, pair_id, rotation",
            f"{len(order)} rows that do not form complete sets",
            "each base galaxy in every rotation under (+s,0), (-s,0), (0,+s), (0,-s)",
            "sample_catalog",
        )
    good: NDArray[np.bool_] = np.all(rows.good[order].reshape(-1, rotations * 4), axis=1)

    def by_member(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values[order].reshape(-1, rotations, 4, *values.shape[1:])[good]

    response = None
    names = [["R11", "R12"], ["R21", "R22"]]
    if {"R11", "R22"} <= set(rows.estimates):
        full = {"R12", "R21"} <= set(rows.estimates)
        matrix = np.zeros((len(order), 2, 2))
        for i, j in ((0, 0), (1, 1), (0, 1), (1, 0)) if full else ((0, 0), (1, 1)):
            matrix[:, i, j] = rows.estimates[names[i][j]].to_numpy(float)
        response = by_member(matrix).mean(axis=1)
    known = [catalog[name].to_numpy(float) for name in _PARAMETERS if name in catalog]
    known.append(catalog["e1"].to_numpy(float) ** 2 + catalog["e2"].to_numpy(float) ** 2)
    return _Pairs(
        estimate=by_member(rows.estimate),
        truth=by_member(rows.truth),
        error=by_member(np.hypot(*rows.error.T)),
        response=response,
        parameters=by_member(np.column_stack(known))[:, 0, 0],
        # by position in the split, so that a failure does not move other galaxies to the other half
        calibrates=(np.arange(len(good)) % 2 == 0)[good],
        n_failed=int((~good).sum()),
        shear=float(size[0]),
    )


def _difference(first: NDArray[np.float64], shear: float) -> NDArray[np.float64]:
    """Return (x(+s) - x(-s)) / 2s of each component under its own shear, [..., member, component]."""
    return np.stack([first[..., 0, 0] - first[..., 1, 0], first[..., 2, 1] - first[..., 3, 1]], axis=-1) / (
        2 * shear
    )


def _columns(pairs: _Pairs) -> NDArray[np.float64]:
    """Return D, D_true, mean estimate and mean truth of each base galaxy, each for g1 and g2."""
    estimate, truth = pairs.estimate.mean(axis=1), pairs.truth.mean(axis=1)
    return np.column_stack(
        [
            _difference(estimate, pairs.shear),
            _difference(truth, pairs.shear),
            estimate.mean(axis=1),
            truth.mean(axis=1),
        ]
    )


_Half = tuple[NDArray[np.float64], float]  # columns of some base galaxies, and the factor on their errors


def _halves(pairs: _Pairs, columns: NDArray[np.float64]) -> tuple[_Half, _Half]:
    """Return the columns of calibrating and judged galaxies, corrected to the mean parameters of all."""
    halves = pairs.calibrates, ~pairs.calibrates
    terms = polynomials(pairs.parameters, min(half.sum() for half in halves) // 20)
    centred = terms - terms.sum(axis=0) / max(len(terms), 1)
    first, second = (at_composition(columns[half], centred[half]) for half in halves)
    return first, second


def _parts(means: _Means) -> list[_Means]:
    return [means[..., 2 * i : 2 * i + 2] for i in range(4)]


def _plain_bias(means: _Means) -> _Means:
    """Return (..., 6): m1, m2, c1, c2, R1, R2."""
    difference, expected, estimate, truth = _parts(means)
    response = difference / expected
    return np.concatenate([response - 1, estimate - truth, response], axis=-1)


def _calibrated_bias(calibrating: _Means, judged: _Means) -> _Means:
    difference, expected, estimate, truth = _parts(calibrating)
    response = difference / expected
    offset = estimate - response * truth
    difference, expected, estimate, truth = _parts(judged)
    m = difference / response / expected - 1
    c = (estimate - offset) / response - truth
    return np.concatenate([m, c, response], axis=-1)


def _weighted_columns(pairs: _Pairs, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each base galaxy the response of weighted shapes, its part from weights, that of truth."""
    w = weight[..., None]
    # Both signs of the shear get the mean of their weights.
    both = np.stack([w[:, :, :2].mean(axis=2), w[:, :, 2:].mean(axis=2)], axis=2)[..., 0]
    estimate = both * _difference(pairs.estimate, pairs.shear)
    total = _difference(w * pairs.estimate, pairs.shear)
    truth = both * _difference(pairs.truth, pairs.shear)
    return np.column_stack([part.mean(axis=1) for part in (total, total - estimate, truth)])


def _binned_bias(calibrating: _Means, judged: _Means) -> _Means:
    """Return (..., 3 calibrations * bins * 4): m1, m2 and the parts of both from selection."""
    shape = (*judged.shape[:-1], BINS + 1, 3, 2)
    calibrating, judged = calibrating.reshape(shape), judged.reshape(shape)
    response = calibrating[..., 0, :] / calibrating[..., 2, :]
    total, selection, truth = (judged[..., i, :] for i in range(3))
    results = []
    for divisor in (np.ones_like(response), response[..., :1, :], response):
        parts = [total / divisor, selection / divisor]
        # All galaxies: the sum over bins, each divided by its own response.
        whole = [part[..., 1:, :].sum(axis=-2, keepdims=True) for part in parts]
        m, s = (
            np.concatenate([of_all, part[..., 1:, :]], axis=-2) / truth for of_all, part in zip(whole, parts)
        )
        results.append(np.concatenate([m - 1, s], axis=-1))
    return np.stack(results, axis=-3).reshape(*judged.shape[:-3], -1)


def _own_response_columns(pairs: _Pairs) -> NDArray[np.float64]:
    assert pairs.response is not None
    n = len(pairs.estimate)
    return np.column_stack([pairs.estimate.mean(axis=1).reshape(n, 8), pairs.response.reshape(n, 16)])


def _own_response_bias(means: _Means, shear: float) -> _Means:
    estimate = means[..., :8].reshape(*means.shape[:-1], 4, 2, 1)
    response = means[..., 8:].reshape(*means.shape[:-1], 4, 2, 2)
    found = np.linalg.solve(response, estimate)[..., 0]
    difference = np.stack([found[..., 0, 0] - found[..., 1, 0], found[..., 2, 1] - found[..., 3, 1]], axis=-1)
    diagonal = np.stack([response[..., 0, 0], response[..., 1, 1]], axis=-1).mean(axis=-2)
    # the four applied shears add up to zero, so the mean of the results is the additive bias
    return np.concatenate([difference / (2 * shear) - 1, found.mean(axis=-2), diagonal], axis=-1)


def _estimate(
    columns: NDArray[np.float64], statistic: Callable[[_Means], _Means], resamples: int, seed: int
) -> dict[str, float]:
    if len(columns) < 2:
        return _named(np.full(6, np.nan), np.full(6, np.nan))
    drawn = statistic(bootstrap_means(columns, resamples, seed))
    return _named(statistic(columns.mean(axis=0)), drawn.std(axis=0, ddof=1))


def _calibrated(
    halves: tuple[_Half, _Half],
    statistic: Callable[[_Means, _Means], _Means],
    resamples: int,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a statistic of the means of calibrating and judged galaxies, and its bootstrap error."""
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


def _named(value: NDArray[np.float64], error: NDArray[np.float64]) -> dict[str, float]:
    named = {}
    for i, name in enumerate(("m1", "m2", "c1", "c2")):
        named[name], named[f"{name}_err"] = float(value[i]), float(error[i])
    return named | {"R1": float(value[4]), "R2": float(value[5])}
