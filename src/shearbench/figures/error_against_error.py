"""True errors against the errors that each estimator gives."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from shearbench.figures.axes import figure_title, log_limits, note, positive
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import legend_below, legend_height
from shearbench.figures.looks import looks
from shearbench.figures.style import DOUBLE, exact, styled, wrapped
from shearbench.figures.uncertainties import mean_curves

ENTRY = Entry(
    category="2. Residuals",
    caption="""\
**Error against true error**, one panel for each estimator: the root mean square of the residuals (estimated
minus true g, per component) of galaxies with about the same error, against the root mean square of the errors
that the estimator gives them. Each symbol is one of up to eight bins of galaxies, sorted by their error and
equal in number; colour and symbol: noise per pixel σ. On the grey line the errors are right; above it they
are too small. Points in a vertical line: the estimator does not tell good measurements from bad ones. Errors
above 1 are drawn at 1. Error bars: the finite number of galaxies and, for networks, the scatter over training
seeds. Estimators without errors are left out.""",
    reads=("uncertainty_curves.csv",),
    each="population",
)

_LARGEST = 1.0  # no shape is farther from the truth than about this
_MARKERS = "os^Dv<>pP*X"


@styled
def draw(curves: pd.DataFrame, population: str) -> Figure:
    """Draw the rms residual against the rms error: a panel for each estimator, a colour for each noise level.

    Parameters
    ----------
    curves : pandas.DataFrame
        ``metrics/uncertainty_curves.csv``; columns used: all.
    population : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    table = mean_curves(curves, population, "error")
    table = table.assign(x=table["x"].clip(upper=_LARGEST))
    names = [name for name in looks(curves) if name in set(table["estimator"])]
    levels = sorted(table["noise"].unique())
    colors = colormaps["viridis"](np.linspace(0, 0.85, max(len(levels), 1)))
    entries = [
        Line2D([], [], linestyle="none", marker=marker, color=color, label=rf"$\sigma$ = {exact(level)}")
        for level, color, marker in zip(levels, colors, _markers(len(levels)))
    ]
    columns = min((4, 5), key=lambda count: -len(names) % count)  # the fewest places are empty
    rows = max(-(-len(names) // columns), 1)
    size = (DOUBLE, 0.5 + 1.75 * rows + legend_height(entries, DOUBLE))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    found = positive(table[["x", "y"]])
    limits = (found.min() / 2, found.max() * 1.5) if found.size else (1e-4, 1.0)
    for axis in axes.flat[max(len(names), 1) :]:
        axis.set_visible(False)
    for i, name in enumerate(names):
        axis, rows_of = axes.flat[i], table[table["estimator"] == name]
        axis.plot(limits, limits, color="0.72", linewidth=2.5, zorder=1)
        for level, color, marker in zip(levels, colors, _markers(len(levels))):
            points = rows_of[(rows_of["noise"] == level) & np.isfinite(rows_of["y"])]
            bars = np.minimum(np.nan_to_num(points["y_err"]), 0.999 * points["y"])
            how = {"color": color, "marker": marker, "markersize": 3, "linewidth": 0.7, "elinewidth": 0.7}
            axis.errorbar(points["x"], points["y"], bars, **how)
        note(axis, wrapped(str(rows_of["label"].iloc[0]), 24), "upper left")
        # The panel below may be empty.
        axis.tick_params(labelbottom=i + columns >= len(names))
    log_limits(axes[0, 0], "x", limits, pad=0)
    log_limits(axes[0, 0], "y", limits, pad=0)
    for side in (axes[0, 0].xaxis, axes[0, 0].yaxis):
        side.set_major_locator(LogLocator(base=10, numticks=4))
        side.set_minor_locator(NullLocator())
    for row in axes:
        row[0].set_ylabel("rms residual of $g$")
    for i in range(max(len(names) - columns, 0), max(len(names), 1)):
        axes.flat[i].set_xlabel("rms error given")
    if not names:
        note(axes[0, 0], "no errors", "upper left")
    figure_title(figure, population)
    legend_below(figure, entries)
    return figure


def _markers(count: int) -> list[str]:
    return [_MARKERS[i % len(_MARKERS)] for i in range(count)]
