"""Attention maps of a study's networks beside the information on the shear in each pixel."""

from __future__ import annotations

from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from shearbench.evaluation.attention import EXAMPLES, AttentionMaps, read_maps
from shearbench.figures.axes import figure_title, note
from shearbench.figures.catalogue import Entry
from shearbench.figures.gallery import BEHIND, scale_bar
from shearbench.figures.style import DOUBLE, SINGLE, exact, styled, wrapped

ENTRY = Entry(
    category="7. Studies",
    caption="""\
**Where networks look.** From left to right: the stamp of a galaxy (grey scale linear below twice the noise
σ or a fiftieth of the peak, logarithmic above), the Fisher information on the shear in each of its pixels,
with flux, position and size unknown, and the attention of each network with attention to pixels or patches:
the weight of each pixel, averaged over layers, training seeds and attention heads. Information and weights
are divided by their mean over the stamp. Each panel has a colour scale of its own, from its smallest to its
largest value, which it gives. A network can undo a weight in a later layer, so that a pixel with little
weight may be used nevertheless.""",
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
    whole = SINGLE if columns <= 4 else DOUBLE
    side = (whole - 0.25) / columns
    layout = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0.0, hspace=0.0)
    figure = Figure(figsize=(whole, (side + 0.02) * len(EXAMPLES) + 0.6), layout=layout)
    axes = figure.subplots(len(EXAMPLES), columns, squeeze=False)
    width = maps.stamp.shape[-1] * maps.pixel_scale
    shown = {"origin": "lower", "extent": (-width / 2, width / 2) * 2}
    for k, example in enumerate(EXAMPLES):
        sigma = maps.sigma[k]
        peak = maps.stamp[k].max()
        linear = max(2 * sigma, 0.02 * peak)
        norm = AsinhNorm(linear_width=linear, vmin=-linear, vmax=max(peak, 2 * linear))
        axes[k, 0].imshow(maps.stamp[k], norm=norm, cmap="gray", **shown)
        axes[k, 0].set_ylabel(example, fontsize=7.5, labelpad=3)
        note(axes[k, 0], f"$\\sigma$ = {exact(sigma)}", color="white", fontsize=6, bbox=BEHIND)
        for axis, image in zip(axes[k, 1:], [maps.information[k], *(one[k] for one in maps.maps.values())]):
            axis.imshow(image, cmap="inferno", **shown)
            limits = f"{_short(image.min())} to {_short(image.max())}"
            note(axis, limits, color="white", fontsize=6, bbox=BEHIND)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for axis, title in zip(axes[0], ["stamp", "information", *maps.maps]):
        axis.set_title(wrapped(title, round(16 * side)), fontsize=7, pad=2)
    scale_bar(axes[-1, 0], width)
    figure_title(figure, name)
    return figure


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 2 else f"{value:.2f}"
