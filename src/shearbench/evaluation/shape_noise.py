"""Shape noise of every estimator over that of FPFS, on the same galaxies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from shearbench.evaluation.shear_bias import noise_columns, noise_variance
from shearbench.evaluation.shear_pairs import Means, compared

SHAPE_NOISE = (
    "population noise estimator label kind seed reference n_pairs n_failed shape_noise shape_noise_reference "
    "ratio ratio_err"
).split()


def shape_noise(
    estimates: pd.DataFrame, reference: pd.DataFrame, catalog: pd.DataFrame, **how: Any
) -> dict[str, Any]:
    """Return the row of ``metrics/shape_noise.csv`` of one estimator at one noise level.

    Parameters
    ----------
    estimates, reference, catalog
        As for `shearbench.evaluation.shear_pairs.compared`.
    **how
        Further arguments of it.

    Returns
    -------
    dict
        The columns `SHAPE_NOISE`. The shape noise is the scatter of a component over the response, as in
        ``shear_bias.csv``. The intrinsic shapes, which both estimators measure, cancel in the
        error of the ratio.

    Raises
    ------
    ContractError
        The tables have other galaxies than the catalog.
    """
    row = compared(estimates, reference, catalog, noise_columns, _scatter, "shape_noise", **how)
    return {column: row[column] for column in SHAPE_NOISE}


def _scatter(means: Means) -> Means:
    return np.asarray(np.sqrt(noise_variance(means)))


def shape_noise_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of `shape_noise` as the table ``metrics/shape_noise.csv``."""
    return pd.DataFrame(list(rows), columns=SHAPE_NOISE)
