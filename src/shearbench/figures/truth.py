"""Estimated against true shape at the lowest noise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from shearbench.figures.axes import figure_title, note
from shearbench.figures.catalogue import Entry
from shearbench.figures.looks import looks
from shearbench.figures.style import BLUE, BOUND, DOUBLE, SPACING, VERMILLION, exact, power, styled, wrapped

ENTRY = Entry(
    category="2. Residuals",
    caption="""\
**Estimated against true shape** at the lowest noise of the run, for g1 (blue circles) and g2 (red
squares), both reduced shear and dimensionless; one pair of panels per estimator (for a network, its
first seed). Upper panels: estimate against truth, with the line of equality in grey. Lower panels:
residual (estimate minus truth) divided by its robust width, 1.4826 times the median absolute residual.
Each point is one of at most 2000 test galaxies. The panels give the RMSE and the number of galaxies, or
the number of failed measurements, which are not drawn. Points outside the frame are drawn on its edge.""",
    reads=("residuals.parquet",),
    each="population",
)

_COMPONENTS = (("g1", BLUE, "o"), ("g2", VERMILLION, "s"))
_COLUMNS = 5
_SPAN = 6.0  # half-range of the residuals, in robust widths


@styled
def draw(residuals: pd.DataFrame, population: str) -> Figure:
    """Draw estimated against true g1 and g2, and below them the residuals in units of their robust width.

    Parameters
    ----------
    residuals : pandas.DataFrame
        ``metrics/residuals.parquet``; columns used: population, noise, estimator, label, kind, seed, g1, g2,
        g1_est, g2_est, flag.
    population : str

    Returns
    -------
    matplotlib.figure.Figure
        Two panels per estimator, one above the other.
    """
    table = residuals[residuals["population"] == population]
    found = looks(residuals)
    names = [name for name in found if name in set(table["estimator"])]
    columns = min(max(len(names), 1), _COLUMNS)
    rows = -(-len(names) // columns) or 1
    figure = Figure(figsize=(DOUBLE, rows * 2.35 + 0.45), layout="constrained")
    axes = figure.subplots(
        2 * rows, columns, squeeze=False, sharex=True, sharey="row", height_ratios=[1.45, 1.0] * rows
    )
    true = np.abs(table[["g1", "g2"]].to_numpy(float))
    reach = max(0.1, float(np.quantile(true, 0.999))) if true.size else 0.5
    for i in range(rows * columns):
        row, column = divmod(i, columns)
        upper, lower = axes[2 * row, column], axes[2 * row + 1, column]
        if i >= len(names):
            upper.set_visible(False)
            lower.set_visible(False)
            continue
        _panel(upper, lower, table[table["estimator"] == names[i]], found[names[i]].label, reach)
        lower.tick_params(labelbottom=i + columns >= len(names))
    for row in range(rows):
        axes[2 * row + 1, 0].set_ylim(-_SPAN, _SPAN)
        axes[2 * row, 0].set_ylim(-1.15 * reach, 1.15 * reach)
        axes[2 * row, 0].set_ylabel("estimated $g$")
        axes[2 * row + 1, 0].set_ylabel("residual / width")
    axes[0, 0].set_xlim(-1.15 * reach, 1.15 * reach)
    figure.supxlabel("true $g$", fontsize=8.5)
    entries = [
        Line2D(
            [], [], linestyle="none", marker=marker, markersize=3, color=color, label=f"${name[0]}_{name[1]}$"
        )
        for name, color, marker in _COMPONENTS
    ]
    noise = table["noise"].min()
    title = f"{population}, $\\sigma$ = {exact(noise)}" if len(table) else population
    figure.legend(handles=entries, loc="outside upper right", ncols=2)
    figure_title(figure, title)
    return figure


def _residual(table: pd.DataFrame) -> np.ndarray:
    good = table[table["flag"] == 0]
    residual = (good[["g1_est", "g2_est"]].to_numpy(float) - good[["g1", "g2"]].to_numpy(float)).ravel()
    return residual[np.isfinite(residual)]


def _panel(upper: Axes, lower: Axes, table: pd.DataFrame, label: str, reach: float) -> None:
    good = table[table["flag"] == 0]
    upper.set_title(wrapped(label, 24), fontsize=7.5, pad=3, linespacing=SPACING)
    upper.plot([-1, 1], [-1, 1], color=BOUND, linewidth=2, zorder=1)
    lower.axhline(0, color=BOUND, linewidth=2, zorder=1)
    residual = _residual(table)
    width = 1.4826 * float(np.median(np.abs(residual))) if residual.size else 0.0
    width = width if width > 0 else 1.0
    for k, (name, color, marker) in enumerate(_COMPONENTS):
        points: dict[str, Any] = {
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
        # Points outside the frame are drawn on its edge, so that no outlier is hidden.
        edge = 1.12 * reach
        upper.plot(np.clip(true, -edge, edge), np.clip(estimate, -edge, edge), **points)
        lower.plot(
            np.clip(true, -edge, edge),
            np.clip((estimate - true) / width, -0.97 * _SPAN, 0.97 * _SPAN),
            **points,
        )
    rmse = math.sqrt(float(np.mean(residual**2))) if residual.size else math.nan
    note(upper, f"RMSE {power(rmse)}", fontsize=7)
    bad = int((table["flag"] != 0).sum())
    note(upper, f"{bad} of {len(table)} failed" if bad else f"$n = {len(table)}$", "lower right", fontsize=7)
