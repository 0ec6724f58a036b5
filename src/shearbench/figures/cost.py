"""Accuracy against the time to measure a stamp."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from shearbench.figures.axes import errorbar, log_limits, panels
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import crb_handle, failures, handles, legend_below, legend_height
from shearbench.figures.looks import looks, over_seeds, populations_of
from shearbench.figures.style import BOUND, DOUBLE, SINGLE, SPACING, exact, styled, wrapped

ENTRY = Entry(
    category="6. Cost",
    caption="""\
**Accuracy against cost.** RMSE of g divided by the Cramér–Rao bound of the same test galaxies, against
the time to measure one stamp [s], at the lowest noise level (left) and at the middle one (right), one
row per population. Times were measured in this run; reading of the stamps and training of the networks
are not included. They depend on the machine and on its load. Grey: the bound. Error bars: bootstrap over
the galaxies and scatter over training seeds. At high noise an estimator with a prior can go below the
bound because it is biased.""",
    reads=("accuracy.csv",),
)


@styled
def draw(accuracy: pd.DataFrame) -> Figure:
    """Draw RMSE over the bound against seconds per stamp, at the lowest noise and at the middle level.

    Parameters
    ----------
    accuracy : pandas.DataFrame
        ``metrics/accuracy.csv``; columns used: population, noise, estimator, label, kind, seed,
        rmse_over_crb, rmse_over_crb_err, seconds_per_stamp.

    Returns
    -------
    matplotlib.figure.Figure
        Rows: populations; columns: the two noise levels (one where there is only one).
    """
    names = populations_of(accuracy)
    found = looks(accuracy)
    levels = np.unique(accuracy["noise"].dropna())
    shown = list(dict.fromkeys([levels[0], levels[len(levels) // 2]])) if len(levels) else []
    points = handles(found, found, failures(accuracy, "rmse_over_crb"), line=False)
    entries = [crb_handle(), *points]
    width = SINGLE if len(shown) <= 1 else DOUBLE
    rows = max(len(names), 1)
    figure, axes = panels(len(shown), rows, 2.3, "col", legend_height(entries, width))
    for i, name in enumerate(names):
        for j, noise in enumerate(shown):
            axis = axes[i, j]
            table = accuracy[(accuracy["population"] == name) & (accuracy["noise"] == noise)]
            axis.axhline(1.0, color=BOUND, linewidth=3.5, zorder=1)
            for estimator, look in found.items():
                rows_of = table[table["estimator"] == estimator]
                mean = over_seeds(rows_of, "estimator", "rmse_over_crb", "rmse_over_crb_err")
                if len(mean):
                    seconds = [rows_of["seconds_per_stamp"].median()]
                    errorbar(axis, seconds, mean["value"], mean["error"], look, linestyle="none")
            title = f"{wrapped(name)}, $\\sigma$ = {exact(noise)}"
            axis.set_title(title, fontsize=7.5, loc="left", pad=3, linespacing=SPACING)
            if j == 0:
                axis.set_ylabel("RMSE / Cramér–Rao bound")
            if i == len(names) - 1:
                axis.set_xlabel("time per stamp [s]")
    log_limits(axes[0, 0], "x", accuracy["seconds_per_stamp"], pad=0.4)
    for axis, noise in zip(axes[0], shown):
        ratios = accuracy.loc[accuracy["noise"] == noise, "rmse_over_crb"].to_numpy(float)
        log_limits(axis, "y", np.append(ratios, 1.0), pad=0.15)
    legend_below(figure, entries)
    return figure
