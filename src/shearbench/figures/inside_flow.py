"""Gradients and flat activations of networks, before and after their training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from shearbench.figures.axes import log_limits, note
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import legend_below, legend_height
from shearbench.figures.style import BLUE, DOUBLE, VERMILLION, power, styled, wrapped

ENTRY = Entry(
    category="8. Inside networks",
    caption="""\
**Gradients and activations** of each network before and after its training, layer by layer. Left: norm of the
gradient of the loss by the weights of a layer, over the norm of the weights; the number is the largest
eigenvalue of the Hessian matrix of the loss. Middle: largest (filled) and rms (open) singular value of the
Jacobian of each layer. Right: share of the responses of each activation whose slope is below 0.01
(filled), which pass no gradient, and of units for which this holds everywhere (dead, open). The loss is the
mean square residual of all targets over their spread, for 60 noisy test stamps.""",
    reads=("inside_flow.csv", "inside_curvature.csv"),
    each="population",
)

_LOOKS: dict[str, dict[str, Any]] = {
    "start": {"color": BLUE, "marker": "o", "linestyle": ":"},
    "end": {"color": VERMILLION, "marker": "s", "linestyle": "-"},
}
_SAID = {"start": "before the training", "end": "after the training"}
_ROW = 1.35


@styled
def draw(flow: pd.DataFrame, curvature: pd.DataFrame, population: str) -> Figure:
    """Draw the gradients of the networks of a population.

    Parameters
    ----------
    flow, curvature : pandas.DataFrame
        ``metrics/inside_flow.csv`` and ``metrics/inside_curvature.csv``, see
        `shearbench.diagnostics.flow`.
    population : str
    """
    flow = flow[flow["population"] == population]
    curvature = curvature[(curvature["population"] == population) & (curvature["rank"] == 1)]
    variants = list(dict.fromkeys(flow["variant"]))
    rows = max(len(variants), 1)
    entries = [
        *(Line2D([], [], label=_SAID[when], markersize=3, **look) for when, look in _LOOKS.items()),
        Line2D([], [], label="rms, or dead units", color="0.3", marker="o", linestyle="", fillstyle="none"),
    ]
    figure = Figure(
        figsize=(DOUBLE, rows * _ROW + legend_height(entries, DOUBLE) + 0.2), layout="constrained"
    )
    axes = figure.subplots(rows, 3, squeeze=False)
    for row, variant in zip(axes, variants):
        own = flow[flow["variant"] == variant]
        for when, look in _LOOKS.items():
            one = own[own["when"] == when].sort_values("place")
            weighed = one[one["parameters"] > 0]
            # Zero, of a layer behind weights that begin as zeros, is a gap on a logarithmic axis.
            gradient = (weighed["gradient"] / weighed["weights"]).where(weighed["gradient"] > 0)
            _line(row[0], weighed["place"], gradient, look)
            stretch = one[["stretch_largest", "stretch_mean"]].replace(0.0, np.nan)
            _line(row[1], one["place"], stretch["stretch_largest"], look)
            _line(row[1], one["place"], stretch["stretch_mean"], look, fillstyle="none")
            active = one[one["flat"].notna()]
            _line(row[2], active["place"], active["flat"], look)
            _line(row[2], active["place"], active["dead"], look, fillstyle="none")
        for axis in row[:2]:
            log_limits(axis, "y", np.concatenate([line.get_ydata() for line in axis.lines]))
        row[2].set_ylim(-0.05, 1.05)
        largest = curvature[curvature["variant"] == variant].set_index("when")["eigenvalue"]
        if set(_LOOKS) <= set(largest.index):
            text = f"curvature {power(largest['start'])} → {power(largest['end'])}"
            note(row[0], text, fontsize=6.5)
        row[0].set_title(wrapped(variant), loc="left", fontsize=7.5)
        for axis in row:
            axis.set_xlim(-0.5, max(float(own["place"].max()), 1) + 0.5)
            axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    for axis, label in zip(axes.T, ("gradient / weights", "singular values", "share flat or dead")):
        for one_axis in axis:
            one_axis.set_ylabel(label, fontsize=7)
        axis[-1].set_xlabel("layer")
    legend_below(figure, entries)
    return figure


def _line(axis: Axes, x: pd.Series, y: pd.Series, look: dict[str, Any], **changes: Any) -> None:
    axis.plot(x, y, **{**look, "markersize": 3, **changes})
