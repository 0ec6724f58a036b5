"""Multiplicative bias of galaxies selected by an observed quantity, before and after calibration."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from shearbench.figures.axes import errorbar, figure_title, signed_log
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import handles, legend_below, legend_height
from shearbench.figures.looks import looks, over_seeds
from shearbench.figures.style import DOUBLE, exact, styled

ENTRY = Entry(
    category="3. Shear bias",
    caption="""\
**Shear bias of selected galaxies**: multiplicative bias m, mean of both components, in four overlapping
bins of the error that the estimator gives each galaxy (1: largest errors, 4: smallest) and for all
galaxies, one column per noise level σ. The shear changes the bin of a galaxy, so selection bias is
included. Top: without calibration. Middle: divided by the mean response of all galaxies. Bottom: divided
by the response of galaxies with the same error. Responses are measured on other galaxies. An estimator
is safe against this selection where m is consistent with zero in each bin. The axis is linear within
±0.1 and logarithmic beyond. Error bars: 1σ, bootstrap over galaxies and scatter over training seeds.""",
    reads=("shear_bias_bins.csv",),
    each="population",
)

_ROWS = (
    ("none", "uncalibrated"),
    ("response", "response of all galaxies"),
    ("binned", "response as a function\nof the observed error"),
)
_LINEAR = 0.1  # |m| beyond which the axis is logarithmic


@styled
def draw(bins: pd.DataFrame, population: str) -> Figure:
    """Draw m, the mean of both components, in bins of the estimator's own error.

    Parameters
    ----------
    bins : pandas.DataFrame
        ``metrics/shear_bias_bins.csv``.
    population : str

    Returns
    -------
    matplotlib.figure.Figure
        Rows: calibrations; columns: noise levels. In a panel: bins from the largest errors to the
        smallest, then all galaxies.
    """
    table = bins[bins["population"] == population]
    error = np.hypot(table["m1_err"], table["m2_err"]) / 2
    table = table.assign(m=table[["m1", "m2"]].mean(axis=1), m_err=error)
    found = looks(bins)
    names = [name for name in found if name in set(table["estimator"])]
    levels = sorted(table["noise"].unique())
    places = {k: k for k in sorted(set(table["bin"]) - {0})} | {0: table["bin"].max() + 1.4}
    entries = handles(found, names, {}, line=False)
    height = legend_height(entries, DOUBLE)
    figure = Figure(figsize=(DOUBLE, 5.4 + height), layout="constrained")
    axes = figure.subplots(3, max(len(levels), 1), sharex=True, sharey=True, squeeze=False)
    for row, (calibration, title) in zip(axes, _ROWS):
        for column, axis in enumerate(row):
            axis.axhline(0, color="0.4", linewidth=0.5, zorder=1)
            if column == 0:
                axis.set_ylabel(f"{title}\n$m$")
            if column >= len(levels):
                continue
            part = table[(table["noise"] == levels[column]) & (table["calibration"] == calibration)]
            for i, name in enumerate(names):
                points = over_seeds(part[part["estimator"] == name], "bin", "m", "m_err")
                x = points["bin"].map(places) + (i - (len(names) - 1) / 2) * 0.8 / max(len(names), 1)
                errorbar(axis, x, points["value"], points["error"], found[name], linestyle="none")
    for axis, level in zip(axes[0], levels):
        axis.set_title(f"$\\sigma$ = {exact(level)}")
    sizes = table["m"].abs().to_numpy(float)
    largest = float(sizes[np.isfinite(sizes)].max(initial=3 * _LINEAR))
    signed_log(axes[0, 0], "y", _LINEAR, 2 * largest)
    for axis in axes[-1]:
        axis.set_xticks(list(places.values()), ["all" if k == 0 else str(k) for k in places])
        axis.set_xlabel("bin of the estimator's error (1: largest)")
    figure_title(figure, population)
    legend_below(figure, entries)
    return figure
