"""Gradients, zero responses and dead units of a study's networks, before and after their training."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from shearbench.figures.axes import figure_title, list_values, log_limits
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import legend_below, legend_height
from shearbench.figures.style import BLUE, DOUBLE, VERMILLION, styled, wrapped

ENTRY = Entry(
    category="7. Studies",
    caption="""\
**Gradients and silent units** of the networks of a study before (open) and after the training (filled).
Upper left: gradient of the first layer with weights over that of the last; below 1, gradients shrink on
their way to the first layer, above 1 they grow. Upper middle: share of the responses of all activations
that are exactly zero. Upper right: share of responses whose slope is below 0.01 (circles), which pass no
gradient, and of units for which this holds everywhere (dead, crosses). Means over training seeds; error
bars: scatter of the seeds over the square root of their number. Below, for each network: norm of the
gradient of the loss by the weights of a layer, over the norm of the weights, from the first layer with
weights to the last, without normalisations; a line for each seed. The loss is the mean square residual of
all targets over their spread, for 60 noisy test stamps; batch normalisation uses the statistics of these
stamps.""",
    reads=("studies/{study}_flow.csv",),
    each="study",
)

_TIMES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "start": ("before the training", BLUE, {"linestyle": ":", "linewidth": 0.9}),
    "end": ("after the training", VERMILLION, {"linestyle": "-", "linewidth": 0.8}),
}
_COLUMNS, _ROW, _LINE = 4, 1.2, 0.17  # panels beside each other; heights of a panel and of a line, inches


@styled
def draw(flow: pd.DataFrame, question: str, name: str) -> Figure:
    """Draw the gradients and the responses of the networks of a study.

    Parameters
    ----------
    flow : pandas.DataFrame
        Table of `shearbench.diagnostics.study.measure_inside`, kind ``flow``.
    question : str
        Question of the study, not used.
    name : str
        Name of the study, the title.
    """
    values = list(dict.fromkeys(flow["value"]))
    entries = [
        Line2D([], [], color=color, marker="o", markersize=3.5, label=label, **_face(when, color), **line)
        for when, (label, color, line) in _TIMES.items()
    ]
    entries += [Line2D([], [], color="0.3", marker="x", markersize=4, linestyle="none", label="dead units")]
    rows = max(math.ceil(len(values) / _COLUMNS), 1)
    heights = [_LINE * max(len(values), 3) + 0.75, _ROW * rows + 0.3]
    legend = legend_height(entries, DOUBLE)
    figure = Figure(figsize=(DOUBLE, sum(heights) + legend + 0.25), layout="constrained")
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    _list(upper, flow, values)
    axes = lower.subplots(rows, _COLUMNS, squeeze=False, sharey=True)
    weighed = _weighed(flow)
    for axis, value in zip(axes.flat, values):
        own = weighed[weighed["value"] == value]
        for (when, _), one in own.groupby(["when", "seed"], sort=False):
            _, color, line = _TIMES[when]
            axis.plot(one["number"], one["relative"], color=color, alpha=0.8, **line)
        axis.set_title(wrapped(value, 30), loc="left", fontsize=7)
        last = max(float(own["number"].max()) if len(own) else 1, 2)
        axis.set_xlim(1 - 0.03 * last, 1.03 * last)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axis in axes.flat[len(values) :]:
        axis.set_axis_off()
    log_limits(axes[0, 0], "y", weighed["relative"])
    axes[0, 0].yaxis.set_minor_locator(NullLocator())  # in many small panels, they take most of the time
    lower.supylabel("gradient / weights", fontsize=8)
    lower.supxlabel("layer with weights", fontsize=8)
    legend_below(figure, entries)
    figure_title(figure, name)
    return figure


def _list(figure: Any, flow: pd.DataFrame, values: list[str]) -> None:
    """Draw the numbers of each network, one line a value."""
    left, middle, right = figure.subplots(1, 3, sharey=True)
    keys = ["value", "when", "seed"]
    weighed = _weighed(flow)
    relative = weighed.groupby(keys, sort=False)["relative"]
    # With missing ones: a layer without a gradient is no reason to take the next one.
    ratio = relative.agg(lambda layers: layers.iloc[0] / layers.iloc[-1]).astype(float)
    _points(left, ratio.map(math.log10, na_action="ignore"), values, "o", power=True)
    active = flow[flow["units"].notna()]
    for axis, column, marker in ((middle, "zero", "o"), (right, "flat", "o"), (right, "dead", "x")):
        total = (active[column] * active["units"]).groupby([active[key] for key in keys], sort=False).sum()
        units = active.groupby(keys, sort=False)["units"].sum()
        _points(axis, total / units, values, marker)
    log_limits(left, "x", [1.0, *ratio], pad=0.3)
    left.axvline(1, color="0.6", linewidth=0.6, zorder=0)
    for axis, label in (
        (left, "gradient, first / last layer"),
        (middle, "share of zero responses"),
        (right, "share flat or dead"),
    ):
        list_values(axis, values)
        axis.set_xlabel(label)
    for axis in (middle, right):
        axis.set_xlim(-0.05, 1.05)


def _weighed(flow: pd.DataFrame) -> pd.DataFrame:
    """Return the layers with weights other than activations and normalisations, numbered from the first.

    ``relative`` is the norm of the gradient over that of the weights, NaN where one of them is zero.
    """
    chosen = (flow["parameters"] > 0) & flow["units"].isna() & ~flow["kind"].str.contains("Norm")
    rows = flow[chosen].sort_values("place", kind="stable")
    number = rows.groupby(["value", "when", "seed"], sort=False).cumcount() + 1
    positive = (rows["gradient"] > 0) & (rows["weights"] > 0)
    return rows.assign(number=number, relative=(rows["gradient"] / rows["weights"]).where(positive))


def _points(axis: Axes, found: pd.Series, values: list[str], marker: str, power: bool = False) -> None:
    """Draw the mean over seeds of a number, or with `power` of its logarithm, for each value and time."""
    table = found.rename("found").reset_index().dropna()
    for k, (when, (_, color, _)) in enumerate(_TIMES.items()):
        groups = table[table["when"] == when].groupby("value")["found"]
        mean = groups.mean()
        error = (groups.std() / groups.size() ** 0.5).fillna(0.0)
        low, high = mean - error, mean + error
        if power:
            mean, low, high = 10**mean, 10**low, 10**high
        axis.errorbar(
            mean,
            [values.index(value) + 0.28 * (k - 0.5) for value in mean.index],
            xerr=[mean - low, high - mean],
            color=color,
            marker=marker,
            markersize=3.5,
            linestyle="none",
            elinewidth=0.7,
            **_face(when, color),
        )


def _face(when: str, color: str) -> dict[str, Any]:
    return {"markerfacecolor": "white" if when == "start" else color, "markeredgewidth": 0.8}
