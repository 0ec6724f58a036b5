"""Shear bias from a PSF or a noise level that an estimator is told wrongly.

The same stamps, with the same noise, are measured twice: as they are, and with another PSF or noise level
told to the estimator. Shapes and noise cancel in the difference of the two, so that few galaxies are enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shearbench.evaluation.joining import identity, join
from shearbench.evaluation.shear_bias import own_response_bias
from shearbench.evaluation.shear_pairs import Means, Pairs, own_response_columns, pairs_of, response_to_shear
from shearbench.evaluation.statistics import RESAMPLES, bootstrapped

MODEL_ERRORS = (
    "population noise estimator label kind seed calibration told amount n_pairs n_failed "
    "dm1 dm1_err dm2 dm2_err dc1 dc1_err dc2 dc2_err"
).split()


def model_errors(
    estimates: pd.DataFrame,
    misjudged: pd.DataFrame,
    catalog: pd.DataFrame,
    told: str,
    amount: float,
    *,
    label: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    source: str = "estimates",
    rule: str = "measure_model_errors",
) -> list[dict[str, Any]]:
    """Return the rows of ``metrics/model_errors.csv`` of one estimator at one noise level, for one error.

    Parameters
    ----------
    estimates, misjudged : pandas.DataFrame
        Estimates of the same stamps of the split ``shear``: as they are, and with the error.
    catalog : pandas.DataFrame
        Their catalog.
    told : str
        Name of the error, such as ``psf_size``.
    amount : float
        The error: relative for sizes and noise levels; for shapes, what is added to each component of g.
    label : str, optional
        Label of the estimator in figures; its name by default.
    resamples, seed : int
        Number of resamples of the bootstrap over base galaxies, and its random seed.
    source, rule : str
        File of the misjudged estimates and the rule that makes it, named in errors.

    Returns
    -------
    list of dict
        Two rows with the columns `MODEL_ERRORS`. ``dm1, dm2, dc1, dc2`` are the changes of m and c divided by
        `amount`. A base galaxy is left out, and counted in ``n_failed``, if one of its stamps is flagged in
        either table.

        *none*: the changes of m and c of the answers as they are.

        *response*: those of the calibrated shear. Its response is measured without the error, as in a
        simulation with the true PSF. An estimator that measures its own response does so with the error.

    Raises
    ------
    ContractError
        The tables have different galaxies, or the catalog does not have each base galaxy under all shears.
    """
    both = [join(table, catalog, source=source, rule=rule) for table in (estimates, misjudged)]
    good = both[0].good & both[1].good
    right, wrong = (pairs_of(rows.flagged(good)) for rows in both)
    columns = np.column_stack([_columns(right), _columns(wrong)])
    results = {"none": bootstrapped(columns, _plain, resamples, seed)}
    if right.response is not None:
        own = np.column_stack([own_response_columns(pairs) for pairs in (right, wrong)])
        results["response"] = bootstrapped(own, lambda m: _own(m, right.shear), resamples, seed)
    else:
        results["response"] = bootstrapped(columns, _calibrated, resamples, seed)
    rows = []
    for calibration, (value, error) in results.items():
        row = identity(estimates, label) | {"calibration": calibration, "told": told, "amount": amount}
        row |= {"n_pairs": len(columns), "n_failed": right.n_failed}
        for i, name in enumerate(("dm1", "dm2", "dc1", "dc2")):
            row |= {name: float(value[i] / amount) + 0.0, f"{name}_err": float(error[i] / abs(amount))}
        rows.append(row)
    return rows


def model_errors_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of `model_errors` as the table ``metrics/model_errors.csv``."""
    return pd.DataFrame(list(rows), columns=MODEL_ERRORS)


def _columns(pairs: Pairs) -> NDArray[np.float64]:
    """Return D, D_true and the mean estimate of each base galaxy (see `shear_bias`), for g1 and g2."""
    estimate, truth = pairs.estimate.mean(axis=1), pairs.truth.mean(axis=1)
    responses = [response_to_shear(values, pairs.shear) for values in (estimate, truth)]
    return np.column_stack([*responses, estimate.mean(axis=1)])


def _plain(means: Means) -> Means:
    right, expected, estimate, wrong, _, changed = (means[..., 2 * i : 2 * i + 2] for i in range(6))
    return np.concatenate([(wrong - right) / expected, changed - estimate], axis=-1)


def _calibrated(means: Means) -> Means:
    right, expected = means[..., :2], means[..., 2:4]
    response = np.where(right == 0, np.nan, right / expected)
    return _plain(means) / np.concatenate([response, response], axis=-1)


def _own(means: Means, shear: float) -> Means:
    half = means.shape[-1] // 2
    right, wrong = (own_response_bias(part, shear) for part in (means[..., :half], means[..., half:]))
    return (wrong - right)[..., :4]
