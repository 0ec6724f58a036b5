"""Operations and seconds of a study's networks, relative to the first."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from shearbench.figures.axes import figure_title, list_values, log_limits
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import legend_below
from shearbench.figures.style import SINGLE, styled, wrapped

ENTRY = Entry(
    category="7. Studies",
    caption="""\
**Cost of the networks** of a study, relative to the first: floating-point operations per stamp, and seconds
of one core per stamp, of a measurement and of a training step without the optimiser. The time is the least of
5 of a batch of up to 256 stamps, which the networks of the first seed measure in turn.""",
    reads=("studies/{study}_cost.csv",),
    each="study",
)

_COSTS = {
    "flops": ("FLOPs", "s"),
    "forward_seconds": ("seconds, measurement", "o"),
    "step_seconds": ("seconds, training step", "D"),
}


@styled
def draw(costs: pd.DataFrame, question: str, name: str) -> Figure:
    """Draw the cost of each network of a study.

    Parameters
    ----------
    costs : pandas.DataFrame
        Table of `shearbench.diagnostics.study.measure_inside`, kind ``cost``.
    question : str
        Question of the study, not used.
    name : str
        Name of the study, the title.
    """
    figure = Figure(figsize=(SINGLE, 0.24 * max(len(costs), 3) + 1.2), layout="constrained")
    legend_below(figure, draw_costs(figure.subplots(), costs))
    figure_title(figure, name)
    return figure


def draw_costs(axis: Axes, costs: pd.DataFrame) -> list[Line2D]:
    """Draw costs relative to the first row, one line a row; return the entries of a legend.

    Parameters
    ----------
    axis : Axes
    costs : pandas.DataFrame
        Columns used: value, flops, forward_seconds, step_seconds.
    """
    numbers = costs[list(_COSTS)].astype(float)
    relative = (numbers.div(numbers.iloc[0]) if len(numbers) else numbers).to_numpy(float)
    entries = []
    for k, (label, marker) in enumerate(_COSTS.values()):
        entries += axis.plot(
            relative[:, k],
            np.arange(len(costs)) + 0.22 * (k - 1),
            linestyle="none",
            marker=marker,
            markersize=4,
            color="black",
            markerfacecolor=("black", "white", "0.6")[k],
            label=label,
        )
    axis.axvline(1, color="0.6", linewidth=0.6, zorder=0)
    log_limits(axis, "x", np.append(relative.ravel(), 1.0))
    list_values(axis, list(costs["value"]))
    axis.set_xlabel(f"cost relative to {wrapped(costs['value'].iloc[0])}" if len(costs) else "cost")
    return entries
