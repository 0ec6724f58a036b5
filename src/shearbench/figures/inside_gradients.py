"""Gradients of the layers of networks in the course of their training."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from shearbench.figures.axes import log_limits
from shearbench.figures.catalogue import Entry
from shearbench.figures.style import DOUBLE, SINGLE, styled, wrapped

ENTRY = Entry(
    category="8. Inside networks",
    caption="""\
**Gradients during the training**: the norm of the gradient of the loss by the weights of each layer, in the
last step of each epoch, over that of all weights. The colour of a line is the place of the layer in the
network, from the first to the last. The loss is the one that the network is trained with.""",
    reads=("inside_gradients.csv",),
    each="population",
)

_COLUMNS = 3


@styled
def draw(gradients: pd.DataFrame, population: str) -> Figure:
    """Draw the share of each layer in the norm of the gradient against the stamps seen.

    Parameters
    ----------
    gradients : pandas.DataFrame
        ``metrics/inside_gradients.csv``, see `shearbench.diagnostics.flow.table_of_gradients`.
    population : str
    """
    gradients = gradients[gradients["population"] == population]
    variants = list(dict.fromkeys(gradients["variant"]))
    columns = min(_COLUMNS, max(len(variants), 1))
    rows = -(-max(len(variants), 1) // columns)
    figure = Figure(figsize=(DOUBLE if columns > 1 else SINGLE, 1.7 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    colors = colormaps["viridis"]
    shares = []
    for axis, variant in zip(axes.flat, variants):
        own = gradients[gradients["variant"] == variant]
        total = (own["gradient"] ** 2).groupby(own["epoch"]).sum() ** 0.5
        last = max(int(own["place"].max()), 1)
        for place, one in own.groupby("place"):
            share = (one["gradient"] / one["epoch"].map(total)).where(one["gradient"] > 0)
            shares.append(share)
            look = {"color": colors(0.92 * place / last), "linewidth": 0.9, "marker": ".", "markersize": 3}
            axis.plot(one["views"], share, **look)
        axis.set_title(wrapped(variant), loc="left", fontsize=7.5)
        log_limits(axis, "x", own["views"], pad=0.08)
    for axis in axes.flat[len(variants) :]:
        axis.set_axis_off()
    if shares:
        log_limits(axes[0, 0], "y", np.concatenate(shares))
    for axis in axes[:, 0]:
        axis.set_ylabel("gradient of a layer / of all")
    for axis in axes.flat[max(len(variants) - columns, 0) : len(variants)]:
        axis.set_xlabel("stamps seen")
    bar = figure.colorbar(ScalarMappable(cmap=colors), ax=axes, fraction=0.02, pad=0.01, aspect=30)
    bar.set_ticks([0, 0.92], labels=["first", "last"])
    bar.ax.set_ylim(0, 0.92)
    bar.set_label("place of the layer", labelpad=-8)
    return figure
