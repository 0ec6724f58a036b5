"""How transformers are told positions: Gram matrices of the codes, and the attention scores beside them."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from shearbench.evaluation.attention import AttentionMaps, read_maps
from shearbench.figures.axes import figure_title
from shearbench.figures.catalogue import Entry
from shearbench.figures.style import DOUBLE, SINGLE, styled, wrapped

ENTRY = Entry(
    category="7. Studies",
    caption="""\
**Positions and attention.** Top: the Gram matrix of the numbers that tell each patch its position, divided
by the mean of its diagonal: how similar the codes of two patches are. Bottom: the weight that each patch
(row) gives to each other one (column) in the first layer of self-attention, averaged over heads and test
galaxies at the lowest noise level, times the number of patches; 1 is attention to all patches alike. Patches
are numbered row by row, and ticks mark the rows of the stamp. Networks of the first training seed.""",
    reads=("studies/{study}_attention.h5",),
    each="study",
)


def draw(path: str, question: str, name: str) -> Figure:
    """Draw the codes and scores of ``metrics/studies/<study>_attention.h5``."""
    return draw_codes(read_maps(path), name)


@styled
def draw_codes(maps: AttentionMaps, name: str) -> Figure:
    """Draw a column for each network with attention between tokens: Gram matrix and scores.

    Parameters
    ----------
    maps : AttentionMaps
    name : str
        Name of the study, the title.

    Returns
    -------
    matplotlib.figure.Figure
    """
    columns = max(len(maps.scores), 1)
    whole = SINGLE if columns <= 2 else DOUBLE
    side = (whole - 1.0) / columns
    figure = Figure(figsize=(whole, 2 * side + 0.9), layout="constrained")
    axes = figure.subplots(2, columns, squeeze=False)
    most = max([1.0, *(len(one) * one.max() for one in maps.scores.values())])
    grams, weights = [], []
    for (value, scores), (top, bottom) in zip(maps.scores.items(), axes.T):
        top.set_title(wrapped(value, round(13 * side)), fontsize=7.5, pad=3)
        if value in maps.codes:
            grams.append(top.imshow(maps.codes[value], cmap="RdBu_r", vmin=-1, vmax=1))
        else:
            top.text(0.5, 0.5, "no code", ha="center", va="center", transform=top.transAxes, fontsize=7.5)
        weights.append(bottom.imshow(scores * len(scores), cmap="inferno", vmin=0, vmax=most))
        for axis in (top, bottom):
            _mark_rows(axis, scores)
    if not maps.scores:
        for axis in axes.flat:
            axis.set_axis_off()
        axes[0, 0].text(0.5, 0.5, "no attention between tokens", ha="center")
    axes[0, 0].set_ylabel("code of patch", fontsize=7.5)
    axes[1, 0].set_ylabel("from patch", fontsize=7.5)
    for axis in axes[1]:
        axis.set_xlabel("to patch", fontsize=7.5)
    for shown, row, label in ((grams, axes[0], "similarity of codes"), (weights, axes[1], "weight / mean")):
        if shown:
            bar = figure.colorbar(shown[-1], ax=row.tolist(), fraction=0.02, pad=0.01, aspect=25)
            bar.set_label(label)
    figure_title(figure, name)
    return figure


def _mark_rows(axis: Axes, scores: NDArray[np.float64]) -> None:
    """Put a tick between the tokens of neighbouring rows of the stamp."""
    rows = math.isqrt(len(scores))
    ticks = np.arange(0, len(scores) + 1, rows) - 0.5 if rows**2 == len(scores) else np.array([])
    axis.set_xlim(-0.5, len(scores) - 0.5)
    axis.set_ylim(len(scores) - 0.5, -0.5)
    axis.set_xticks(ticks, [""] * len(ticks))
    axis.set_yticks(ticks, [""] * len(ticks))
