"""The style of every figure: sizes, fonts, colours and texts; saving of a figure.

Colours are those of Okabe & Ito (2008, "Color Universal Design"), which people with any type of colour vision
can distinguish. Markers, lines and fillings differ too, for print in grey.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec

import matplotlib.style
from matplotlib.figure import Figure

from shearbench.files.writing import atomic

SINGLE = 3.5
"""Width of one journal column, inches."""
DOUBLE = 7.1
"""Width of two journal columns, inches."""

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, WINE, OLIVE = "#CC79A7", "#56B4E9", "#882255", "#999933"
SERIES = ("black", BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, WINE, OLIVE)
"""Colours of the values of a study, where each has a line."""
BOUND = "0.72"
"""Grey of the Cramer-Rao bound."""
SPACING = 1.02
"""Spacing of lines of text; the default of the font is wider, for mathematics."""

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
    """Use this style instead of the user's settings inside a ``with`` block."""
    with matplotlib.style.context(["default", _RC]):
        yield


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Decorate a function that draws a figure, so that it uses this style."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with context():
            return draw(*args, **kwargs)

    return wrapper


def save(figure: Figure, pdf_path: str | os.PathLike[str], png_path: str | os.PathLike[str]) -> None:
    """Write a figure as PDF (fonts embedded) and PNG; an interrupted write leaves no partial file.

    The files contain no date and no version, so the same figure gives the same bytes.

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
        figure.set_layout_engine("none")  # the second file has the layout of the first


def wrapped(label: str, width: int = 34) -> str:
    """Break a long label into lines, and escape dollar signs, which would start mathematics."""
    return "\n".join(textwrap.wrap(label, width, break_long_words=True) or [""]).replace("$", r"\$")


def power(value: float) -> str:
    """Write a number with two digits as mathematics, such as ``1.0 x 10^-4``."""
    if not math.isfinite(value):
        return "–"
    if value == 0 or 0.01 <= abs(value) < 1000:
        return f"${value:.2g}$" if abs(value) < 100 else f"${value:.0f}$"
    mantissa, exponent = f"{value:.1e}".split("e")
    return rf"${mantissa}\times10^{{{int(exponent)}}}$"


def exact(value: float) -> str:
    """Write a number of the configuration without trailing zeros: ``10^-5``, ``2 x 10^-3``."""
    if not math.isfinite(value):
        return "–"
    mantissa, exponent = f"{value:.5e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    if mantissa == "1":
        return rf"$10^{{{int(exponent)}}}$"
    return rf"${mantissa}\times10^{{{int(exponent)}}}$"
