"""Errors of a study's networks with the statistics of the batch, beside those with running averages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from shearbench.figures.axes import figure_title, list_values, log_limits, positive
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import legend_below, legend_height
from shearbench.figures.style import BLUE, DOUBLE, SINGLE, VERMILLION, exact, styled

ENTRY = Entry(
    category="7. Studies",
    caption="""\
**Does an answer depend on the other galaxies of the batch?** RMSE of g for the same noisy test galaxies, with
batch normalisation by the statistics of batches of mixed brightness, and of batches of about equal
brightness, divided by the RMSE with running averages (grey line), as in all other results. The batches are as
large as in the training. Networks without batch normalisation are at 1. Means over training seeds; error
bars: scatter of the seeds over the square root of their number.""",
    reads=("studies/{study}_batches.csv",),
    each="study",
)

_LOOKS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixed": ("batches of mixed brightness", {"color": BLUE, "marker": "s"}),
    "equal": ("batches of equal brightness", {"color": VERMILLION, "marker": "o"}),
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
    keys = ["value", "seed"]
    for axis, level in zip(axes, levels):
        own = batches[batches["noise"] == level]
        rmse = {
            statistics: rows.set_index(keys)["rmse_over_crb"]
            for statistics, rows in own.groupby("statistics")
        }
        shown = [1.0]
        for k, (statistics, (_, look)) in enumerate(_LOOKS.items()):
            if statistics not in rmse:
                continue
            groups = (rmse[statistics] / rmse["running"]).groupby("value")
            mean, error = groups.mean(), (groups.std() / np.sqrt(groups.size())).fillna(0.0)
            places = [values.index(value) + 0.28 * (k - 0.5) for value in mean.index]
            axis.errorbar(mean, places, xerr=error, linestyle="none", markersize=4, elinewidth=0.7, **look)
            shown += [*(mean - error), *(mean + error)]
        axis.axvline(1, color="0.6", linewidth=0.8, zorder=1)
        found = positive(shown)
        if found.max() > 3 * found.min():
            log_limits(axis, "x", found)
        else:
            room = 0.1 * (np.ptp(found) or 0.1)
            axis.set_xlim(found.min() - room, found.max() + room)
        list_values(axis, values)
        axis.set_title(f"$\\sigma$ = {exact(level)}", fontsize=8)
        axis.set_xlabel("RMSE / RMSE with running averages")
    legend_below(figure, entries)
    figure_title(figure, name)
    return figure
