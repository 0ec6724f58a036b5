"""Errors of a study's networks with the statistics of the batch and with running averages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from shearbench.figures.axes import figure_title, list_values, log_limits
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import legend_below, legend_height
from shearbench.figures.style import BLUE, BOUND, DOUBLE, SINGLE, VERMILLION, exact, styled

ENTRY = Entry(
    category="7. Studies",
    caption="""\
**Does an answer depend on the other galaxies of the batch?** RMSE of g over the Cramér–Rao bound of the same
noisy test galaxies, measured by each network of a study in three ways: with the running averages of its batch
normalisations, as in all other results; with the statistics of batches of mixed brightness; and with those of
batches of about equal brightness. The batches are as large as in the training. The three agree exactly for
networks without batch normalisation. Means over training seeds; error bars: scatter of the seeds over the
square root of their number.""",
    reads=("studies/{study}_batches.csv",),
    each="study",
)

_LOOKS: dict[str, tuple[str, dict[str, Any]]] = {
    "running": ("running averages", {"color": "black", "marker": "o"}),
    "mixed": ("batches of mixed brightness", {"color": BLUE, "marker": "s", "markerfacecolor": "white"}),
    "equal": ("batches of equal brightness", {"color": VERMILLION, "marker": "x"}),
}


@styled
def draw(batches: pd.DataFrame, question: str, name: str) -> Figure:
    """Draw the errors of each network: a panel for each noise level, a line for each value.

    Parameters
    ----------
    batches : pandas.DataFrame
        Table of `shearbench.diagnostics.study.measure_inside`, kind ``batches``.
    question : str
        Question of the study, not used.
    name : str
        Name of the study, the title.
    """
    values, levels = list(dict.fromkeys(batches["value"])), sorted(batches["noise"].unique())
    entries = [
        Line2D([], [], linestyle="none", markersize=4, label=label, **look) for label, look in _LOOKS.values()
    ]
    width = DOUBLE if len(levels) > 1 else SINGLE
    height = 0.3 * max(len(values), 3) + 0.9 + legend_height(entries, width)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, max(len(levels), 1), squeeze=False, sharey=True)[0]
    for axis, level in zip(axes, levels):
        own = batches[batches["noise"] == level]
        for k, (statistics, (_, look)) in enumerate(_LOOKS.items()):
            groups = own[own["statistics"] == statistics].groupby("value")["rmse_over_crb"]
            mean, error = groups.mean(), (groups.std() / np.sqrt(groups.size())).fillna(0.0)
            places = [values.index(value) + 0.22 * (k - 1) for value in mean.index]
            axis.errorbar(mean, places, xerr=error, linestyle="none", markersize=4, elinewidth=0.7, **look)
        axis.axvline(1, color=BOUND, linewidth=3, zorder=1)
        log_limits(axis, "x", [1.0, *own["rmse_over_crb"]])
        list_values(axis, values)
        axis.set_title(f"$\\sigma$ = {exact(level)}", fontsize=8)
        axis.set_xlabel("RMSE / Cramér–Rao bound")
    legend_below(figure, entries)
    figure_title(figure, name)
    return figure
