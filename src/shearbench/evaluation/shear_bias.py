"""Multiplicative and additive shear bias from pairs of stamps under opposite shears.

An estimator's mean answer to a shear gamma is (1 + m) gamma + c. In the ``shear`` split every base galaxy
appears under +s and -s in each component with the same noise, so shape and noise cancel in the
difference, and in rotations of its intrinsic shape, so the shape cancels in the sum (Massey et al. 2007,
MNRAS 376, 13; Pujol et al. 2019, A&A 621, A2).
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
from shearbench.evaluation.statistics import RESAMPLES, bootstrap_means

SHEAR_BIAS = (
    "population noise estimator label kind seed calibration n_pairs n_failed "
    "m1 m1_err m2 m2_err c1 c1_err c2 c2_err R1 R2"
).split()
_Means = NDArray[np.float64]  # (..., k): means of the columns that a statistic is made of


@dataclass(frozen=True)
class _Pairs:
    """One row per base galaxy without a flagged member; means over its rotations.

    `estimate` and `truth` are [base, member, component], `response` [base, member, row, column] or None;
    members are +s and -s in the first component, +s and -s in the second.
    """

    estimate: NDArray[np.float64]
    truth: NDArray[np.float64]
    response: NDArray[np.float64] | None
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
        Of the ``shear`` split.
    label : str, optional
        How figures call the estimator; its name by default.
    resamples, seed : int
        Of the bootstrap over base galaxies.
    source, rule : str
        File of the estimates and the rule that makes it, named in errors.

    Returns
    -------
    list of dict
        Two rows with the columns `SHEAR_BIAS`, before (``calibration`` = none) and after calibration
        (response). ``n_pairs`` counts the base galaxies used, ``n_failed`` those left out because any of
        their members was flagged: leaving out single members would let the shear decide what is kept.

        *none*: with D = (ghat(+s) - ghat(-s)) / 2s averaged over rotations and galaxies, and D_true the same
        of the true observed shapes, R = D / D_true, m = R - 1 and c = <ghat - g_true>. Dividing by
        D_true takes out the response error of order <g^2> that two rotations leave in any sample, so
        the truth itself has m = 0.

        *response*: R and the offset c are measured on every other base galaxy and applied to those between,
        which are judged; errors hold the noise of both halves. (Averaging over both directions would prove
        nothing: the two m are opposite to first order, whatever the calibration is worth.)

        An estimator with a response of its own (columns R11, R22 and, if there, R12, R21) has the shear
        <e> = R gamma of the whole ensemble under each applied shear instead, R being the mean of its
        columns (Sheldon & Huff 2017, ApJ 841, 24); m and c compare that with the applied shear, all
        galaxies are judged, and R1, R2 are the mean R11, R22.

    Raises
    ------
    ContractError
        The galaxies differ, or the catalog is not made of complete +-shear sets.
    """
    rows = join(estimates, catalog, source=source, rule=rule)
    pairs = _pairs(rows)
    columns, n = _columns(pairs, slice(None)), len(pairs.estimate)
    results = [("none", n, _estimate(columns, _plain_bias, resamples, seed))]
    if pairs.response is not None:
        own = _own_response_columns(pairs)
        results.append(
            ("response", n, _estimate(own, lambda m: _own_response_bias(m, pairs.shear), resamples, seed))
        )
    else:
        judged = _columns(pairs, ~pairs.calibrates)
        result = _calibrated(_columns(pairs, pairs.calibrates), judged, resamples, seed)
        results.append(("response", len(judged), result))
    who = identity(estimates, label)
    return [
        who | {"calibration": calibration, "n_pairs": n_pairs, "n_failed": pairs.n_failed} | result
        for calibration, n_pairs, result in results
    ]


def shear_bias_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of `shear_bias` as the table ``metrics/shear_bias.csv``."""
    return pd.DataFrame(list(rows), columns=SHEAR_BIAS)


def unbiased(value: float, error: float, tolerance: float, n_sigma: float = 3.0) -> bool:
    """Return whether |value| < max(tolerance, n_sigma * error): no bias that the test could have seen.

    The criterion of LSSTDESC/descwl-shear-sims, with tolerance 1e-3 for m and 1e-4 for c. False for NaN.
    """
    return bool(abs(value) < max(tolerance, n_sigma * error))


def _pairs(rows: Joined) -> _Pairs:
    catalog = rows.catalog
    shear = catalog[["shear1", "shear2"]].to_numpy(float)
    sign = np.sign(shear)
    # member: 0, 1, 2, 3 for +s and -s in g1, +s and -s in g2; others have no place
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
            f"{len(order)} rows that are not complete sets",
            "each base galaxy in every rotation under (+s,0), (-s,0), (0,+s), (0,-s)",
            "sample_catalog",
        )
    good: NDArray[np.bool_] = np.all(rows.good[order].reshape(-1, rotations * 4), axis=1)

    def mean_over_rotations(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values[order].reshape(-1, rotations, 4, *values.shape[1:])[good].mean(axis=1)

    response = None
    names = [["R11", "R12"], ["R21", "R22"]]
    if {"R11", "R22"} <= set(rows.estimates):
        full = {"R12", "R21"} <= set(rows.estimates)
        matrix = np.zeros((len(order), 2, 2))
        for i, j in ((0, 0), (1, 1), (0, 1), (1, 0)) if full else ((0, 0), (1, 1)):
            matrix[:, i, j] = rows.estimates[names[i][j]].to_numpy(float)
        response = mean_over_rotations(matrix)
    return _Pairs(
        estimate=mean_over_rotations(rows.estimate),
        truth=mean_over_rotations(rows.truth),
        response=response,
        # by place in the split, so that one more failure moves no other galaxy to the other half
        calibrates=(np.arange(len(good)) % 2 == 0)[good],
        n_failed=int((~good).sum()),
        shear=float(size[0]),
    )


def _columns(pairs: _Pairs, which: Any) -> NDArray[np.float64]:
    """Per base galaxy: D, D_true, mean estimate, mean truth, each for g1 and g2."""

    def difference(shape: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack([shape[:, 0, 0] - shape[:, 1, 0], shape[:, 2, 1] - shape[:, 3, 1]]) / (
            2 * pairs.shear
        )

    estimate, truth = pairs.estimate[which], pairs.truth[which]
    return np.column_stack(
        [difference(estimate), difference(truth), estimate.mean(axis=1), truth.mean(axis=1)]
    )


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


def _own_response_columns(pairs: _Pairs) -> NDArray[np.float64]:
    assert pairs.response is not None
    n = len(pairs.estimate)
    return np.column_stack([pairs.estimate.reshape(n, 8), pairs.response.reshape(n, 16)])


def _own_response_bias(means: _Means, shear: float) -> _Means:
    estimate = means[..., :8].reshape(*means.shape[:-1], 4, 2, 1)
    response = means[..., 8:].reshape(*means.shape[:-1], 4, 2, 2)
    found = np.linalg.solve(response, estimate)[..., 0]
    difference = np.stack([found[..., 0, 0] - found[..., 1, 0], found[..., 2, 1] - found[..., 3, 1]], axis=-1)
    diagonal = np.stack([response[..., 0, 0], response[..., 1, 1]], axis=-1).mean(axis=-2)
    # the four applied shears add up to nothing, so the mean of the answers is the additive bias
    return np.concatenate([difference / (2 * shear) - 1, found.mean(axis=-2), diagonal], axis=-1)


def _estimate(
    columns: NDArray[np.float64], statistic: Callable[[_Means], _Means], resamples: int, seed: int
) -> dict[str, float]:
    if len(columns) < 2:
        return _named(np.full(6, np.nan), np.full(6, np.nan))
    drawn = statistic(bootstrap_means(columns, resamples, seed))
    return _named(statistic(columns.mean(axis=0)), drawn.std(axis=0, ddof=1))


def _calibrated(
    calibrating: NDArray[np.float64], judged: NDArray[np.float64], resamples: int, seed: int
) -> dict[str, float]:
    if len(calibrating) < 2 or len(judged) < 2:
        return _named(np.full(6, np.nan), np.full(6, np.nan))
    drawn = _calibrated_bias(
        bootstrap_means(calibrating, resamples, seed), bootstrap_means(judged, resamples, seed + 1)
    )
    value = _calibrated_bias(calibrating.mean(axis=0), judged.mean(axis=0))
    return _named(value, drawn.std(axis=0, ddof=1))


def _named(value: NDArray[np.float64], error: NDArray[np.float64]) -> dict[str, float]:
    named = {}
    for i, name in enumerate(("m1", "m2", "c1", "c2")):
        named[name], named[f"{name}_err"] = float(value[i]), float(error[i])
    return named | {"R1": float(value[4]), "R2": float(value[5])}
