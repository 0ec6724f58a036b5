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

from shearbench.evaluation.shear_bias import response_columns
from shearbench.evaluation.shear_pairs import Means, Pairs, compared

PAIR_SCATTER = (
    "population noise estimator label kind seed reference n_pairs n_failed scatter scatter_err "
    "scatter_reference ratio ratio_err"
).split()


def pair_scatter(
    estimates: pd.DataFrame, reference: pd.DataFrame, catalog: pd.DataFrame, **how: Any
) -> dict[str, Any]:
    """Return the row of ``metrics/pair_scatter.csv`` of one estimator at one noise level.

    Parameters
    ----------
    estimates, reference, catalog
        As for `shearbench.evaluation.shear_pairs.compared`.
    **how
        Further arguments of it.

    Returns
    -------
    dict
        The columns `PAIR_SCATTER`. ``scatter`` is the standard deviation over pairs of (ghat(+s) - ghat(-s))
        / 2R, rms of both components, where the two stamps have independent noise of the same level. It is
        measured from stamps with opposite noise, whose scatter is larger by sqrt(2), up to terms of second
        order in the noise, which cancel here. R is the response to shear, so that an estimator that shrinks
        all shapes does not gain.

    Raises
    ------
    ContractError
        The tables have other galaxies than the catalog.
    """
    row = compared(estimates, reference, catalog, _columns, _scatter, "scatter", **how)
    return {column: row[column] for column in PAIR_SCATTER}


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
