"""One style for every figure: sizes, fonts, colours, axes, legends, and how a figure is saved.

Colours are those of Okabe & Ito (2008, "Color Universal Design"), told apart by people of all types of
colour vision; marker, line and filling say the same again, for print in grey.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray

from shearbench.evaluation import statistics
from shearbench.evaluation.failures import failing
from shearbench.files import atomic

SINGLE = 3.5
"""Width of one journal column, inches."""
DOUBLE = 7.1
"""Width of two journal columns, inches."""

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, WINE, OLIVE = "#CC79A7", "#56B4E9", "#882255", "#999933"
BOUND = "0.72"
"""Grey of the Cramer-Rao bound."""
SPACING = 1.02
"""Of lines of text: the font's own is meant for mathematics."""

_RC: dict[str, Any] = {
    "font.family": "STIXGeneral",  # comes with matplotlib: the same on every machine
    "mathtext.fontset": "stix",
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.titlesize": 8.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.columnspacing": 1.0,
    "legend.labelspacing": 0.3,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.0,
    "lines.markersize": 4.0,
    "errorbar.capsize": 0.0,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "xtick.minor.size": 1.7,
    "ytick.minor.size": 1.7,
    "figure.constrained_layout.h_pad": 0.02,
    "figure.constrained_layout.w_pad": 0.02,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
}

P = ParamSpec("P")


@contextlib.contextmanager
def context() -> Iterator[None]:
    """Put the style in force for a while, whatever the user's own settings, and restore those after."""
    with matplotlib.style.context(["default", _RC]):
        yield


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Make a function that draws a figure do so in this style."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with context():
            return draw(*args, **kwargs)

    return wrapper


def save(figure: Figure, pdf_path: str | os.PathLike[str], png_path: str | os.PathLike[str]) -> None:
    """Write a figure as PDF (fonts embedded) and PNG, each whole or not at all.

    The files hold no date and no version: the same figure gives the same bytes.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    pdf_path, png_path : path-like
    """
    metadata: dict[str, dict[str, Any]] = {
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        "png": {"Software": None},
    }
    for path, kind in ((pdf_path, "pdf"), (png_path, "png")):
        with context(), atomic(path) as temporary:
            figure.savefig(temporary, format=kind, metadata=metadata[kind])


# -- What an estimator looks like -----------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """Colour, marker, line and label of an estimator: the same in all figures of a run."""

    label: str
    color: str
    marker: str
    linestyle: str | tuple[int, tuple[float, ...]] = "-"
    filled: bool = True
    linewidth: float = 1.0
    markersize: float = 4.0
    zorder: float = 3.0

    @property
    def line(self) -> dict[str, Any]:
        """Keyword arguments of ``Axes.plot`` and ``Axes.errorbar`` for a line with markers."""
        return {"linestyle": self.linestyle, "linewidth": self.linewidth, **self.points}

    @property
    def points(self) -> dict[str, Any]:
        """Keyword arguments for markers alone; set ``linestyle`` beside them."""
        return {
            "color": self.color,
            "marker": self.marker,
            "markersize": self.markersize,
            "markerfacecolor": self.color if self.filled else "white",
            "markeredgecolor": self.color,
            "markeredgewidth": 0.8,
            "zorder": self.zorder,
        }

    def handle(self, label: str | None = None) -> Line2D:
        """Return the entry of a legend."""
        return Line2D([], [], label=wrapped(label or self.label), **self.line)


# Fits of the same model by two programs lie on each other: the reference is drawn large and hollow, the
# built-in fit small and filled, so that both are seen.
_FAMILIES: dict[str, dict[str, Any]] = {
    "ngmix": {"color": "black", "filled": False, "linewidth": 1.8, "markersize": 5.6, "zorder": 2.8},
    "mixture": {"color": BLUE, "linewidth": 0.9, "markersize": 3.0, "zorder": 3.4},
    "hsm": {"color": "0.45", "markersize": 4.2},
}
_FLOOR: dict[str, Any] = {"color": "black", "linewidth": 0.9, "linestyle": (0, (6, 1.5)), "marker": "_"}
_FAMILY_MARKERS = {"ngmix": "osDv", "mixture": "osDv", "hsm": "^v<>"}
_NETWORK_COLORS = (VERMILLION, GREEN, PURPLE, ORANGE, SKY, WINE, OLIVE)
_NETWORK_MARKERS = "DvPX<>*hdp8"
_OTHER_COLORS = ("#7F4F24", "#4B5320", "#5D3A9B")
_OTHER_MARKERS = "H1234+x"
_LINES: tuple[str | tuple[int, tuple[float, ...]], ...] = (
    "-",
    (0, (4, 1.5)),
    (0, (1, 1.2)),
    (0, (5, 1.2, 1, 1.2)),
)


def looks(table: pd.DataFrame) -> dict[str, Look]:
    """Give every estimator of a table its look.

    Families (``kind``) have fixed colours; the members of a family take its lines and markers by the
    order of their names, and so do networks (rows with a training seed), which take a colour each. It
    follows that figures of one run agree, whatever the order of the rows.

    Parameters
    ----------
    table : pandas.DataFrame
        With the column ``estimator``, and ``label``, ``kind``, ``seed`` where it has them. Hand over all
        rows, not those of one panel.

    Returns
    -------
    dict of str to Look
        In the order of a legend: ngmix, built-in mixtures, HSM, others, networks.
    """
    columns = [name for name in ("estimator", "label", "kind", "seed") if name in table]
    rows = table[columns].sort_values(columns).drop_duplicates("estimator", keep="last")
    families: dict[str, list[tuple[str, str]]] = {name: [] for name in (*_FAMILIES, "other", "network")}
    for row in rows.to_dict("records"):
        name, kind = str(row["estimator"]), str(row.get("kind", "network"))
        label = row.get("label")
        label = name if label is None or pd.isna(label) or not str(label).strip() else str(label)
        if kind not in _FAMILIES:
            kind = "network" if kind == "network" or row.get("seed", -1) >= 0 else "other"
        families[kind].append((name, label))
    found: dict[str, Look] = {}
    for family, members in families.items():
        for i, (name, label) in enumerate(members):
            found[name] = _look(family, i, label)
    return found


def _look(family: str, i: int, label: str) -> Look:
    if family in _FAMILIES:
        markers = _FAMILY_MARKERS[family]
        return Look(
            label=label,
            marker=markers[i % len(markers)],
            linestyle=_LINES[i % len(_LINES)],
            **_FAMILIES[family],
        )
    colors = _NETWORK_COLORS if family == "network" else _OTHER_COLORS
    markers = _NETWORK_MARKERS if family == "network" else _OTHER_MARKERS
    cycle = i // len(colors)
    return Look(
        label=label,
        color=colors[i % len(colors)],
        marker=markers[i % len(markers)],
        linestyle=_LINES[cycle % len(_LINES)],
        filled=cycle % 2 == 0,
    )


def wrapped(label: str, width: int = 34) -> str:
    """Break a long label into lines, and keep its dollar signs from being read as mathematics."""
    return "\n".join(textwrap.wrap(label, width, break_long_words=True) or [""]).replace("$", r"\$")


# -- Numbers --------------------------------------------------------------------------------------


def over_seeds(table: pd.DataFrame, by: str, value: str, error: str | None = None) -> pd.DataFrame:
    """Average an estimator's rows over its training seeds.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of one estimator.
    by : str
        What else the rows differ in, such as ``"noise"``.
    value : str
        Column to average. Rows where it is not finite are left out.
    error : str, optional
        Column with its standard error (from the finite number of galaxies).

    Returns
    -------
    pandas.DataFrame
        Columns `by`, ``value`` (mean), ``error``, ordered by `by`. The error is that of
        `shearbench.evaluation.statistics.over_seeds`: the scatter of k seeds over sqrt(k), and the error from
        the galaxies, in quadrature.
    """
    good = table[np.isfinite(table[value].astype(float))]
    rows = []
    for key, group in good.groupby(by, sort=True):
        errors = group[error].to_numpy(float) if error is not None else np.zeros(len(group))
        rows.append((key, *statistics.over_seeds(group[value].tolist(), np.nan_to_num(errors).tolist())))
    return pd.DataFrame(rows, columns=[by, "value", "error"])


def positive(values: ArrayLike) -> NDArray[np.float64]:
    """Return the finite positive values, flattened."""
    flat = np.asarray(values, dtype=float).ravel()
    return flat[np.isfinite(flat) & (flat > 0)]


def power(value: float) -> str:
    """Write a number with two digits as mathematics, such as ``1.0 x 10^-4``."""
    if not math.isfinite(value):
        return "–"
    if value == 0 or 0.01 <= abs(value) < 1000:
        return f"${value:.2g}$" if abs(value) < 100 else f"${value:.0f}$"
    mantissa, exponent = f"{value:.1e}".split("e")
    return rf"${mantissa}\times10^{{{int(exponent)}}}$"


def exact(value: float) -> str:
    """Write a number that was chosen, not measured, without trailing digits: ``10^-5``, ``2 x 10^-3``."""
    if not math.isfinite(value):
        return "–"
    mantissa, exponent = f"{value:.5e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    if mantissa == "1":
        return rf"$10^{{{int(exponent)}}}$"
    return rf"${mantissa}\times10^{{{int(exponent)}}}$"


def populations_of(table: pd.DataFrame) -> list[str]:
    """Return the populations of a table in the order they come in."""
    return [str(name) for name in table["population"].drop_duplicates()]


# -- Axes -----------------------------------------------------------------------------------------


def panels(
    columns: int, rows: int, height: float, sharey: bool | Literal["row", "col"] = "row", legend: float = 0.0
) -> tuple[Figure, NDArray[Any]]:
    """Make a grid of axes: one column wide for one column of panels, two for more.

    Parameters
    ----------
    columns, rows : int
    height : float
        Of a row, inches.
    sharey : bool, "row" or "col"
        As for ``Figure.subplots``.
    legend : float
        Room for the legend below, inches (see `legend_height`).

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
        # Less than two decades hold one or two powers of ten: too few to read a value from.
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
        `linear` is rounded to a power of ten.
    most : int
        Labelled powers of ten on each side.
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


def noise_axis(axis: Axes, noise: ArrayLike, label: bool = True, pad: float = 0.35) -> None:
    """Make the x axis one of noise per pixel, logarithmic, with room (decades) at both ends."""
    found = np.unique(positive(noise))
    log_limits(axis, "x", found if found.size else [1e-3], pad=pad)
    axis.xaxis.set_major_locator(FixedLocator(list(_decades(found))))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: exact(x)))
    axis.xaxis.set_minor_locator(NullLocator())
    if label:
        axis.set_xlabel(r"noise per pixel $\sigma$ [flux units]")


def _decades(noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ticks at the noise levels themselves; at powers of ten where there are too many."""
    if noise.size <= 7:
        return noise
    low, high = math.floor(math.log10(noise[0])), math.ceil(math.log10(noise[-1]))
    return np.asarray([10.0**k for k in range(low, high + 1)])


def snr_axis(axis: Axes, table: pd.DataFrame, label: bool = True) -> None:
    """Add the median signal-to-noise ratio on top of a noise axis.

    S/N falls as 1/sigma for the same galaxies, so one constant, the median of ``snr * noise``, makes the
    axis. Without a finite S/N in the table there is none.
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
    """Draw an estimator's points with its error bars; an error that is not known leaves the bar out."""
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
    """Return ``n = 2000`` (or a range) for the numbers of galaxies in a table of metrics."""
    n = table["n"].dropna().astype(int)
    if n.empty:
        return "no galaxies"
    return f"$n = {n.min()}$" if n.min() == n.max() else f"$n = {n.min()}$–${n.max()}$"


# -- Legends --------------------------------------------------------------------------------------


def failures(table: pd.DataFrame, column: str) -> dict[str, str]:
    """Return a remark for each estimator that fails: on all galaxies, or on most at some noise level."""
    good = table[np.isfinite(table[column].astype(float))]
    remarks = {str(name): "no result" for name in set(table["estimator"]) - set(good["estimator"])}
    if "n_failed" in table:
        for one in failing(table.to_dict("records")):
            remarks.setdefault(one.estimator, "fails on most")
    return remarks


def handles(
    found: Mapping[str, Look],
    shown: Iterable[str],
    remarks: Mapping[str, str] | None = None,
    line: bool = True,
) -> list[Line2D]:
    """Return legend entries for the estimators `shown`, each with the remark on it if there is one."""
    shown, remarks = set(shown), remarks or {}
    entries = [
        look.handle(f"{look.label} ({remarks[name]})" if name in remarks else None)
        for name, look in found.items()
        if name in shown
    ]
    for entry in entries:
        if not line:
            entry.set_linestyle("none")
    return entries


def _legend_columns(entries: Sequence[Artist], width: float) -> int:
    """Return the largest number of columns that fit; a legend is filled column by column."""
    widths = [max(map(len, str(entry.get_label()).split("\n"))) * 0.041 + 0.46 for entry in entries]
    for columns in range(len(entries), 1, -1):
        each, longer = divmod(len(entries), columns)
        sizes = [each + (i < longer) for i in range(columns)]
        ends = np.cumsum(sizes)
        if sum(max(widths[end - size : end]) for size, end in zip(sizes, ends)) <= width:
            return columns
    return 1


def legend_height(entries: Sequence[Artist], width: float) -> float:
    """Return the height of `legend_below`, inches."""
    if not entries:
        return 0.0
    columns = _legend_columns(entries, width)
    rows = math.ceil(len(entries) / columns)
    lines = max(str(entry.get_label()).count("\n") + 1 for entry in entries)
    return 0.06 + 0.14 * rows * (1 if lines == 1 else 0.75 * lines)


def legend_below(figure: Figure, entries: Sequence[Artist]) -> None:
    """Put one legend for all panels below them, in as many columns as fit."""
    if entries:
        columns = _legend_columns(entries, figure.get_figwidth())
        legend = figure.legend(handles=list(entries), loc="outside lower center", ncols=columns)
        for text in legend.get_texts():
            if "\n" in text.get_text():
                text.set_linespacing(SPACING)


def title(figure: Figure, text: str) -> None:
    """Write what the whole figure is of at its upper left."""
    figure.suptitle(text, fontsize=8.5, x=0.01, ha="left", linespacing=SPACING)


def crb_handle() -> Line2D:
    """Return the legend entry of the Cramer-Rao bound."""
    return Line2D([], [], color=BOUND, linewidth=3.5, label="Cramér–Rao bound")


def bound_handles(table: pd.DataFrame) -> list[Artist]:
    """Return the legend entries of the bounds that a table of metrics has."""
    prior = Patch(facecolor="0.93", edgecolor="0.35", linestyle=":", label="below prior-limited bound")
    return [
        entry
        for column, entry in (("crb", crb_handle()), ("prior_bound", prior))
        if np.isfinite(table[column].astype(float)).any()
    ]


def floor_handle() -> Artist:
    """Return the legend entry of the Bayes floor."""
    return Line2D([], [], label="Bayes floor", **_FLOOR)


def draw_floor(axis: Axes, floor: pd.DataFrame, unit: pd.Series, over_unit: bool = False) -> None:
    """Draw the Bayes floor against noise, with its errors.

    Parameters
    ----------
    axis : Axes
    floor : pandas.DataFrame
        Rows of `metrics/bayes_floor.csv` of one population. It was found for a part of the galaxies, so what
        is drawn is its ratio to their bound, times the bound of all.
    unit : pandas.Series
        That bound, indexed by noise.
    over_unit : bool
        Draw the ratio itself.
    """
    first = floor.drop_duplicates("noise").sort_values("noise")
    scale = 1.0 if over_unit else unit.reindex(first["noise"]).to_numpy(float)
    y, error = (scale * first[name].to_numpy(float) for name in ("floor_over_crb", "floor_over_crb_err"))
    axis.errorbar(first["noise"], y, error, **_FLOOR, capsize=0, zorder=2.2)


def draw_bounds(axis: Axes, table: pd.DataFrame, scale: pd.Series | None = None) -> None:
    """Draw both bounds against noise.

    Parameters
    ----------
    axis : Axes
    table : pandas.DataFrame
        Rows of `metrics/accuracy.csv` of one population. The bounds hold for the good rows of each
        estimator, so the median over estimators is drawn.
    scale : pandas.Series, optional
        What to divide by, indexed by noise.
    """
    for column in ("crb", "prior_bound"):
        bound = table.groupby("noise")[column].median().dropna()
        bound = bound / scale.reindex(bound.index) if scale is not None else bound
        x, y = bound.index.to_numpy(float), bound.to_numpy(float)
        if len(bound) == 1:  # a level line of a quarter decade, so that it can be seen
            x, y = x * np.array([10**-0.125, 10**0.125]), np.repeat(y, 2)
        if column == "crb":
            axis.plot(x, y, color=BOUND, linewidth=3.5, zorder=2)
        elif len(bound):
            # Efficient estimators lie on this bound and hide a line: what it forbids is shaded.
            axis.fill_between(x, y, 1e-12, facecolor="0.93", edgecolor="none", zorder=1)
            axis.plot(x, y, color="0.35", linewidth=0.8, linestyle=":", zorder=2.1)
