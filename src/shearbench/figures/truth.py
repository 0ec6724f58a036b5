"""Predicted against true shape at the lowest noise."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from shearbench.figures import style

_COMPONENTS = (("g1", style.BLUE, "o"), ("g2", style.VERMILLION, "s"))
_COLUMNS = 5


@style.styled
def draw(residuals: pd.DataFrame, population: str) -> Figure:
    """Draw estimated against true g1 and g2, and the residuals below on a signed logarithmic scale.

    Parameters
    ----------
    residuals : pandas.DataFrame
        ``metrics/residuals.parquet``; read are population, noise, estimator, label, kind, seed, g1, g2,
        g1_est, g2_est, flag, crb_g1, crb_g2.
    population : str

    Returns
    -------
    matplotlib.figure.Figure
        A pair of panels for each estimator.
    """
    table = residuals[residuals["population"] == population]
    found = style.looks(residuals)
    names = [name for name in found if name in set(table["estimator"])]
    columns = min(max(len(names), 1), _COLUMNS)
    rows = -(-len(names) // columns) or 1
    figure = Figure(figsize=(style.DOUBLE, rows * 2.35 + 0.45), layout="constrained")
    axes = figure.subplots(
        2 * rows, columns, squeeze=False, sharex=True, sharey="row", height_ratios=[1.45, 1.0] * rows
    )
    bound = style.positive(table[["crb_g1", "crb_g2"]])
    linear = float(np.median(bound)) if bound.size else 1e-4
    reach = max(0.1, _largest(table[["g1", "g2"]].to_numpy(float)))
    limit = max(10 * linear, 1.5 * _largest(_residual(table)))
    for i in range(rows * columns):
        row, column = divmod(i, columns)
        upper, lower = axes[2 * row, column], axes[2 * row + 1, column]
        if i >= len(names):
            upper.set_visible(False)
            lower.set_visible(False)
            continue
        _panel(upper, lower, table[table["estimator"] == names[i]], found[names[i]].label, reach, limit)
        lower.tick_params(labelbottom=i + columns >= len(names))
    for row in range(rows):
        style.signed_log(axes[2 * row + 1, 0], "y", linear, limit, most=2)
        axes[2 * row, 0].set_ylim(-1.15 * reach, 1.15 * reach)
        axes[2 * row, 0].set_ylabel("estimated $g$")
        axes[2 * row + 1, 0].set_ylabel("estimated $-$ true")
    axes[0, 0].set_xlim(-1.15 * reach, 1.15 * reach)
    figure.supxlabel("true $g$", fontsize=8.5)
    entries = [
        Line2D([], [], linestyle="none", marker=marker, markersize=3, color=color, label=f"${name[0]}_{name[1]}$")
        for name, color, marker in _COMPONENTS
    ]
    noise = table["noise"].min()
    title = f"{population}, $\\sigma$ = {style.power(noise)}" if len(table) else population
    figure.legend(handles=entries, loc="outside upper right", ncols=2, title=None)
    figure.suptitle(title, fontsize=8.5, x=0.01, ha="left")
    return figure


def _residual(table: pd.DataFrame) -> np.ndarray:
    good = table[table["flag"] == 0]
    return (good[["g1_est", "g2_est"]].to_numpy(float) - good[["g1", "g2"]].to_numpy(float)).ravel()


def _largest(values: np.ndarray) -> float:
    found = np.abs(values[np.isfinite(values)])
    return float(np.quantile(found, 0.999)) if found.size else 0.0


def _panel(upper: Axes, lower: Axes, table: pd.DataFrame, label: str, reach: float, limit: float) -> None:
    good = table[table["flag"] == 0]
    upper.set_title(style.wrapped(label, 24), fontsize=7.5, pad=3)
    upper.plot([-1, 1], [-1, 1], color=style.BOUND, linewidth=2, zorder=1)
    lower.axhline(0, color=style.BOUND, linewidth=2, zorder=1)
    for k, (name, color, marker) in enumerate(_COMPONENTS):
        style_of = {
            "linestyle": "none",
            "marker": marker,
            "color": color,
            "markersize": 1.4,
            "markeredgewidth": 0,
            "alpha": 0.6,
            "rasterized": True,
            "zorder": 3 - 0.1 * k,
        }
        true, estimate = good[name].to_numpy(float), good[f"{name}_est"].to_numpy(float)
        # What lies outside is drawn on the edge: no outlier is hidden.
        edge = 1.12 * reach
        upper.plot(np.clip(true, -edge, edge), np.clip(estimate, -edge, edge), **style_of)
        lower.plot(np.clip(true, -edge, edge), np.clip(estimate - true, -0.97 * limit, 0.97 * limit), **style_of)
    residual = _residual(table)
    residual = residual[np.isfinite(residual)]
    rmse = math.sqrt(float(np.mean(residual**2))) if residual.size else math.nan
    style.note(upper, f"RMSE {style.power(rmse)}", fontsize=7)
    bad = int((table["flag"] != 0).sum())
    style.note(upper, f"{bad} of {len(table)} failed" if bad else f"$n = {len(table)}$", "lower right", fontsize=7)
