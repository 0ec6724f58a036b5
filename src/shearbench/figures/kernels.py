"""Responses of simple convolution kernels to patterns and to a galaxy."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from scipy.ndimage import convolve

from shearbench.evaluation.gallery import read_gallery
from shearbench.figures.catalogue import Entry
from shearbench.figures.style import DOUBLE, styled

ENTRY = Entry(
    category="8. Inside networks",
    caption="""\
**What single kernels respond to.** Columns: patterns with values between 0 and 1, and a galaxy at the lowest
noise level, divided by its largest pixel. First row: the patterns. Other rows: their convolution with the
kernel at the left. The rows of a kernel have one colour scale. A kernel whose elements have the sum zero does
not respond to a constant; a ridge kernel responds to lines, an edge kernel to steps.""",
    reads=("gallery.h5",),
    each="population",
)

KERNELS = {
    "edge": np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8,
    "blur": np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16,
    "sharpen": np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]]) / 1.0,
    "ridge": np.array([[-1, 2, -1], [-1, 2, -1], [-1, 2, -1]]) / 6,
}
"""Sobel's edge kernel, a binomial blur, a sharpening, and a ridge along a column."""


def patterns(side: int) -> dict[str, NDArray[np.float64]]:
    """Return the patterns of `side` by `side` pixels."""
    y, x = np.mgrid[:side, :side]
    texture = np.random.default_rng(1).random((side, side))
    return {
        "edge": (x >= side // 2) * 1.0,
        "texture": convolve(texture, KERNELS["blur"], mode="wrap"),
        "gradient": x / (side - 1),
        "checkerboard": (x // 2 + y // 2) % 2 * 1.0,
    }


@styled
def draw(path: str, population: str) -> Figure:
    """Draw the responses of the kernels.

    Parameters
    ----------
    path : str
        ``metrics/gallery.h5``.
    population : str
    """
    galaxy = read_gallery(path, population).stamp[0, 0].astype(float)
    galaxy = galaxy / max(float(galaxy.max()), 1e-300)
    shown = {**patterns(galaxy.shape[0]), "galaxy": galaxy}
    rows = [("pattern", None), *KERNELS.items()]
    side = 0.95
    layout = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    figure = Figure(figsize=(DOUBLE, len(rows) * (side + 0.04) + 0.25), layout=layout)
    axes = figure.subplots(len(rows), len(shown) + 1)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for row, (name, kernel) in zip(axes, rows):
        if kernel is None:
            row[0].set_visible(False)
            images, norm, colours = list(shown.values()), Normalize(0, 1), "gray"
        else:
            limit = float(np.abs(kernel).max())
            row[0].imshow(kernel, cmap="RdBu_r", vmin=-limit, vmax=limit)
            row[0].set_ylabel(name, fontsize=7.5)
            images = [convolve(image, kernel[::-1, ::-1], mode="nearest") for image in shown.values()]
            largest = max(float(np.abs(image).max()) for image in images)
            norm, colours = Normalize(-largest, largest), "RdBu_r"
        for axis, image in zip(row[1:], images):
            drawn = axis.imshow(image, norm=norm, cmap=colours, origin="lower")
        bar = figure.colorbar(drawn, ax=row[-1], fraction=0.06, pad=0.03)
        bar.ax.tick_params(labelsize=5.5)
    for axis, title in zip(axes[0, 1:], shown):
        axis.set_title(title, fontsize=7.5, pad=2)
    return figure
