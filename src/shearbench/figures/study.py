"""The answer to a study: a metric along the study's axis, with errors and seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from shearbench.figures import style

METRICS = {
    "rmse": "RMSE of $g$, per component",
    "rmse_over_crb": "RMSE / Cramér–Rao bound",
    "median_abs": "robust width of the residuals of $g$",
    "scatter": "scatter of $g$, per component",
}
"""Metrics with a label of their own; another column is called by its name."""
_MARKERS = "osDv^P"


@style.styled
def draw(study: pd.DataFrame, axis_label: str, metric: str = "rmse_over_crb") -> Figure:
    """Draw a metric against the values of the study's axis, a line for each noise level.

    Parameters
    ----------
    study : pandas.DataFrame
        Rows of ``metrics/accuracy.csv`` (population, noise, seed, the metric and its ``_err``) with the
        column ``value``: where on the axis the variant stands, in the order of the axis. Numbers
        make a numeric axis, logarithmic from a factor of eight on; anything else a categorical one.
    axis_label : str
        What is varied, with its unit.
    metric : str

    Returns
    -------
    matplotlib.figure.Figure
        One panel for each population: small points are seeds, large ones their mean with the standard
        error between seeds (of the galaxies drawn, where there is one seed).
    """
    names = style.populations_of(study)
    levels = np.unique(study["noise"].dropna())
    colors = colormaps["viridis"](np.linspace(0.0, 0.82, max(len(levels), 1)))
    values = list(study["value"].drop_duplicates())
    numeric = len(values) > 0 and pd.api.types.is_numeric_dtype(study["value"])
    entries = [
        Line2D([], [], color=color, marker=marker, markersize=4, label=f"$\\sigma$ = {style.power(noise)}")
        for noise, color, marker in zip(levels, colors, _MARKERS * len(levels))
    ]
    width = style.SINGLE if len(names) <= 1 else style.DOUBLE
    legend = style.legend_height(entries, width)
    figure, axes = style.panels(len(names), 1, 2.5, True, legend)
    for axis, name in zip(axes.flat, names):
        table = study[study["population"] == name]
        place = {value: value if numeric else float(i) for i, value in enumerate(values)}
        for k, (noise, color, marker) in enumerate(zip(levels, colors, _MARKERS * len(levels))):
            shift = 0.0 if numeric or len(levels) < 2 else 0.3 * (k / (len(levels) - 1) - 0.5)
            rows = table[table["noise"] == noise]
            x = rows["value"].map(place).astype(float) + shift
            axis.plot(x, rows[metric], linestyle="none", marker=marker, markersize=2, color=color, alpha=0.6)
            _means(axis, rows, metric, {v: p + shift for v, p in place.items()}, color=color, marker=marker)
        axis.set_xlabel(axis_label)
        style.note(axis, style.wrapped(name), "upper right")
        if metric == "rmse_over_crb":
            axis.axhline(1.0, color=style.BOUND, linewidth=3.0, zorder=1)
        if not numeric:
            axis.set_xticks(range(len(values)), [style.wrapped(str(value), 12) for value in values])
            axis.tick_params(axis="x", which="both", top=False, length=0)
            axis.set_xlim(-0.5, len(values) - 0.5)
        elif min(values) > 0 and max(values) >= 8 * min(values):
            style.log_limits(axis, "x", values, pad=0.1)
    style.log_limits(axes[0, 0], "y", np.append(study[metric].to_numpy(float), 1.0 if "crb" in metric else np.nan))
    axes[0, 0].set_ylabel(METRICS.get(metric, metric))
    style.legend_below(figure, entries)
    return figure


def _means(axis: Axes, rows: pd.DataFrame, metric: str, place: dict[Any, float], **look: Any) -> None:
    x, mean, error = [], [], []
    for value, group in rows.groupby("value", sort=False):
        seeds = group[metric].to_numpy(float)
        seeds = seeds[np.isfinite(seeds)]
        if not seeds.size:
            continue
        x.append(place[value])
        mean.append(seeds.mean())
        own = group[f"{metric}_err"].mean() if f"{metric}_err" in group else 0.0
        error.append(seeds.std(ddof=1) / np.sqrt(seeds.size) if seeds.size > 1 else np.nan_to_num(own))
    order = np.argsort(x)
    if len(order):
        axis.errorbar(
            np.asarray(x)[order],
            np.asarray(mean)[order],
            yerr=np.asarray(error)[order],
            markersize=4.5,
            linewidth=1.0,
            elinewidth=0.8,
            capsize=2,
            **look,
        )
