"""Filters and feature maps of classifiers of galaxies."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from shearbench.evaluation.morphology_inside import read_inside
from shearbench.figures.catalogue import Entry
from shearbench.figures.style import DOUBLE, styled, wrapped

ENTRY = Entry(
    category="A. Morphology",
    caption="""\
**Inside the classifiers**, a row for each, of the first seed. From the left: a test image of the last class;
the filters of the first layer with the largest weights, as colours (grey is zero), which are the derivatives
of its outputs by the pixels; and at each resolution, from fine to coarse, the two channels of the last
features that vary most, for this image.""",
    reads=("morphology_inside.h5",),
    each="morphology",
)


@styled
def draw(path: str) -> Figure:
    """Draw an image, the filters and the feature maps of each classifier.

    Parameters
    ----------
    path : str
        ``metrics/morphology_inside.h5``.

    Returns
    -------
    matplotlib.figure.Figure
    """
    _, found = read_inside(path)
    rows = {name: _panels(arrays) for name, arrays in found.items()}
    columns = max((len(panels) for panels in rows.values()), default=1)
    side = DOUBLE / max(columns, 8)
    layout = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.02, wspace=0, hspace=0)
    figure = Figure(figsize=(DOUBLE, max(len(rows), 1) * (side + 0.12)), layout=layout)
    axes = figure.subplots(max(len(rows), 1), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for line, (name, panels) in zip(axes, rows.items()):
        for axis, (image, colours) in zip(line, panels):
            axis.imshow(image, cmap=colours, origin="lower")
        line[0].set_title(wrapped(name, 14), fontsize=6.5, pad=2, loc="left")
    return figure


def _panels(arrays: dict[str, NDArray[np.float64]]) -> list[tuple[NDArray[np.float64], str | None]]:
    """Return the images in the row of a classifier, each with its colour map."""
    panels: list[tuple[NDArray[np.float64], str | None]] = [(arrays["images"][-1], None)]
    for one in arrays.get("filters", ()):
        shown = np.moveaxis(one, 0, 2) if len(one) == 3 else np.repeat(one[0][..., None], 3, axis=2)
        panels.append((0.5 + 0.5 * shown / max(float(np.abs(shown).max()), 1e-12), None))
    scales = sorted(name for name in arrays if name.startswith("features"))
    return panels + [(channel, "viridis") for name in scales for channel in arrays[name][-1]]
