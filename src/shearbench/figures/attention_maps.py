"""Attention maps of a study's networks beside the information on the shear in each pixel."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from shearbench.evaluation.attention import EXAMPLES, AttentionMaps, read_maps
from shearbench.figures.axes import figure_title, note
from shearbench.figures.catalogue import Entry
from shearbench.figures.gallery import BEHIND, scale_bar
from shearbench.figures.style import DOUBLE, exact, styled, wrapped

ENTRY = Entry(
    category="7. Studies",
    caption="""\
**Where networks look.** From left to right: the stamp of a galaxy (grey scale linear below twice the noise
σ, logarithmic above), the Fisher information on the shear in each of its pixels with flux, position and
size unknown, and the attention of each network with attention to pixels or patches: the weight of each
pixel, averaged over layers, seeds and heads. Information and weights are divided by their mean over the
stamp, and each panel has a colour scale of its own, from zero to its largest value, which is given. A
network can undo a weight in a later layer, so that a pixel with little weight is not always a pixel that is
not used.""",
    reads=("studies/{study}_attention.h5",),
    each="study",
)


def draw(path: str, question: str, name: str) -> Figure:
    """Draw the maps of ``metrics/studies/<study>_attention.h5``."""
    return draw_maps(read_maps(path), name)


@styled
def draw_maps(maps: AttentionMaps, name: str) -> Figure:
    """Draw a row for each galaxy: stamp, information, and the attention of each network.

    Parameters
    ----------
    maps : AttentionMaps
    name : str
        Name of the study, the title.

    Returns
    -------
    matplotlib.figure.Figure
    """
    columns = 2 + len(maps.maps)
    side = min((DOUBLE - 0.25) / columns, 1.1)
    layout = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0.0, hspace=0.0)
    size = (side * columns + 0.25, (side + 0.02) * len(EXAMPLES) + 0.6)
    figure = Figure(figsize=size, layout=layout)
    axes = figure.subplots(len(EXAMPLES), columns, squeeze=False)
    width = maps.stamp.shape[-1] * maps.pixel_scale
    shown = {"origin": "lower", "extent": (-width / 2, width / 2) * 2}
    for k, example in enumerate(EXAMPLES):
        sigma = maps.sigma[k]
        norm = AsinhNorm(linear_width=2 * sigma, vmin=-2 * sigma, vmax=max(maps.stamp[k].max(), 4 * sigma))
        axes[k, 0].imshow(maps.stamp[k], norm=norm, cmap="gray", **shown)
        axes[k, 0].set_ylabel(example, fontsize=7.5, labelpad=3)
        note(axes[k, 0], f"$\\sigma$ = {exact(sigma)}", color="white", fontsize=6, bbox=BEHIND)
        for axis, image in zip(axes[k, 1:], [maps.information[k], *(one[k] for one in maps.maps.values())]):
            axis.imshow(image, vmin=0, vmax=image.max(), cmap="inferno", **shown)
            note(axis, f"max {_short(image.max())}", color="white", fontsize=6, bbox=BEHIND)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for axis, title in zip(axes[0], ["stamp", "information", *maps.maps]):
        axis.set_title(wrapped(title, round(16 * side)), fontsize=7, pad=2)
    scale_bar(axes[-1, 0], width)
    figure_title(figure, name)
    return figure


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if np.isfinite(value) else "--"
