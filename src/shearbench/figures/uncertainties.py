"""Rows of ``metrics/uncertainty_curves.csv`` for the figures of the errors that estimators give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from shearbench.evaluation.statistics import combine_seeds

FEW_LEVELS = 3
"""A figure has at least the width of as many columns."""
_MOST_LEVELS = 6


def mean_curves(
    curves: pd.DataFrame, population: str, curve: str, calibrations: Sequence[str] = ("none",)
) -> pd.DataFrame:
    """Return the points of one of the curves, averaged over training seeds.

    Galaxies of other populations than that of the training are left out.

    Parameters
    ----------
    curves : pandas.DataFrame
        ``metrics/uncertainty_curves.csv``.
    population : str
    curve : str
        ``coverage``, ``error`` or ``rank``.
    calibrations : sequence of str
        ``none``, ``scaled`` or both.

    Returns
    -------
    pandas.DataFrame
        Columns ``estimator, label, kind, noise, calibration, bin, x, y, y_err``.
    """
    rows = curves[(curves["population"] == population) & (curves["curve"] == curve)]
    rows = rows[(rows["out_of_distribution"] == 0) & rows["calibration"].isin(calibrations)]
    keys = ["estimator", "label", "kind", "noise", "calibration", "bin"]
    if not rows.duplicated(keys).any():  # one seed: nothing to average
        return rows[[*keys, "x", "y", "y_err"]]
    return combine_seeds(rows, keys, {"y": "y_err"}, ["x"])


def levels_of(table: pd.DataFrame) -> list[float]:
    """Return the noise levels of a table; of many, some that are evenly spread."""
    levels = sorted(table["noise"].unique())
    chosen = np.linspace(0, len(levels) - 1, min(len(levels), _MOST_LEVELS)).round().astype(int)
    return [levels[i] for i in chosen]
