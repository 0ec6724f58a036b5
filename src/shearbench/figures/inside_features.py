"""Filters, features and attention of a network."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from shearbench.evaluation.inside_maps import EXAMPLES, Image, read_inside
from shearbench.figures.axes import figure_title
from shearbench.figures.catalogue import Entry
from shearbench.figures.style import DOUBLE, exact, styled

ENTRY = Entry(
    category="8. Inside networks",
    caption="""\
**Filters, features and attention of a network.** Top: four galaxies with the same flux and size, and the
channels of the stages that vary most over the pixels; in a row all images have the same colour scale.
Filters: derivatives of the channels in the middle of the first stage by the pixels. Exciting: the changes
of the round galaxy's stamp, of given norm, that raise the middle of a channel most, in units of its largest
pixel. Attention: weights of the pixels over their mean, of the last layer with attention.""",
    reads=("inside_maps.h5",),
    each="network",
)

_COLUMNS = 12
_STAGES = 7  # at most as many are shown


@styled
def draw(path: str, network: str) -> Figure:
    """Draw the maps of a network.

    Parameters
    ----------
    path : str
        ``metrics/inside_maps.h5``.
    network : str
        Names of the population and the variant, joined by an underscore.
    """
    (one,) = [maps for maps in read_inside(path) if f"{maps.population}_{maps.variant}" == network]
    layers = list(one.features)
    chosen = np.unique(np.linspace(0, len(layers) - 1, min(_STAGES, len(layers))).round().astype(int))
    layers = [layers[k] for k in chosen]
    sides = [
        1.6,
        *[1.0] * len(layers),
        1.0,
        *([1.0] if one.exciting else []),
        *([1.6] if one.attention else []),
    ]
    side = (DOUBLE - 1.3) / _COLUMNS
    layout = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.012, wspace=0, hspace=0)
    figure = Figure(figsize=(DOUBLE, sum(sides) * (side + 0.03) + 0.5), layout=layout)
    grid = figure.add_gridspec(
        len(sides), _COLUMNS + 1, height_ratios=sides, width_ratios=[1] * _COLUMNS + [0.25]
    )

    def axis_of(row: int, column: int, span: int = 1) -> Axes:
        axis = figure.add_subplot(grid[row, column : column + span])
        axis.set_xticks([])
        axis.set_yticks([])
        return axis

    def bar(row: int, image: Any, label: str = "", ticks: list[float] | None = None) -> None:
        axis = figure.add_subplot(grid[row, _COLUMNS])
        found = figure.colorbar(image, cax=axis, ticks=ticks)
        found.ax.tick_params(labelsize=5)
        found.ax.yaxis.offsetText.set_fontsize(5)
        found.set_label(label, fontsize=5.5)

    stamps, sigma = one.arrays["stamps"], one.arrays["sigma"]
    high = float(stamps.max())
    linear = high / 30
    for k, name in enumerate(EXAMPLES):
        axis = axis_of(0, 3 * k, 3)
        shown = axis.imshow(
            stamps[k], cmap="gray", origin="lower", norm=AsinhNorm(linear, vmin=-linear, vmax=high)
        )
        axis.set_title(f"{name}, $\\sigma$ = {exact(float(sigma[k]))}", fontsize=6.5, pad=2)
    # No power of ten so close to zero that their labels overlap.
    bar(0, shown, "flux", [0, *10.0 ** np.arange(np.ceil(np.log10(linear / 2)), np.log10(high))])
    row = 1
    for layer in layers:
        maps = one.features[layer]
        limit = float(np.abs(maps).max()) or 1.0
        for k in range(maps.shape[0]):
            for c in range(maps.shape[1]):
                axis = axis_of(row, 3 * k + c)
                shown = axis.imshow(maps[k, c], cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower")
                if k == c == 0:
                    _label(axis, f"{_name(layer)}\n{maps.shape[2]}×{maps.shape[3]}")
        bar(row, shown)
        row += 1
    row = _line(axis_of, bar, row, "filters", list(one.filters))
    if one.exciting:
        images = [image for found in one.exciting.values() for image in found]
        titles = [_name(layer) for layer, found in one.exciting.items() for _ in found]
        scale = float(np.abs(stamps).max())
        row = _line(axis_of, bar, row, "exciting", [image / scale for image in images], titles)
    if one.attention:
        maps = list(one.attention.values())[-1]
        for k in range(len(maps)):
            axis = axis_of(row, 3 * k, 3)
            shown = axis.imshow(maps[k], cmap="viridis", vmin=0, vmax=float(maps.max()), origin="lower")
            if k == 0:
                _label(axis, "attention")
        bar(row, shown, "weight / mean")
    figure_title(figure, f"{one.variant}, population {one.population}")
    return figure


def _line(
    axis_of: Any,
    bar: Any,
    row: int,
    label: str,
    images: list[Image],
    titles: list[str] | None = None,
) -> int:
    """Draw a row of images with one colour scale; return the next row."""
    limit = max(float(np.abs(image).max()) for image in images) or 1.0
    for k, image in enumerate(images[:_COLUMNS]):
        axis = axis_of(row, k)
        shown = axis.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower")
        if k == 0:
            _label(axis, label)
        if titles and (k == 0 or titles[k] != titles[k - 1]):
            axis.set_title(titles[k], fontsize=5.5, pad=1, loc="left")
    bar(row, shown)
    return row + 1


def _label(axis: Axes, text: str) -> None:
    axis.set_ylabel(text, fontsize=5.5, rotation=0, ha="right", va="center", labelpad=2)


def _name(layer: str) -> str:
    """Return the short name of a layer."""
    return layer.removeprefix("network.").replace("features.", "").replace("blocks.", "")
