"""Map of the features of an encoder of galaxies, coloured by class."""

from __future__ import annotations

import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import legend_below, legend_height
from shearbench.figures.style import DOUBLE, SINGLE, styled, wrapped

ENTRY = Entry(
    category="A. Morphology",
    caption="""\
**Map of the embedding**: the features f of the test images by an encoder that was trained without labels (the
first seed), mapped to a plane by t-SNE, in which near features stay near; distances between groups, and their
sizes, mean little. Colours: the classes, which the encoder has not seen.""",
    reads=("morphology_map.csv",),
    each="morphology",
)


@styled
def draw(points: pd.DataFrame) -> Figure:
    """Draw the map of each encoder, a point for each test image.

    Parameters
    ----------
    points : pandas.DataFrame
        ``metrics/morphology_map.csv``.

    Returns
    -------
    matplotlib.figure.Figure
    """
    encoders = list(dict.fromkeys(points["encoder"]))
    names = points.drop_duplicates("class").sort_values("class").set_index("class")["name"]
    colours = {number: colormaps["tab20"](number % 20) for number in names.index}
    entries = [
        Line2D(
            [], [], linestyle="", marker="o", markersize=4, color=colours[number], label=wrapped(str(name))
        )
        for number, name in names.items()
    ]
    width = SINGLE if len(encoders) <= 1 else DOUBLE
    side = width / max(len(encoders), 1)
    figure = Figure(figsize=(width, side + legend_height(entries, width)), layout="constrained")
    for axis, encoder in zip(figure.subplots(1, max(len(encoders), 1), squeeze=False)[0], encoders):
        rows = points[points["encoder"] == encoder]
        colour = [colours[number] for number in rows["class"]]
        axis.scatter(rows["x"], rows["y"], s=4, c=colour, linewidths=0)
        axis.set_title(encoder)
        axis.set_xticks([])
        axis.set_yticks([])
    legend_below(figure, entries)
    return figure
