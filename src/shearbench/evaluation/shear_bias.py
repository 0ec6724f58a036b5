"""Multiplicative and additive shear bias from pairs of stamps under opposite shears.

The mean estimate under a shear gamma is (1 + m) gamma + c. In the ``shear`` split, every base galaxy is drawn
under +s and -s in each component with the same noise, so that shape and noise cancel in the difference. It is
also drawn with its intrinsic shape rotated, so that the shape cancels in the sum (Massey et al. 2007, MNRAS
376, 13; Pujol et al. 2019, A&A 621, A2).

The remaining scatter of m comes from the different responses of galaxies and from noise in the response. The
calibration uses other base galaxies than the measurement of m (of a catalogue, the same rows may be drawn for
both), so the difference between these two samples would add to the error of m. Regression on the true
parameters corrects both samples to the same mean parameters (Cochran 1977, Sampling Techniques, ch. 7). The
standard deviation of m over base galaxies after this correction was measured on ``exp_gauss``, with four
rotations (16 stamps), and with two rotations and noise of both signs (also 16 stamps). These numbers are from
a regression on flux and size; with their logarithms, at 1e-3, the deviation is 0.66 (`refined`) to 0.9 times
(plain network) as large::

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
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shearbench.evaluation.joining import identity, join
from shearbench.evaluation.shear_pairs import (
    Means,
    Pairs,
    calibrated,
    halves_of,
    own_response_columns,
    pairs_of,
    response_to_shear,
    shears,
)
from shearbench.evaluation.statistics import RESAMPLES, bootstrapped

SHEAR_BIAS = (
    "population noise estimator label kind seed calibration n_pairs n_failed "
    "m1 m1_err m2 m2_err c1 c1_err c2 c2_err R1 R2 shape_noise shape_noise_err n_eff n_eff_err"
).split()


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
        Rows with the columns `SHEAR_BIAS`: without calibration (``calibration`` = none), with it (response)
        and, of an estimator that measures its own response, one more (simulated). ``n_pairs`` is the number
        of base galaxies used. ``n_failed`` is the number of base galaxies left out because one or more of
        their stamps is flagged; leaving out single stamps would be a selection that depends on the shear.

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

        *simulated*: such an estimator is calibrated as all others are, by the response that scenes drawn
        under opposite shears with the same noise have. Its m and c are comparable with those of the others.
        R1, R2 are that response.

        ``shape_noise`` and ``n_eff`` are those of the calibrated shear, so they are NaN without calibration.
        The shape noise is the scatter of an unsheared component over its response, shape and noise of the
        galaxy together, rms of both components. The shear of N galaxies has the error shape_noise / sqrt(N).
        ``n_eff`` is the effective number of galaxies relative to an estimator that measures each true shape:
        the fraction of stamps measured times (scatter of the true shapes / shape_noise)^2.

    Raises
    ------
    ContractError
        The tables have different galaxies, or the catalog does not have each base galaxy under all shears.
    """
    rows = join(estimates, catalog, source=source, rule=rule)
    pairs = pairs_of(rows)
    columns, n = _columns(pairs), len(pairs.estimate)
    results = [("none", n, _estimate(columns, _plain_bias, resamples, seed))]
    if pairs.response is not None:
        own = own_response_columns(pairs)
        results.append(
            ("response", n, _estimate(own, lambda m: own_response_bias(m, pairs.shear), resamples, seed))
        )
    halves = halves_of(pairs, columns)
    value, error = calibrated(halves, _calibrated_bias, resamples, seed)
    name = "response" if pairs.response is None else "simulated"
    results.append((name, len(halves[1][0]), _named(value, error)))
    who = identity(estimates, label)
    noise = _shape_noise(pairs, float(rows.good.mean()), resamples, seed)
    return [
        who
        | {"calibration": calibration, "n_pairs": n_pairs, "n_failed": pairs.n_failed}
        | result
        | (noise if calibration == "response" else dict.fromkeys(noise, np.nan))
        for calibration, n_pairs, result in results
    ]


def shear_bias_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of `shear_bias` as the table ``metrics/shear_bias.csv``."""
    return pd.DataFrame(list(rows), columns=SHEAR_BIAS)


def unbiased(value: float, error: float, tolerance: float, n_sigma: float = 3.0) -> bool:
    """Return whether |value| < max(tolerance, n_sigma * error); if so, no bias is detected.

    The criterion of LSSTDESC/descwl-shear-sims, with tolerance 1e-3 for m and 1e-4 for c. False for NaN.
    """
    return bool(abs(value) < max(tolerance, n_sigma * error))


def _columns(pairs: Pairs) -> NDArray[np.float64]:
    """Return D, D_true, mean estimate and mean truth of each base galaxy, each for g1 and g2."""
    estimate, truth = pairs.estimate.mean(axis=1), pairs.truth.mean(axis=1)
    return np.column_stack(
        [
            response_to_shear(estimate, pairs.shear),
            response_to_shear(truth, pairs.shear),
            estimate.mean(axis=1),
            truth.mean(axis=1),
        ]
    )


def _parts(means: Means) -> list[Means]:
    return [means[..., 2 * i : 2 * i + 2] for i in range(4)]


def _plain_bias(means: Means) -> Means:
    """Return (..., 6): m1, m2, c1, c2, R1, R2."""
    difference, expected, estimate, truth = _parts(means)
    response = difference / expected
    return np.concatenate([response - 1, estimate - truth, response], axis=-1)


def _calibrated_bias(calibrating: Means, judged: Means) -> Means:
    difference, expected, estimate, truth = _parts(calibrating)
    response = difference / expected
    offset = estimate - response * truth
    difference, expected, estimate, truth = _parts(judged)
    m = difference / response / expected - 1
    c = (estimate - offset) / response - truth
    return np.concatenate([m, c, response], axis=-1)


def own_response_bias(means: Means, shear: float) -> Means:
    """Return m1, m2, c1, c2, R1, R2 of an estimator that measures its own response.

    Parameters
    ----------
    means : ndarray, shape (..., 24)
        Means of `own_response_columns`.
    shear : float
        The applied shear.

    Returns
    -------
    ndarray, shape (..., 6)
    """
    found, response = shears(means)
    diagonal = np.stack([response[..., 0, 0], response[..., 1, 1]], axis=-1).mean(axis=-2)
    # the four applied shears add up to zero, so the mean of the results is the additive bias
    return np.concatenate([response_to_shear(found, shear) - 1, found.mean(axis=-2), diagonal], axis=-1)


def noise_columns(pairs: Pairs) -> NDArray[np.float64]:
    """Return squares of the estimates and of the true shapes, and the responses of both.

    Returns
    -------
    ndarray, shape (base, 8)
        Each for both components.
    """
    squares = [_unsheared(values**2) for values in (pairs.estimate, pairs.truth)]
    return np.column_stack([*squares, response_columns(pairs)])


def response_columns(pairs: Pairs) -> NDArray[np.float64]:
    """Return the responses to shear of the estimates, as measured for calibration, and of the true shapes.

    Returns
    -------
    ndarray, shape (base, 4)
        Each for both components.
    """
    if pairs.response is None:
        shapes = (pairs.estimate.mean(axis=1), pairs.truth.mean(axis=1))
        response, expected = (response_to_shear(values, pairs.shear) for values in shapes)
    else:
        response = np.diagonal(pairs.response.mean(axis=1), axis1=-2, axis2=-1)
        expected = np.ones_like(response)
    return np.column_stack([response, expected])


def noise_variance(means: Means) -> Means:
    """Return the square (...) of the shape noise, mean of both components, of means of `noise_columns`."""
    variance, _, response, expected = _parts(means)
    return np.asarray((variance / (response / expected) ** 2).mean(axis=-1))


def _shape_noise(pairs: Pairs, measured: float, resamples: int, seed: int) -> dict[str, float]:
    """Return shape noise and effective number, with errors; `measured` is the fraction of stamps measured."""

    def statistic(means: Means) -> Means:
        noise, true = noise_variance(means), _parts(means)[1]
        return np.stack([np.sqrt(noise), measured * true.mean(axis=-1) / noise], axis=-1)

    value, error = bootstrapped(noise_columns(pairs), statistic, resamples, seed)
    pairs_of_numbers = zip(value.tolist(), error.tolist())
    return dict(zip(SHEAR_BIAS[-4:], (number for pair in pairs_of_numbers for number in pair)))


def _unsheared(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean (base, 2) of each component over the members where the other one is sheared."""
    return np.stack([values[:, :, 2:, 0].mean(axis=(1, 2)), values[:, :, :2, 1].mean(axis=(1, 2))], axis=-1)


def _estimate(
    columns: NDArray[np.float64], statistic: Callable[[Means], Means], resamples: int, seed: int
) -> dict[str, float]:
    return _named(*bootstrapped(columns, statistic, resamples, seed))


def _named(value: NDArray[np.float64], error: NDArray[np.float64]) -> dict[str, float]:
    named = {}
    for i, name in enumerate(("m1", "m2", "c1", "c2")):
        named[name], named[f"{name}_err"] = float(value[i]), float(error[i])
    return named | {"R1": float(value[4]), "R2": float(value[5])}
