"""Where networks lose the shape: information and readable parameters at each stage."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import legend_below, legend_height
from shearbench.figures.networks import FILLINGS, KINDS, edge, short
from shearbench.figures.style import BLUE, DOUBLE, GREEN, ORANGE, PURPLE, VERMILLION, exact, styled, wrapped

ENTRY = Entry(
    category="8. Inside networks",
    caption="""\
**Where networks lose the shape**, one row for each network, from the pixels (left) to the answer. Boxes: the
stages, whose output alone determines the answer; their height is the side of the image, the text below them
the shape of the output (channels, rows, columns; or tokens, features). Left panels: share of the Fisher
information about (g1, g2) that a stage holds, marginalised over flux, position and size with their variances
in the population; 1 is all that the pixels hold. Arrows upwards are lower bounds. Crosses: the share that a
linear function of the numbers can use with real noise; where they are lower, the numbers are no linear
function of the noise. Right panels: RMSE of shapes that a regression reads from the numbers of a stage, over
the Cramér–Rao bound (solid: linear; dashed: with a Gaussian kernel). A stage with much information and a
large error holds the shape in a tangled form. The regressions are trained on a few hundred galaxies, so that
their errors are upper limits.""",
    reads=("networks.csv", "network_layers.csv", "inside_layers.csv"),
    each="population",
)

_COLOURS = (BLUE, GREEN, ORANGE, VERMILLION, PURPLE)
_MARKERS = "osDv^"
_SAID = {"other": "block of layers, or other"}
_ROW = 1.55  # height of the panels of a network, inches


@styled
def draw(networks: pd.DataFrame, listed: pd.DataFrame, layers: pd.DataFrame, population: str) -> Figure:
    """Draw the stages of the networks of a population.

    Parameters
    ----------
    networks, listed : pandas.DataFrame
        ``metrics/networks.csv`` and ``metrics/network_layers.csv``, see
        `shearbench.diagnostics.summary.summarise_networks`.
    layers : pandas.DataFrame
        ``metrics/inside_layers.csv``, see `shearbench.diagnostics.layers.table_of_layers`.
    population : str
    """
    networks = networks[networks["population"] == population].set_index("variant")
    layers = layers[(layers["population"] == population) & (layers["precision"] == "exact")]
    variants = list(dict.fromkeys(layers["variant"]))
    noises = sorted(layers["noise"].unique())
    looks: dict[float, dict[str, Any]] = {
        noise: {"color": _COLOURS[k % len(_COLOURS)], "marker": _MARKERS[k % len(_MARKERS)]}
        for k, noise in enumerate(noises)
    }
    kinds = dict.fromkeys(_look(kind) for kind in layers["kind"])
    entries: list[Any] = [
        *(Line2D([], [], label=rf"$\sigma$ = {exact(noise)}", **look) for noise, look in looks.items()),
        Line2D([], [], color="0.3", linestyle="--", label="read with a kernel"),
        Line2D([], [], color="0.3", marker="x", linestyle="", label="usable with real noise"),
        *(Patch(label=_SAID.get(name, name), **edge(name)) for name in FILLINGS if name in kinds),
    ]
    height = max(len(variants), 1) * _ROW + legend_height(entries, DOUBLE) + 0.1
    figure = Figure(figsize=(DOUBLE, height), layout="constrained")
    axes = figure.subplots(max(len(variants), 1), 2, squeeze=False)
    read = layers[[name for name in layers if name in ("linear_shape", "kernel_shape")]].to_numpy(float)
    read = read[np.isfinite(read) & (read > 0)]
    limits = (0.7, 2 * read.max()) if read.size else (0.7, 10)
    for row, variant in zip(axes, variants):
        own = layers[layers["variant"] == variant]
        _information(row[0], own, looks)
        _readable(row[1], own, looks, limits)
        about = networks.loc[variant] if variant in networks.index else None
        row[0].set_title(_title(variant, about), loc="left", fontsize=7.5)
        for axis in row:
            _stages(axis, own)
    legend_below(figure, entries)
    return figure


def _look(kind: str) -> str:
    return KINDS.get(kind, "other" if kind not in ("stamp", "shape") else "")


def _title(variant: str, about: pd.Series | None) -> str:
    if about is None:
        return wrapped(variant)
    sees = int(about["receptive_field"])
    return (
        f"{wrapped(variant)}: {short(about['parameters'])} parameters, {short(about['flops'])} FLOPs, "
        f"a feature sees {sees} of {int(about['side'])} pixels"
    )


def _information(axis: Axes, own: pd.DataFrame, looks: dict[float, dict[str, Any]]) -> None:
    for noise, look in looks.items():
        one = own[own["noise"] == noise].sort_values("place")
        x, y = one["place"].to_numpy(float), one["information"].to_numpy(float)
        axis.errorbar(x, y, np.nan_to_num(one["information_err"].to_numpy(float)), **look, markersize=3)
        below = ~one["converged"].astype(bool).to_numpy() & np.isfinite(y)
        limit = {"color": look["color"], "linestyle": "", "capsize": 1.5, "elinewidth": 0.6}
        axis.errorbar(x[below], y[below], 0.1, lolims=True, **limit)
        axis.plot(x, one["information_noisy"], "x", color=look["color"], markersize=4)
    axis.set_ylim(-0.05, 1.35)
    axis.set_yticks([0, 0.5, 1])
    axis.set_ylabel("information")


def _readable(
    axis: Axes, own: pd.DataFrame, looks: dict[float, dict[str, Any]], limits: tuple[float, float]
) -> None:
    for noise, look in looks.items():
        one = own[own["noise"] == noise].sort_values("place")
        axis.plot(one["place"], one["linear_shape"], **look, markersize=3)
        axis.plot(one["place"], one["kernel_shape"], color=look["color"], linestyle="--")
    axis.axhline(1, color="0.72", linewidth=2, zorder=1)
    axis.set_yscale("log")
    low, high = limits
    axis.set_ylim(low, high * (high / low) ** 0.28)  # room for the boxes
    axis.set_ylabel("RMSE / bound")


def _stages(axis: Axes, own: pd.DataFrame) -> None:
    """Draw a box for each stage at the top of the axes, and its shape below the axis."""
    stages = own.drop_duplicates("place").sort_values("place")
    side = max(_side(shape) for shape in stages["shape"])
    for place, kind, shape in zip(stages["place"], stages["kind"], stages["shape"]):
        tall = 0.02 + 0.13 * math.log2(1 + _side(shape)) / math.log2(1 + side)
        look = _look(kind)
        filling = edge(look) if look else {"facecolor": "black"}
        axis.add_patch(
            Rectangle(
                (place - 0.28, 0.9 - tall / 2),
                0.56,
                tall,
                transform=axis.get_xaxis_transform(),
                zorder=4,
                **filling,
            )
        )
    labels = [shape.replace("x", "×") for shape in stages["shape"]]
    axis.set_xticks(stages["place"], labels, rotation=30, ha="right", rotation_mode="anchor", fontsize=5.5)
    axis.tick_params(axis="x", which="both", top=False, pad=1)
    axis.set_xlim(-0.6, max(float(stages["place"].max()), 1) + 0.6)


def _side(shape: str) -> float:
    """Return the side of an image, or of a square of as many positions as there are tokens."""
    sizes = [int(size) for size in shape.split("x")]
    if len(sizes) == 1:
        return 1.0
    return sizes[-1] if len(sizes) == 3 or sizes[0] == sizes[1] else sizes[0] ** 0.5
