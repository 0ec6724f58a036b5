"""Scatter of the shear that pairs of stamps give, beside that of another estimator on the same pairs.

A pair is a galaxy under opposite shears: half the difference of both shapes, divided by the response, is the
shear. The intrinsic shape cancels, so that the scatter over pairs is due to the noise. ShearNet compares
itself with ngmix by this number (github.com/s-Sayan/ShearNet, its notebook of the unit tests).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shearbench.evaluation.joining import identity, join
from shearbench.evaluation.shear_bias import response_columns
from shearbench.evaluation.shear_pairs import Means, Pairs, pairs_of
from shearbench.evaluation.statistics import RESAMPLES, bootstrapped

PAIR_SCATTER = (
    "population noise estimator label kind seed reference n_pairs n_failed scatter scatter_err "
    "scatter_reference ratio ratio_err"
).split()


def pair_scatter(
    estimates: pd.DataFrame,
    reference: pd.DataFrame,
    catalog: pd.DataFrame,
    *,
    label: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    source: str = "estimates",
    rule: str = "measure_shear",
) -> dict[str, Any]:
    """Return the row of ``metrics/pair_scatter.csv`` of one estimator at one noise level.

    Parameters
    ----------
    estimates, reference : pandas.DataFrame
        Estimates of the split ``shear`` at the same noise level; of stamps in both, the first are compared.
    catalog : pandas.DataFrame
    label : str, optional
        Label of the estimator in figures; its name by default.
    resamples, seed : int
        Number of resamples of the bootstrap over base galaxies, and its random seed.
    source, rule : str
        File of the estimates and the rule that makes it, named in errors.

    Returns
    -------
    dict
        The columns `PAIR_SCATTER`. ``scatter`` is the standard deviation over pairs of (ghat(+s) - ghat(-s))
        / 2R, rms of both components, where the two stamps have independent noise of the same level. It is
        measured from stamps with opposite noise, whose scatter is larger by sqrt(2), up to terms of second
        order in the noise, which cancel here. R is the response to shear, so that an estimator that shrinks
        all shapes does not gain. ``ratio`` is the scatter over that of the reference, on the base galaxies
        that both measure without a failure; both are resampled together.

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
    columns = np.column_stack([_columns(one) for one in pairs])

    def statistic(means: Means) -> Means:
        half = means.shape[-1] // 2
        own, other = (_scatter(part) for part in (means[..., :half], means[..., half:]))
        return np.stack([own, other, own / other], axis=-1)

    value, error = bootstrapped(columns, statistic, resamples, seed)
    return identity(estimates, label) | {
        "reference": reference.attrs["estimator"],
        "n_pairs": len(columns),
        "n_failed": pairs[0].n_failed,
        "scatter": float(value[0]),
        "scatter_err": float(error[0]),
        "scatter_reference": float(value[1]),
        "ratio": float(value[2]),
        "ratio_err": float(error[2]),
    }


def pair_scatter_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of `pair_scatter` as the table ``metrics/pair_scatter.csv``."""
    return pd.DataFrame(list(rows), columns=PAIR_SCATTER)


def _columns(pairs: Pairs) -> NDArray[np.float64]:
    """Return means and squares of the paired shear of each base galaxy, and the responses: (base, 8)."""
    # [base, rotation, sign of the noise, member, component]
    signs = pairs.estimate.reshape(len(pairs.estimate), -1, 2, 4, 2)
    shear = np.stack(
        [
            (signs[:, :, [0, 1], plus, k] - signs[:, :, [1, 0], minus, k]) / 2
            for k, (plus, minus) in enumerate(((0, 1), (2, 3)))
        ],
        axis=-1,
    )
    mean, square = shear.mean(axis=(1, 2)), np.square(shear).mean(axis=(1, 2))
    return np.column_stack([mean, square, response_columns(pairs)])


def _scatter(means: Means) -> Means:
    mean, square, response, expected = (means[..., 2 * i : 2 * i + 2] for i in range(4))
    variance = (square - mean**2) / 2 / (response / expected) ** 2
    return np.asarray(np.sqrt(variance.mean(axis=-1)))
