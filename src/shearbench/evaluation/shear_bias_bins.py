"""Shear bias of galaxies selected by an observed quantity, see `shearbench.evaluation.shear_bias`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shearbench.evaluation.joining import identity, join
from shearbench.evaluation.shear_pairs import Means, Pairs, calibrated, halves_of, pairs_of, response_to_shear
from shearbench.evaluation.statistics import RESAMPLES

SHEAR_BIAS_BINS = (
    "population noise estimator label kind seed calibration bin error share n_pairs m1 m1_err m2 m2_err S1 S2"
).split()
BINS = 4


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
        As for `shearbench.evaluation.shear_bias.shear_bias`.

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
        As for `shear_bias`.
    """
    pairs = pairs_of(join(estimates, catalog, source=source, rule=rule))
    if pairs.response is not None or len(pairs.error) < 4 or not np.isfinite(pairs.error).all():
        return []
    observed = -np.log(np.maximum(pairs.error, np.finfo(float).tiny))
    centres = np.quantile(observed[pairs.calibrates], (np.arange(BINS) + 0.5) / BINS)
    if not (np.diff(centres) > 0).all():
        return []
    weights = [np.ones_like(observed), *(np.interp(observed, centres, row) for row in np.eye(BINS))]
    columns = np.column_stack([_weighted_columns(pairs, weight) for weight in weights])
    halves = halves_of(pairs, columns)
    value, error = calibrated(halves, _binned_bias, resamples, seed)
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


def _weighted_columns(pairs: Pairs, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each base galaxy the response of weighted shapes, its part from weights, that of truth."""
    w = weight[..., None]
    # Both signs of the shear get the mean of their weights.
    both = np.stack([w[:, :, :2].mean(axis=2), w[:, :, 2:].mean(axis=2)], axis=2)[..., 0]
    estimate = both * response_to_shear(pairs.estimate, pairs.shear)
    total = response_to_shear(w * pairs.estimate, pairs.shear)
    truth = both * response_to_shear(pairs.truth, pairs.shear)
    return np.column_stack([part.mean(axis=1) for part in (total, total - estimate, truth)])


def _binned_bias(calibrating: Means, judged: Means) -> Means:
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
