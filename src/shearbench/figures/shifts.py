"""The change of the answers of a study's networks when a galaxy is shifted by a fraction of a pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from shearbench.figures.axes import figure_title, log_limits
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import legend_below, legend_height
from shearbench.figures.style import BOUND, DOUBLE, SERIES, SINGLE, exact, styled, wrapped

ENTRY = Entry(
    category="7. Studies",
    caption="""\
**Sensitivity to a shift** of a galaxy without noise along a row of pixels: rms change of the shape over the
Cramér–Rao bound at the noise level σ that the network is told. A network that measures a shape and not a
place changes nothing. Grey line: the bound. Means over training seeds; error bars: scatter of the seeds over
the square root of their number.""",
    reads=("studies/{study}_shifts.csv",),
    each="study",
)

_MARKERS = "osD^vP<>X"


@styled
def draw(shifts: pd.DataFrame, question: str, name: str) -> Figure:
    """Draw the change of the answer against the shift: a panel for each noise level, a line for each value.

    Parameters
    ----------
    shifts : pandas.DataFrame
        Table of `shearbench.diagnostics.study.measure_inside`, kind ``shifts``.
    question : str
        Question of the study, not used.
    name : str
        Name of the study, the title.
    """
    values, levels = list(dict.fromkeys(shifts["value"])), sorted(shifts["noise"].unique())
    looks: dict[str, dict[str, Any]] = {
        value: {
            "color": SERIES[k % len(SERIES)],
            "marker": _MARKERS[k % len(_MARKERS)],
            "markerfacecolor": "white" if k >= len(SERIES) else SERIES[k],
            "markersize": 3.5,
        }
        for k, value in enumerate(values)
    }
    entries = [Line2D([], [], label=wrapped(value), **look) for value, look in looks.items()]
    width = DOUBLE if len(levels) > 1 else SINGLE
    figure = Figure(figsize=(width, 2.6 + legend_height(entries, width)), layout="constrained")
    axes = figure.subplots(1, max(len(levels), 1), squeeze=False)[0]
    for axis, level in zip(axes, levels):
        own = shifts[shifts["noise"] == level]
        for value, look in looks.items():
            groups = own[own["value"] == value].groupby("shift")["change_over_crb"]
            error = (groups.std() / np.sqrt(groups.size())).fillna(0.0)
            axis.errorbar(groups.mean().index, groups.mean(), error, elinewidth=0.7, capsize=1.5, **look)
        axis.axhline(1, color=BOUND, linewidth=3, zorder=1)
        log_limits(axis, "y", [1.0, *own["change_over_crb"]])
        axis.set_xlim(0, 0.55)
        axis.set_title(f"$\\sigma$ = {exact(level)}", fontsize=8)
        axis.set_xlabel("shift [pixels]")
    axes[0].set_ylabel("rms change of $g$ / Cramér–Rao bound")
    legend_below(figure, entries)
    figure_title(figure, name)
    return figure
