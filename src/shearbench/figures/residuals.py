"""Distributions of the residuals at the lowest noise."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from scipy.special import ndtr

from shearbench.figures.axes import figure_title, log_limits, note, positive
from shearbench.figures.catalogue import Entry
from shearbench.figures.looks import Look, looks
from shearbench.figures.style import BOUND, DOUBLE, SPACING, exact, power, styled, wrapped

ENTRY = Entry(
    category="2. Residuals",
    caption="""\
**Distribution of the residuals** (estimated minus true g) at the lowest noise of the run, one row per
estimator (for a network, its first seed), for at most 2000 test galaxies. Left and middle: residuals of
g1 and g2 divided by their robust width, which is printed (1.4826 times the median absolute deviation);
dotted: Gaussian of unit width. The number of galaxies beyond five widths is printed. A shift from zero
is an offset. Right: absolute residuals of both components, as the fraction of galaxies per logarithmic
bin; the last bin includes all larger ones. Grey: the distribution for an unbiased Gaussian estimator
whose error is each galaxy's Cramér–Rao bound. Failed measurements are counted beside the name and not
drawn.""",
    reads=("residuals.parquet",),
    each="population",
)

_SPAN = 5.0  # half-range of the left panels, in robust widths


@styled
def draw(residuals: pd.DataFrame, population: str) -> Figure:
    """Draw the residuals in units of their robust width and the absolute residuals, one row per estimator.

    Widths of estimators differ by a factor of a hundred, too much for a common linear axis. The two panels
    on the left show the shape of the distribution (offset, tails) beside a unit Gaussian. The panel on the
    right shows absolute residuals on a logarithmic axis, beside those of an unbiased Gaussian estimator whose
    error is the Cramer-Rao bound.

    Parameters
    ----------
    residuals : pandas.DataFrame
        ``metrics/residuals.parquet``; columns used: population, noise, estimator, label, kind, seed, g1, g2,
        g1_est, g2_est, flag, crb_g1, crb_g2.
    population : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    table = residuals[residuals["population"] == population]
    found = looks(residuals)
    names = [name for name in found if name in set(table["estimator"])]
    rows = max(len(names), 1)
    layout = ConstrainedLayoutEngine(hspace=0.0, h_pad=0.005, w_pad=0.02)
    figure = Figure(figsize=(DOUBLE, 0.42 * rows + 0.75), layout=layout)
    axes = figure.subplots(rows, 3, squeeze=False, sharex="col", sharey="col", width_ratios=[1, 1, 1.5])
    sizes = np.abs(np.concatenate([_residual(table, name) for name in ("g1", "g2")]))
    bound = positive(table[["crb_g1", "crb_g2"]])
    low, high = _range(sizes, bound)
    bins = np.geomspace(low, high, 61)
    for row, name in zip(axes, names):
        _row(row, table[table["estimator"] == name], found[name], bins)
    for i, axis in enumerate(axes.flat):
        axis.set_yticks([])
        axis.tick_params(axis="x", which="both", top=False)
        axis.spines[["left", "right", "top"]].set_visible(False)
        if i < 3 * (rows - 1):
            axis.tick_params(axis="x", which="both", length=0)
    log_limits(axes[0, 2], "x", [low, high], pad=0.0)
    for axis in axes[0, :2]:
        axis.set_xlim(-_SPAN, _SPAN)
        axis.set_xticks([-4, -2, 0, 2, 4])
    for column in range(3):
        top = max(axis.dataLim.y1 if np.isfinite(axis.dataLim.y1) else 0.0 for axis in axes[:, column])
        axes[0, column].set_ylim(0, 1.15 * top if top > 0 else 1.0)
    axes[-1, 0].set_xlabel("residual of $g_1$ / its robust width")
    axes[-1, 1].set_xlabel("residual of $g_2$ / its robust width")
    axes[-1, 2].set_xlabel("|residual| of $g_1$ and $g_2$")
    for axis, meaning in zip(
        axes[0], ("dotted: unit Gaussian", "", "grey: unbiased, error = Cramér–Rao bound")
    ):
        axis.set_title(meaning, fontsize=7, pad=4)
    noise = f", $\\sigma$ = {exact(table['noise'].min())}" if len(table) else ""
    figure_title(figure, f"{population}{noise}")
    return figure


def _residual(table: pd.DataFrame, component: str) -> NDArray[np.float64]:
    good = table[table["flag"] == 0]
    residual = good[f"{component}_est"].to_numpy(float) - good[component].to_numpy(float)
    return residual[np.isfinite(residual)]


def _range(sizes: NDArray[np.float64], bound: NDArray[np.float64]) -> tuple[float, float]:
    found = positive(np.concatenate([sizes, bound]))
    if not found.size:
        return 1e-5, 1e-1
    low, high = np.quantile(found, [0.01, 0.999])
    return 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high * 1.01))


def _row(row: NDArray[np.object_], table: pd.DataFrame, look: Look, bins: NDArray[np.float64]) -> None:
    form = np.linspace(-_SPAN, _SPAN, 41)
    x = np.linspace(-_SPAN, _SPAN, 201)
    fill = {"color": look.color, "alpha": 0.35}
    line = {"color": look.color, "linewidth": 0.9}
    for axis, component in zip(row[:2], ("g1", "g2")):
        residual = _residual(table, component)
        axis.axvline(0, color=BOUND, linewidth=0.8, zorder=1)
        axis.plot(
            x,
            np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi),
            color="0.35",
            linewidth=0.8,
            linestyle=(0, (1, 1)),
        )
        width = 1.4826 * float(np.median(np.abs(residual - np.median(residual)))) if residual.size else 0.0
        if width > 0:
            # Outliers are counted in a text at the right of the panel instead of in the last bin.
            density = np.histogram(residual / width, form)[0] / (residual.size * (form[1] - form[0]))
            axis.stairs(density, form, fill=True, zorder=2, **fill)
            axis.stairs(density, form, zorder=3, **line)
            beyond = int((np.abs(residual / width) > _SPAN).sum())
            note(axis, f"width {power(width)}", "upper left", fontsize=6.5)
            if beyond:
                note(axis, f"{beyond} beyond", "upper right", fontsize=6.5)
    label = wrapped(look.label, 22)
    bad = int((table["flag"] != 0).sum())
    if not _residual(table, "g1").size:
        label += "\n(no result)"
    elif bad:
        label += f"\n({bad} of {len(table)} failed)"
    row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=7.5, linespacing=SPACING)
    sizes = np.abs(np.concatenate([_residual(table, name) for name in ("g1", "g2")]))
    _expected(row[2], table, bins)
    if sizes.size:
        share = np.histogram(np.minimum(sizes, bins[-1]), bins)[0] / sizes.size
        row[2].stairs(share, bins, fill=True, zorder=2, **fill)
        row[2].stairs(share, bins, zorder=3, **line)


def _expected(axis: Axes, table: pd.DataFrame, bins: NDArray[np.float64]) -> None:
    """Draw the distribution of |residual| for unbiased Gaussian errors equal to each galaxy's bound."""
    bound = positive(table[["crb_g1", "crb_g2"]])
    if bound.size:
        below = 2 * ndtr(bins[:, None] / bound).mean(axis=1) - 1
        axis.stairs(np.diff(below), bins, fill=True, color="0.85", zorder=1)
