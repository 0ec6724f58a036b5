"""Class activation maps of classifiers of galaxies."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from shearbench.evaluation.morphology_inside import read_inside
from shearbench.figures.axes import note
from shearbench.figures.catalogue import Entry
from shearbench.figures.style import DOUBLE, styled, wrapped

ENTRY = Entry(
    category="A. Morphology",
    caption="""\
**Class activation maps** of the classifiers with global pooling, of the first seed, for a test image of each
class (above): what each position adds to the logit of the answer (red) or takes from it (blue), in units of
the largest value of the image. The answer is written where it is wrong. A network without global pooling has
no such map.""",
    reads=("morphology_inside.h5",),
    each="morphology",
)
_COLUMNS = 10


@styled
def draw(path: str) -> Figure:
    """Draw an image of each class, and below it the map of each classifier.

    Parameters
    ----------
    path : str
        ``metrics/morphology_inside.h5``.

    Returns
    -------
    matplotlib.figure.Figure
    """
    classes, found = read_inside(path)
    pooled = {name: arrays for name, arrays in found.items() if "activation" in arrays}
    shown = next(iter(found.values()), {})
    count = min(len(shown.get("images", ())), _COLUMNS)
    side = DOUBLE / max(count, 1)
    layout = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.02, wspace=0, hspace=0)
    height = min((len(pooled) + 1) * (side + 0.1) + 0.4, 9.0)
    figure = Figure(figsize=(DOUBLE, height), layout=layout)
    axes = figure.subplots(len(pooled) + 1, max(count, 1), squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for k in range(count):
        axes[0, k].imshow(shown["images"][k], origin="lower")
        axes[0, k].set_title(wrapped(classes[int(shown["labels"][k])], 11), fontsize=6.5, pad=2)
    for line, (name, arrays) in zip(axes[1:], pooled.items()):
        line[0].set_ylabel(wrapped(name, 14), fontsize=6.5)
        for k in range(count):
            values = arrays["activation"][k]
            limit = max(float(np.abs(values).max()), 1e-12)
            line[k].imshow(
                values, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower", interpolation="bilinear"
            )
            if arrays["answers"][k] != arrays["labels"][k]:
                note(line[k], wrapped(classes[int(arrays["answers"][k])], 11), fontsize=5)
    if not pooled and count:
        axes[0, 0].set_xlabel("no classifier has global pooling", fontsize=6.5, loc="left")
    return figure
