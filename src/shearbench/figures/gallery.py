"""Stamps at each noise level, the fitted model, and the residual."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from shearbench.evaluation.gallery import Gallery, read_gallery
from shearbench.figures.axes import figure_title, note
from shearbench.figures.catalogue import Entry
from shearbench.figures.style import DOUBLE, exact, power, styled

ENTRY = Entry(
    category="5. Stamps",
    caption="""\
**Stamps at each noise level** σ (per pixel, flux units; one row each): the same two test galaxies, at
the upper and at the lower quartile of the flux. Stamp and fitted model have the same grey scale, linear
below twice the noise and logarithmic above. The residual, stamp minus model, is in units of σ. Structure
in the residuals at low noise is an error of the model; a right model leaves noise only. S/N is the
matched-filter signal-to-noise ratio of the stamp. The scale bar is in arcseconds.""",
    reads=("gallery.h5",),
    each="population",
)

_RANGE = 4.0  # of the residual images, in units of the noise


def draw(path: str, population: str) -> Figure:
    """Draw the gallery of one population of ``metrics/gallery.h5``."""
    return draw_gallery(read_gallery(path, population))


@styled
def draw_gallery(gallery: Gallery) -> Figure:
    """Draw stamp, model and residual of the gallery's galaxies, a row for each noise level.

    Parameters
    ----------
    gallery : Gallery
        One population of ``metrics/gallery.h5`` (`shearbench.evaluation.gallery.read_gallery`).

    Returns
    -------
    matplotlib.figure.Figure
        Colours of the residuals are in units of the noise per pixel.
    """
    levels, galaxies = gallery.snr.shape
    columns = 3 * galaxies
    side = (DOUBLE - 1.25) / max(columns, 6)
    layout = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0.0, hspace=0.0)
    figure = Figure(figsize=(side * columns + 1.25, (side + 0.03) * levels + 0.62), layout=layout)
    # A narrow empty column separates the galaxies.
    ratios = [1.0, 1.0, 1.0, *[0.08, 1.0, 1.0, 1.0] * (galaxies - 1)]
    axes = figure.subplots(levels, len(ratios), squeeze=False, width_ratios=ratios)
    size = gallery.stamp.shape[-1] * gallery.pixel_scale
    extent = (-size / 2, size / 2, -size / 2, size / 2)
    shown = None
    for i in range(levels):
        sigma = gallery.sigma[i]
        for k in range(galaxies):
            stamp, model, residual = axes[i, 4 * k : 4 * k + 3]
            norm = _norm(gallery.stamp[i, k], sigma)
            stamp.imshow(gallery.stamp[i, k], norm=norm, cmap="gray", origin="lower", extent=extent)
            model.imshow(gallery.model[i, k], norm=norm, cmap="gray", origin="lower", extent=extent)
            shown = residual.imshow(
                gallery.residual[i, k] / sigma,
                vmin=-_RANGE,
                vmax=_RANGE,
                cmap="RdBu_r",
                origin="lower",
                extent=extent,
            )
            snr = gallery.snr[i, k]
            text = f"S/N {power(snr)}"
            note(stamp, text, color="white", fontsize=6.5, bbox=BEHIND)
            if not np.isfinite(gallery.model[i, k]).all():
                note(model, "no fit", "center center", color="0.3")
        axes[i, 0].set_ylabel(f"$\\sigma$ = {exact(sigma)}", fontsize=7.5, labelpad=3)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for axis in axes[:, 3::4].flat:
        axis.set_visible(False)
    for k in range(galaxies):
        for axis, title in zip(axes[0, 4 * k :], ("stamp", "model", "residual")):
            axis.set_title(title, fontsize=7.5, pad=2)
    scale_bar(axes[-1, 0], size)
    if shown is not None:
        bar = figure.colorbar(shown, ax=axes, fraction=0.02, pad=0.01, aspect=40)
        bar.set_label(r"residual / $\sigma$")
    figure_title(figure, f"{gallery.population}: {gallery.model_label}")
    return figure


BEHIND = {"facecolor": "black", "alpha": 0.55, "linewidth": 0, "pad": 1.0}
"""Background of white text on an image."""


def _norm(image: NDArray[np.float32], sigma: float) -> AsinhNorm:
    """Return a grey scale, linear within the noise and logarithmic beyond, that shows faint outskirts."""
    high = float(np.nanmax(image)) if np.isfinite(image).any() else 1.0
    return AsinhNorm(linear_width=2 * sigma, vmin=-2 * sigma, vmax=max(high, 4 * sigma))


def scale_bar(axis: Axes, size: float) -> None:
    """Draw a bar of a round number of arcseconds into an image of a side `size` [arcsec]."""
    length = 10 ** math.floor(math.log10(size / 3)) * (2 if size >= 6 else 1)
    x, y = -0.42 * size, -0.42 * size
    axis.plot([x, x + length], [y, y], color="white", linewidth=1.5)
    axis.text(x + length * 1.15, y, f'{length:g}"', color="white", fontsize=6.5, va="center", bbox=BEHIND)
