"""Fraction of true shapes covered by intervals of a nominal probability, before and after calibration."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from shearbench.figures.axes import figure_title, note
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import handles, legend_below, legend_height
from shearbench.figures.looks import looks
from shearbench.figures.style import DOUBLE, exact, styled
from shearbench.figures.uncertainties import FEW_LEVELS, levels_of, mean_curves

ENTRY = Entry(
    category="2. Residuals",
    caption="""\
**Reliability of the errors.** Fraction of the test galaxies whose true g is within the central interval of a
nominal probability, if the error of the estimator is the standard deviation of a normal distribution, against
that probability. On the grey line errors are right; below it they are too small, above it too large. Upper
panels: errors as each estimator gives them (of fits: from the covariance; of networks: calibrated on
validation galaxies; of ensembles: spread included). Lower panels: multiplied by one factor for each noise
level, which is measured on every second galaxy; the others are shown. Columns: noise per pixel σ, at most six
levels. Means over training seeds. Errors of the fractions are about 1% for 2000 galaxies and in the table.
Estimators without errors are left out.""",
    reads=("uncertainty_curves.csv",),
    each="population",
)

_ROWS = {"none": "as given", "scaled": "scaled"}


@styled
def draw(curves: pd.DataFrame, population: str) -> Figure:
    """Draw the covered fraction against the nominal one, a column for each noise level.

    Parameters
    ----------
    curves : pandas.DataFrame
        ``metrics/uncertainty_curves.csv``; columns used: all.
    population : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    found = looks(curves)
    table = mean_curves(curves, population, "coverage", tuple(_ROWS))
    levels = levels_of(table)
    entries = handles(found, set(table["estimator"]))
    height = 0.35 + 2 * (DOUBLE - 0.5) / max(len(levels), FEW_LEVELS) + 0.25
    legend = legend_height(entries, DOUBLE)
    figure = Figure(figsize=(DOUBLE, height + legend), layout="constrained")
    axes = figure.subplots(2, max(len(levels), 1), squeeze=False, sharex=True, sharey=True)
    for row, (calibration, words) in zip(axes, _ROWS.items()):
        for axis, level in zip(row, levels):
            part = table[(table["noise"] == level) & (table["calibration"] == calibration)]
            axis.plot([0, 1], [0, 1], color="0.72", linewidth=2.5, zorder=1)
            for name, look in found.items():
                points = part[part["estimator"] == name].sort_values("x")
                line = {**look.line, "markersize": 0.6 * look.markersize}
                axis.plot(points["x"], points["y"], **line)
        row[0].set_ylabel(f"fraction covered\n({words})")
    for axis, level in zip(axes[0], levels):
        axis.set_title(rf"$\sigma$ = {exact(level)}")
    for axis in axes[1]:
        axis.set_xlabel("nominal fraction")
    first = axes[0, 0]  # all share its limits
    first.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    if not entries:
        note(first, "no errors", "upper left")
    figure_title(figure, population)
    legend_below(figure, entries)
    return figure
