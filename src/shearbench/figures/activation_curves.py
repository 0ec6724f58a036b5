"""The activations of a study's networks: functions, derivatives, responses to the edges of a galaxy."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from shearbench.figures.axes import figure_title
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import legend_below, legend_height
from shearbench.figures.style import DOUBLE, SERIES, styled, wrapped

ENTRY = Entry(
    category="7. Studies",
    caption="""\
**The activation of each network** of a study, the first one after the training (one that is learned is that
of the first seed). Left: function. Middle: derivative, by which a gradient is multiplied on its way back.
Right: response to a row of pixels through a galaxy without noise after Sobel's filter for edges along the
row (grey), scaled to a largest value of 2.""",
    reads=("studies/{study}_curves.csv",),
    each="study",
)

_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)))


@styled
def draw(curves: pd.DataFrame, question: str, name: str) -> Figure:
    """Draw the function and the derivative of each activation, and its response to edges.

    Parameters
    ----------
    curves : pandas.DataFrame
        Table of `shearbench.diagnostics.study.measure_inside`, kind ``curves``.
    question : str
        Question of the study, not used.
    name : str
        Name of the study, the title.
    """
    values = list(dict.fromkeys(curves["value"]))
    looks = {
        value: {
            "color": SERIES[k % len(SERIES)],
            "linestyle": _DASHES[(k + k // len(SERIES)) % len(_DASHES)],
            "linewidth": 1.1,
        }
        for k, value in enumerate(values)
    }
    entries = [Line2D([], [], label=wrapped(value), **look) for value, look in looks.items()]
    entries.append(Line2D([], [], color="0.8", linewidth=3, label="edge-filtered galaxy"))
    figure = Figure(figsize=(DOUBLE, 2.4 + legend_height(entries, DOUBLE)), layout="constrained")
    function, slope, row = figure.subplots(1, 3)
    first = curves[(curves["part"] == "row") & (curves["value"] == (values[0] if values else ""))]
    row.plot(first["x"], first["given"], color="0.8", linewidth=3, zorder=1)
    for axis, part, column in (
        (function, "curve", "response"),
        (slope, "curve", "slope"),
        (row, "row", "response"),
    ):
        for value, look in looks.items():
            own = curves[(curves["value"] == value) & (curves["part"] == part)]
            axis.plot(own["x"], own[column], zorder=2, **look)
        axis.axhline(0, color="0.6", linewidth=0.5, zorder=0)
    for axis, labels in (
        (function, ("input $x$", "$f(x)$")),
        (slope, ("input $x$", "$f'(x)$")),
        (row, ("distance from the centre [pixels]", "response")),
    ):
        axis.set_xlabel(labels[0])
        axis.set_ylabel(labels[1])
    legend_below(figure, entries)
    figure_title(figure, name)
    return figure
