"""Histograms of the rank of the true shape in the distribution that each estimator claims."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from shearbench.figures.axes import figure_title, note
from shearbench.figures.catalogue import Entry
from shearbench.figures.looks import looks
from shearbench.figures.style import DOUBLE, SPACING, exact, styled, wrapped
from shearbench.figures.uncertainties import levels_of, mean_curves

ENTRY = Entry(
    category="2. Residuals",
    caption="""\
**Ranks of the truth.** Histograms of the fraction of the distribution that an estimator claims (normal about
its estimate, with its error as standard deviation) which is below the true value, for both components of g:
the probability integral transform, or the rank of simulation-based calibration. Dotted: uniform, as it is if
the claim is right. A valley: errors are too small, or outliers; a hill: errors are too large; a slope: an
offset. Rows: estimators; columns: noise per pixel σ, at most six levels. Densities above 2.5 are cut, and the
largest one of a panel is printed. Error bars: the finite number of galaxies and, for networks, the scatter
over training seeds. Estimators without errors are left out.""",
    reads=("uncertainty_curves.csv",),
    each="population",
)

_TOP = 2.5
_LEFT, _ABOVE, _BELOW = 1.25, 0.45, 0.4  # margins [inches]


@styled
def draw(curves: pd.DataFrame, population: str) -> Figure:
    """Draw the histograms of ranks: a row for each estimator, a column for each noise level.

    Parameters
    ----------
    curves : pandas.DataFrame
        ``metrics/uncertainty_curves.csv``; columns used: all.
    population : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    table = mean_curves(curves, population, "rank")
    found = {name: look for name, look in looks(curves).items() if name in set(table["estimator"])}
    levels = levels_of(table)
    rows, columns = max(len(found), 1), max(len(levels), 1)
    height = 0.5 * rows + _ABOVE + _BELOW
    figure = Figure(figsize=(DOUBLE, height))
    # All sizes are known: a layout that measures texts takes most of the time of so many panels.
    figure.subplots_adjust(
        _LEFT / DOUBLE, _BELOW / height, 0.985, 1 - _ABOVE / height, wspace=0.08, hspace=0.08
    )
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for row, (name, look) in zip(axes, found.items()):
        for axis, level in zip(row, levels):
            part = table[(table["estimator"] == name) & (table["noise"] == level)].sort_values("x")
            axis.axhline(1, color="0.35", linewidth=0.8, linestyle=(0, (1, 1)), zorder=2.5)
            if part.empty:
                continue
            edges = np.linspace(0, 1, len(part) + 1)
            axis.stairs(part["y"], edges, fill=True, color=look.color, alpha=0.35)
            axis.stairs(part["y"], edges, color=look.color, linewidth=0.9)
            bars = np.nan_to_num(part["y_err"])
            axis.errorbar(part["x"], part["y"], bars, color=look.color, linestyle="none", elinewidth=0.7)
            if part["y"].max() > _TOP:
                note(axis, f"{part['y'].max():.1f}", "upper center", fontsize=6.5)
        row[0].set_ylabel(
            wrapped(look.label, 22), rotation=0, ha="right", va="center", fontsize=7.5, linespacing=SPACING
        )
    first = axes[0, 0]  # all share its limits
    first.set(xlim=(0, 1), ylim=(0, _TOP), xticks=(0, 0.5, 1), xticklabels=("0", "½", "1"), yticks=())
    for axis in axes.flat:
        axis.tick_params(axis="x", top=False)
    for axis, level in zip(axes[0], levels):
        axis.set_title(rf"$\sigma$ = {exact(level)}")
    for axis in axes[-1]:
        axis.set_xlabel("rank of the true $g$")
    if not found:
        note(first, "no errors", "upper left")
    figure_title(figure, population)
    return figure
