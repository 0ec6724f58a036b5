"""Axes of the figures: grids of panels, scales, points with error bars, bounds, short texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray

from shearbench.figures.looks import Look
from shearbench.figures.style import BOUND, DOUBLE, SINGLE, SPACING, exact, wrapped

FLOOR: dict[str, Any] = {"color": "black", "linewidth": 0.9, "linestyle": (0, (6, 1.5)), "marker": "_"}
"""Line style of the Bayes floor."""
PLATE: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
"""Background of a text that may lie over lines."""


def positive(values: ArrayLike) -> NDArray[np.float64]:
    """Return the finite positive values, flattened."""
    flat = np.asarray(values, dtype=float).ravel()
    return flat[np.isfinite(flat) & (flat > 0)]


def panels(
    columns: int, rows: int, height: float, sharey: bool | Literal["row", "col"] = "row", legend: float = 0.0
) -> tuple[Figure, NDArray[Any]]:
    """Make a figure with a grid of axes, one journal column wide if it has one column of panels, else two.

    Parameters
    ----------
    columns, rows : int
    height : float
        Height of a row of panels, inches.
    sharey : bool, "row" or "col"
        As for ``Figure.subplots``.
    legend : float
        Height of the legend below the panels, inches (see `legend_height`).

    Returns
    -------
    figure : matplotlib.figure.Figure
    axes : ndarray of Axes, shape (rows, columns)
    """
    width = SINGLE if columns <= 1 else DOUBLE
    figure = Figure(figsize=(width, rows * height + legend), layout="constrained")
    return figure, figure.subplots(rows, max(columns, 1), squeeze=False, sharex=True, sharey=sharey)


def log_limits(axis: Axes, which: Literal["x", "y"], values: ArrayLike, pad: float = 0.25) -> None:
    """Make an axis logarithmic, with limits `pad` decades beyond the positive values."""
    found = positive(values)
    low, high = (found.min(), found.max()) if found.size else (0.1, 10.0)
    low, high = low * 10**-pad, high * 10**pad
    (axis.set_xscale if which == "x" else axis.set_yscale)("log")
    (axis.set_xlim if which == "x" else axis.set_ylim)(low, high)
    side = axis.xaxis if which == "x" else axis.yaxis
    decades = math.log10(high / low)
    if decades > 2:
        side.set_major_locator(LogLocator(base=10, numticks=8))
        side.set_minor_locator(LogLocator(base=10, subs=tuple(range(2, 10)), numticks=12))
        side.set_minor_formatter(NullFormatter())
    else:
        # An axis shorter than two decades has one or two powers of ten: too few ticks to read a value.
        subs = (1.0, 2.0, 5.0) if decades > 0.7 else (1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)
        side.set_major_locator(LogLocator(base=10, subs=subs, numticks=12))
        side.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}" if 1e-3 < x < 1e4 else exact(x)))
        side.set_minor_locator(NullLocator())


def signed_log(axis: Axes, which: Literal["x", "y"], linear: float, limit: float, most: int = 3) -> None:
    """Make an axis linear within +-`linear` and logarithmic beyond, out to +-`limit`.

    Parameters
    ----------
    axis : Axes
    which : "x" or "y"
    linear, limit : float
        End of the linear part, rounded to a power of ten, and end of the axis.
    most : int
        Largest number of labelled powers of ten on each side of zero.
    """
    linear = 10.0 ** round(math.log10(linear))
    limit = max(limit, 3 * linear)
    (axis.set_xscale if which == "x" else axis.set_yscale)("symlog", linthresh=linear, linscale=0.7)
    (axis.set_xlim if which == "x" else axis.set_ylim)(-limit, limit)
    low, high = round(math.log10(linear)), math.floor(math.log10(limit))
    step = max(1, math.ceil((high - low + 1) / most))
    powers = [10.0**k for k in range(low, high + 1, step)]
    side = axis.xaxis if which == "x" else axis.yaxis
    side.set_major_locator(FixedLocator([*(-p for p in reversed(powers)), 0.0, *powers]))
    every = [10.0**k for k in range(low, high + 1)]
    side.set_minor_locator(FixedLocator([*(-p for p in every), *every]))
    side.set_minor_formatter(NullFormatter())
    side.set_major_formatter(FuncFormatter(lambda x, _: _signed_power(x)))


def _signed_power(value: float) -> str:
    if value == 0:
        return "$0$"
    return rf"${'-' if value < 0 else ''}10^{{{round(math.log10(abs(value)))}}}$"


def list_values(axis: Axes, values: Sequence[str], width: int = 24) -> None:
    """Make the y axis a list of names from top to bottom, at 0, 1, 2 and so on, with a line at each."""
    axis.set_yticks(range(len(values)), [wrapped(str(value), width) for value in values])
    for label in axis.get_yticklabels():
        label.set_linespacing(SPACING)
    axis.set_ylim(max(len(values), 1) - 0.5, -0.5)
    axis.tick_params(axis="y", which="both", left=False, right=False)
    axis.grid(axis="y", linewidth=0.3, color="0.9")
    axis.set_axisbelow(True)


def noise_axis(axis: Axes, noise: ArrayLike, label: bool = True, pad: float = 0.35) -> None:
    """Make the x axis a logarithmic axis of noise per pixel, with `pad` decades of room at both ends."""
    found = np.unique(positive(noise))
    log_limits(axis, "x", found if found.size else [1e-3], pad=pad)
    axis.xaxis.set_major_locator(FixedLocator(list(_decades(found))))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: exact(x)))
    axis.xaxis.set_minor_locator(NullLocator())
    if label:
        axis.set_xlabel(r"noise per pixel $\sigma$ [flux units]")


def _decades(noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ticks at the noise levels, or at powers of ten if there are more than seven levels."""
    if noise.size <= 7:
        return noise
    low, high = math.floor(math.log10(noise[0])), math.ceil(math.log10(noise[-1]))
    return np.asarray([10.0**k for k in range(low, high + 1)])


def snr_axis(axis: Axes, table: pd.DataFrame, label: bool = True) -> None:
    """Add the median signal-to-noise ratio on top of a noise axis.

    The S/N of a galaxy is proportional to 1/sigma, so the axis needs one constant, the median of
    ``snr * noise``. If the table has no finite S/N, no axis is added.
    """
    constants = positive(table["snr"].to_numpy(float) * table["noise"].to_numpy(float))
    if not constants.size:
        return
    constant = float(np.median(constants))
    axis.tick_params(axis="x", which="both", top=False)
    top = axis.secondary_xaxis(
        "top",
        functions=(lambda x: constant / np.maximum(x, 1e-300), lambda x: constant / np.maximum(x, 1e-300)),
    )
    top.xaxis.set_major_locator(LogLocator(base=10, numticks=8))
    top.xaxis.set_minor_locator(LogLocator(base=10, subs=tuple(range(2, 10)), numticks=60))
    low, high = (constant / limit for limit in sorted(axis.get_xlim(), reverse=True))
    if math.log10(high / low) < 1.5:
        top.xaxis.set_major_locator(FixedLocator(list(constant / np.unique(positive(table["noise"])))))
        top.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.2g}" if x < 100 else f"{x:.0f}"))
    top.xaxis.set_minor_formatter(NullFormatter())
    top.tick_params(axis="x", direction="in", which="both")
    if label:
        top.set_xlabel("median S/N")


def sideways(i: int, n: int, width: float = 0.2) -> float:
    """Return the factor that moves point i of n sideways on a logarithmic axis, `width` decades in all."""
    return float(10 ** (width * (i / (n - 1) - 0.5))) if n > 1 else 1.0


def errorbar(
    axis: Axes, x: ArrayLike, y: ArrayLike, error: ArrayLike | None, look: Look, **changes: Any
) -> ErrorbarContainer | None:
    """Draw an estimator's points with error bars; a point whose error is NaN has no bar."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if not np.isfinite(y).any():
        return None
    bars = None if error is None else np.nan_to_num(np.abs(np.asarray(error, float)))
    return axis.errorbar(
        x, y, yerr=bars, **{**look.line, "elinewidth": 0.8, "capsize": 1.6, "capthick": 0.6, **changes}
    )


def note(axis: Axes, text: str, where: str = "upper left", **changes: Any) -> None:
    """Write a short text into a corner of the axes."""
    vertical, horizontal = where.split()
    axis.text(
        {"left": 0.045, "right": 0.955, "center": 0.5}[horizontal],
        {"upper": 0.965, "lower": 0.035, "center": 0.5}[vertical],
        text,
        **{
            "transform": axis.transAxes,
            "ha": horizontal,
            "va": {"upper": "top", "lower": "bottom"}.get(vertical, "center"),
            "fontsize": 7.5,
            "linespacing": SPACING,
            "zorder": 6,
            **changes,
        },
    )


def count(table: pd.DataFrame) -> str:
    """Return ``n = 2000``, the number of galaxies in a table of metrics, or a range if it varies."""
    n = table["n"].dropna().astype(int)
    if n.empty:
        return "no galaxies"
    return f"$n = {n.min()}$" if n.min() == n.max() else f"$n = {n.min()}$–${n.max()}$"


def figure_title(figure: Figure, text: str) -> None:
    """Write the title of the whole figure at its upper left."""
    figure.suptitle(text, fontsize=8.5, x=0.01, ha="left", linespacing=SPACING)


def draw_floor(axis: Axes, floor: pd.DataFrame, unit: pd.Series, over_unit: bool = False) -> None:
    """Draw the Bayes floor against noise, with its errors.

    Parameters
    ----------
    axis : Axes
    floor : pandas.DataFrame
        Rows of `metrics/bayes_floor.csv` of one population. The floor was computed for a part of the
        galaxies. Its ratio to the bound of that part is multiplied by the bound of all galaxies.
    unit : pandas.Series
        Bound of all galaxies, indexed by noise.
    over_unit : bool
        Draw the ratio of floor to bound instead of the floor.
    """
    first = floor.drop_duplicates("noise").sort_values("noise")
    scale = 1.0 if over_unit else unit.reindex(first["noise"]).to_numpy(float)
    y, error = (scale * first[name].to_numpy(float) for name in ("floor_over_crb", "floor_over_crb_err"))
    axis.errorbar(first["noise"], y, error, **FLOOR, capsize=0, zorder=2.2)


def draw_bounds(axis: Axes, table: pd.DataFrame, scale: pd.Series | None = None) -> None:
    """Draw both bounds against noise.

    Parameters
    ----------
    axis : Axes
    table : pandas.DataFrame
        Rows of `metrics/accuracy.csv` of one population. Each row has the bounds of the galaxies that its
        estimator did not fail on; the median over estimators is drawn.
    scale : pandas.Series, optional
        Divisor of the bounds, indexed by noise.
    """
    for column in ("crb", "prior_bound"):
        bound = table.groupby("noise")[column].median().dropna()
        bound = bound / scale.reindex(bound.index) if scale is not None else bound
        x, y = bound.index.to_numpy(float), bound.to_numpy(float)
        if len(bound) == 1:  # one noise level: a horizontal line of a quarter decade, to be visible
            x, y = x * np.array([10**-0.125, 10**0.125]), np.repeat(y, 2)
        if column == "crb":
            axis.plot(x, y, color=BOUND, linewidth=3.5, zorder=2)
        elif len(bound):
            # Efficient estimators lie on this bound and would hide its line: the region below is shaded.
            axis.fill_between(x, y, 1e-12, facecolor="0.93", edgecolor="none", zorder=1)
            axis.plot(x, y, color="0.35", linewidth=0.8, linestyle=":", zorder=2.1)
