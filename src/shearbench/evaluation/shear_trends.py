"""Shear bias against true signal-to-noise ratio, and against true size over the size of the PSF."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shearbench.evaluation.joining import identity, join
from shearbench.evaluation.shear_pairs import Means, calibrated, halves_of, pairs_of, response_to_shear
from shearbench.evaluation.statistics import RESAMPLES

SHEAR_TRENDS = (
    "population noise estimator label kind seed calibration property bin centre n_pairs m1 m1_err m2 m2_err"
).split()
BINS = 4


def shear_trends(
    estimates: pd.DataFrame,
    catalog: pd.DataFrame,
    signal: NDArray[np.float64],
    *,
    label: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    source: str = "estimates",
    rule: str = "measure",
) -> list[dict[str, Any]]:
    """Return the rows of ``metrics/shear_trends.csv`` of one estimator at one noise level.

    Parameters
    ----------
    estimates, catalog, label, resamples, seed, source, rule
        As for `shearbench.evaluation.shear_bias.shear_bias`.
    signal : ndarray, shape (n,)
        For each row of the catalog sqrt(sum I^2) of the noiseless stamp, from
        `shearbench.data.stamps.StampSet.signal`.

    Returns
    -------
    list of dict
        The columns `SHEAR_TRENDS`. ``property`` is ``s2n``, the matched-filter signal-to-noise ratio (mean
        over the stamps of a base galaxy), or ``size``, half-light radius over FWHM of the PSF. Bins are the
        quarters of the base galaxies, ``centre`` is the median in each. Neither is changed by shear or noise,
        so that a bin is no selection (for that, see ``shear_bias_bins.csv`` and ``selection.csv``).

        *none*: m without calibration. *response*: calibrated by the response of all galaxies, measured on
        every second one, so that m shows how the response of galaxies depends on the property; or by the
        response that an estimator measures itself for the galaxies of the bin. m is that of the other half.

        There are no rows for a property that is the same for all galaxies, or with fewer than eight galaxies.

    Raises
    ------
    ContractError
        As for `shear_bias`.
    """
    rows = join(estimates, catalog, source=source, rule=rule)
    who = identity(estimates, label)
    results = []
    ratio = catalog["hlr"].to_numpy(float) / catalog["psf_fwhm"].to_numpy(float)
    for name, of_stamps in (("s2n", signal / who["noise"]), ("size", ratio)):
        pairs = pairs_of(rows, observed=of_stamps)
        assert pairs.observed is not None
        observed = pairs.observed.mean(axis=(1, 2))
        if len(observed) < 2 * BINS or np.ptp(observed) <= 1e-9 * observed.max():
            continue
        edges = np.quantile(observed, np.arange(1, BINS) / BINS)
        bins = np.searchsorted(edges, observed, side="right")
        shapes = (pairs.estimate.mean(axis=1), pairs.truth.mean(axis=1))
        parts = [response_to_shear(values, pairs.shear) for values in shapes]
        if pairs.response is not None:  # it is told, in place of that of the true shapes
            parts[1:] = [np.ones_like(parts[0]), np.diagonal(pairs.response.mean(axis=1), axis1=-2, axis2=-1)]
        inside = bins[:, None, None] == np.arange(BINS)[:, None]
        columns = np.concatenate([(inside * part[:, None]).reshape(len(bins), -1) for part in parts], axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):  # a resample without a galaxy of a bin
            value, error = calibrated(halves_of(pairs, columns), _biases, resamples, seed)
        value, error = (array.reshape(2, BINS, 2) for array in (value, error))
        for i, calibration in enumerate(("none", "response")):
            for k in range(BINS):
                row = {**who, "calibration": calibration, "property": name, "bin": k + 1}
                row |= {"centre": float(np.median(observed[bins == k]))}
                row |= {"n_pairs": int((bins == k)[~pairs.calibrates].sum())}
                for j, one in enumerate(("m1", "m2")):
                    row |= {one: float(value[i, k, j]), f"{one}_err": float(error[i, k, j])}
                results.append(row)
    return results


def shear_trends_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of `shear_trends` as the table ``metrics/shear_trends.csv``."""
    return pd.DataFrame(list(rows), columns=SHEAR_TRENDS)


def _biases(calibrating: Means, judged: Means) -> Means:
    """Return (..., 2 calibrations * BINS * 2): m1 and m2 of each bin."""
    size = 2 * BINS
    found, expected = judged[..., :size], judged[..., size : 2 * size]
    if judged.shape[-1] > 2 * size:
        response = judged[..., 2 * size :] / expected
    else:
        by_bin = calibrating.reshape(*calibrating.shape[:-1], 2, BINS, 2).sum(axis=-2)
        response = np.concatenate([by_bin[..., 0, :] / by_bin[..., 1, :]] * BINS, axis=-1)
    return np.concatenate([found / expected - 1, found / expected / response - 1], axis=-1)
