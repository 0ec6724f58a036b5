"""Shape noise of every estimator over that of FPFS, on the same galaxies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from shearbench.evaluation.joining import identity, join
from shearbench.evaluation.shear_bias import noise_columns, noise_variance
from shearbench.evaluation.shear_pairs import Means, pairs_of
from shearbench.evaluation.statistics import RESAMPLES, bootstrapped

SHAPE_NOISE = (
    "population noise estimator label kind seed reference n_pairs n_failed shape_noise shape_noise_reference "
    "ratio ratio_err"
).split()


def shape_noise(
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
    """Return the row of ``metrics/shape_noise.csv`` of one estimator at one noise level.

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
        The columns `SHAPE_NOISE`. The shape noise is the scatter of a component over the response, as in
        ``shear_bias.csv``, here of the base galaxies that both measure without a failure. Numerator and
        denominator of ``ratio`` are resampled together: the intrinsic shapes, which both have, cancel in its
        error.

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
    columns = np.column_stack([noise_columns(one) for one in pairs])

    def statistic(means: Means) -> Means:
        half = means.shape[-1] // 2
        own, other = (np.sqrt(noise_variance(part)) for part in (means[..., :half], means[..., half:]))
        return np.stack([own, other, own / other], axis=-1)

    value, error = bootstrapped(columns, statistic, resamples, seed)
    row = {"reference": reference.attrs["estimator"], "n_pairs": len(columns), "n_failed": pairs[0].n_failed}
    numbers = dict(zip(("shape_noise", "shape_noise_reference", "ratio"), value.tolist()))
    return identity(estimates, label) | row | numbers | {"ratio_err": float(error[2])}


def shape_noise_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of `shape_noise` as the table ``metrics/shape_noise.csv``."""
    return pd.DataFrame(list(rows), columns=SHAPE_NOISE)
