"""Diagrams of the networks, with their parameters, operations and receptive fields."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import NullFormatter, NullLocator
from numpy.typing import NDArray

from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import legend_below, legend_height
from shearbench.figures.style import (
    BLUE,
    DOUBLE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    SPACING,
    VERMILLION,
    styled,
    wrapped,
)

ENTRY = Entry(
    category="4. Networks",
    caption="""\
**The networks**, layer by layer from left to right. The height of a box is the side of the layer's
image; its width and its number are the channels. Brackets mark blocks whose input is added to their
output, or joined to it as further channels. Right: number of parameters; floating-point operations for
one stamp (convolutions and matrix products; a multiplication and an addition count as two); receptive
field, the number of pixels across that one feature before the dense layers depends on, with the side of
the stamp dotted. If some populations have one PSF per galaxy, the networks are drawn for such a
population.""",
    reads=("networks.csv", "network_layers.csv"),
)

# Colour and hatching of each type of layer; the hatching is for print in grey.
FILLINGS: dict[str, dict[str, Any]] = {
    "convolution": {"facecolor": BLUE},
    "group convolution": {"facecolor": SKY, "hatch": "/////"},
    "attention": {"facecolor": VERMILLION, "hatch": "xxxxx"},
    "pooling": {"facecolor": "white"},
    "pixels to channels or back": {"facecolor": ORANGE, "hatch": "....."},
    "dense": {"facecolor": "0.85"},
    "principal components": {"facecolor": GREEN, "hatch": "-----"},
    "other": {"facecolor": PURPLE, "hatch": "|||||"},
}
_PALE = ("pooling", "dense")  # a number is legible on these without a white background
KINDS = {
    "Conv2d": "convolution",
    "GroupConvolution": "group convolution",
    "SelfAttention": "attention",
    "CrossAttention": "attention",
    "Cbam": "attention",
    "ChannelWeights": "attention",
    "PixelWeights": "attention",
    "MaxPool2d": "pooling",
    "AvgPool2d": "pooling",
    "PixelUnshuffle": "pixels to channels or back",
    "PixelShuffle": "pixels to channels or back",
    "Linear": "dense",
    "GroupReadout": "dense",
    "Components": "principal components",
}
_LITTLE = "Norm|Position|LevelField"  # layers with weights that leave the shape unchanged and are not drawn
_ROW = 0.5  # height of a network, inches
_TALL = 0.74  # height of the tallest layer, in rows
_LOW = 0.17  # height of the lowest layer, in rows
_GAP = 0.35  # gap between layers, in widths of the narrowest layer
_SKIPS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("added", "input added", {"color": "black", "linewidth": 0.6}),
    ("beside", "input joined", {"color": "black", "linewidth": 0.8, "linestyle": (0, (1.5, 1))}),
)
_PLATE = {"facecolor": "white", "edgecolor": "none", "pad": 0.25}
_SMALL = 5.5  # size of the numbers in the layers, points


@styled
def draw(networks: pd.DataFrame, layers: pd.DataFrame) -> Figure:
    """Draw the layers of each network in order, and beside them parameters, FLOPs and receptive field.

    Parameters
    ----------
    networks, layers : pandas.DataFrame
        ``metrics/networks.csv`` and ``metrics/network_layers.csv``, see
        `shearbench.diagnostics.summary.summarise_networks`.

    Returns
    -------
    matplotlib.figure.Figure
        One row per variant, drawn for the first population that has one PSF per galaxy, or else for the first
        population.
    """
    order = networks["channels"].sort_values(ascending=False, kind="stable").index
    population = networks.loc[order[0], "population"]
    several = networks["channels"].nunique() > 1
    networks = networks[networks["population"] == population]
    drawn = layers[layers["population"] == population].assign(look=_look(layers))
    drawn = drawn[drawn["look"] != ""].fillna({"added": "", "beside": ""})
    used = [name for name in FILLINGS if name in set(drawn["look"])]
    entries = [
        *[Patch(label=name, **edge(name)) for name in used],
        *[Line2D([], [], label=label, **line) for column, label, line in _SKIPS if drawn[column].any()],
    ]
    height = _ROW * len(networks) + 0.6 + legend_height(entries, DOUBLE)
    figure = Figure(figsize=(DOUBLE, height))
    figure.set_layout_engine("constrained", wspace=0.01)
    axes = figure.subplots(1, 4, sharey=True, width_ratios=[5.2, 1, 1, 1])
    widest = max(_width(own) for _, own in drawn.groupby("variant"))
    side = float(networks["side"].max())
    for row, (variant, refined) in enumerate(zip(networks["variant"], networks["refined"])):
        end = _diagram(axes[0], row, drawn[drawn["variant"] == variant], side)
        if refined:
            axes[0].text(end, row, "+ forward model", va="center_baseline", fontsize=_SMALL + 1)
            widest = max(widest, end + 9)
    axes[0].set_xlim(-0.5, widest + 0.5)
    axes[0].set_ylim(len(networks) - 0.45, -0.55)
    axes[0].set_yticks(range(len(networks)), [wrapped(name, 14) for name in networks["variant"]])
    axes[0].xaxis.set_major_locator(NullLocator())
    axes[0].tick_params(axis="y", length=0, right=False)
    axes[0].spines[:].set_visible(False)
    of = f" (as for {wrapped(population)})" if several else ""
    axes[0].set_xlabel(f"layers{of}: height, pixels; width and number, channels")
    _numbers(axes[1], networks["parameters"].to_numpy(float), "parameters")
    _numbers(axes[2], networks["flops"].to_numpy(float), "FLOPs\nper stamp")
    _views(axes[3], networks["receptive_field"].to_numpy(float), side)
    legend_below(figure, entries)
    return figure


def _look(layers: pd.DataFrame) -> pd.Series:
    """Return the type that each layer is drawn as; empty for an unknown layer without weights."""
    known = layers["kind"].map(KINDS).fillna("")
    other = (known == "") & (layers["parameters"] > 0) & ~layers["kind"].str.contains(_LITTLE)
    return known.mask(other, "other")


def edge(look: str) -> dict[str, Any]:
    """Return how a box of a type of layer is drawn."""
    return {**FILLINGS[look], "edgecolor": "black", "linewidth": 0.5}


def _widths(own: pd.DataFrame) -> list[float]:
    return [1 + 0.18 * math.log2(channels) for channels in own["channels"]]


def _width(own: pd.DataFrame) -> float:
    """Return the width of a diagram: the longer of the two branches, if there are two, and the head."""
    parts = {str(name): part for name, part in own.groupby("part")}
    ends = {name: sum(_widths(part)) + _GAP * len(part) for name, part in parts.items()}
    return max(ends.get("features", 0.0), ends.get("psf", 0.0)) + ends.get("head", 0.0)


def _diagram(axis: Axes, row: int, own: pd.DataFrame, side: float) -> float:
    """Draw the layers of a network in its row, with brackets around blocks; return the x of their end."""
    two = "psf" in set(own["part"])
    tracks = {"features": (row - 0.22, 0.5), "psf": (row + 0.24, 0.5)} if two else {}
    ends = {"features": 0.0, "psf": 0.0}
    places: dict[str, tuple[float, float, float]] = {}
    for part in ("features", "psf", "head"):
        x = max(ends.values()) if part == "head" else 0.0
        centre, scale = tracks.get(part, (row + 0.04, 1.0))
        chosen = own[own["part"] == part]
        for layer, width in zip(chosen.to_dict("records"), _widths(chosen)):
            share = math.log2(1 + math.sqrt(layer["positions"])) / math.log2(1 + side)
            tall = max(_TALL * scale * share, _LOW)
            axis.add_patch(Rectangle((x, centre - tall / 2), width, tall, zorder=3, **edge(layer["look"])))
            axis.text(
                x + width / 2,
                centre,
                f"{layer['channels']}",
                bbox=None if layer["look"] in _PALE else _PLATE,
                ha="center",
                va="center_baseline",
                fontsize=_SMALL,
                zorder=4,
            )
            places[layer["layer"]] = (x, x + width, centre - tall / 2)
            x += width + _GAP
        if two and part != "head":
            name = "galaxy" if part == "features" else "PSF"
            axis.text(x, centre, name, va="center_baseline", fontsize=_SMALL + 1)
            x += 2.5
        ends[part] = x
    for column, _, line in _SKIPS:
        _brackets(axis, own, column, places, line)
    return ends["head"]


def _brackets(axis: Axes, own: pd.DataFrame, column: str, places: dict[str, Any], line: Any) -> None:
    """Draw a bracket over each block, from before its first layer to after its last."""
    paths = own[column].str.split()
    for block in dict.fromkeys(path for inside in paths for path in inside):
        inside = [places[name] for name, of in zip(own["layer"], paths) if block in of]
        start, stop = inside[0][0] - _GAP / 3, inside[-1][1] + _GAP / 3
        top = min(place[2] for place in inside)
        height = [top + 0.1, top - 0.07, top - 0.07, top + 0.1]
        axis.plot([start, start, stop, stop], height, zorder=2, **line)


def _numbers(axis: Axes, values: NDArray[np.float64], label: str) -> None:
    """Draw a point and its number for each network, on a logarithmic axis."""
    low = values.min() / 3
    axis.set_xscale("log")
    axis.set_xlim(low, max(15 * values.max(), 200 * low))  # room for a number, and at least two powers of ten
    axis.xaxis.set_minor_formatter(NullFormatter())
    for row, value in enumerate(values):
        axis.axhline(row, color="0.85", linewidth=0.5, zorder=1)
        axis.plot(value, row, "o", color=BLUE, zorder=3)
        _beside(axis, short(value), value, row, 4)
    axis.set_xlabel(label, linespacing=SPACING)
    axis.tick_params(axis="y", length=0, labelleft=False)


def _views(axis: Axes, values: NDArray[np.float64], side: float) -> None:
    """Draw the receptive fields as bars, with the side of the stamp as a dotted line."""
    axis.barh(range(len(values)), values, height=0.3, color=BLUE, zorder=2)
    axis.axvline(side, color="black", linewidth=0.6, linestyle=":", zorder=3)
    for row, value in enumerate(values):
        _beside(axis, f"{value:.0f}", side, row, 3)
    axis.set_xlim(0, 1.6 * side)
    axis.set_xticks([0, side], ["0", f"{side:.0f}"])
    axis.set_xlabel("receptive\nfield [pixels]", linespacing=SPACING)
    axis.tick_params(axis="y", length=0, labelleft=False)


def _beside(axis: Axes, text: str, x: float, y: float, points: float) -> None:
    """Write a number to the right of the point (x, y)."""
    axis.annotate(
        text,
        (x, y),
        (points, 0),
        textcoords="offset points",
        va="center_baseline",
        fontsize=6.5,
        bbox=_PLATE,
        zorder=2.5,
    )


def short(value: float) -> str:
    """Write a large number with a prefix: 166k, 11M."""
    for power, letter in ((9, "G"), (6, "M"), (3, "k")):
        if value >= 0.9995 * 10**power:
            return f"{value / 10**power:.3g}{letter}"
    return f"{value:.0f}"
