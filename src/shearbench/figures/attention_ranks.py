"""Rank correlation of attention with the information in the pixels, and the cost of a study's networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from shearbench.evaluation.statistics import combine_seeds
from shearbench.figures.axes import figure_title, list_values
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import legend_below
from shearbench.figures.step_cost import draw_costs
from shearbench.figures.style import DOUBLE, exact, styled

ENTRY = Entry(
    category="7. Studies",
    caption="""\
**Does attention fall where the information is?** Left: Spearman's rank correlation, over the pixels or
patches of a stamp, between the weights of each layer with attention and the Fisher information on the shear
(filled symbols), the light of the noiseless stamp (crosses), and the information in the stamp of another
galaxy (open symbols). Means over test galaxies and training seeds; error bars: scatter of the seeds over the
square root of their number and bootstrap over the galaxies, in quadrature. Where filled and open symbols
agree, the layer weighs places in the stamp and does not follow the galaxy. Right: floating-point operations
per stamp, and seconds per stamp on one core, of a measurement and of a training step without the optimiser,
relative to the first network.""",
    reads=("studies/{study}_attention.csv", "studies/{study}_attention_cost.csv"),
    each="study",
)

_KINDS = {"information": "information", "light": "light", "other": "information of another galaxy"}
_ROW = 0.32  # height of a row, inches


@styled
def draw(ranks: pd.DataFrame, costs: pd.DataFrame, question: str, name: str) -> Figure:
    """Draw the rank correlations of each layer, and beside them the cost of each network.

    Parameters
    ----------
    ranks, costs : pandas.DataFrame
        Tables of `shearbench.diagnostics.attention.measure_attention`.
    question : str
        Question of the study, not used.
    name : str
        Name of the study, the title.

    Returns
    -------
    matplotlib.figure.Figure
    """
    ranks = ranks.assign(place=_places(ranks))
    with_error = {kind: f"{kind}_err" for kind in _KINDS}
    means = combine_seeds(ranks, ["value", "place", "noise"], with_error)
    rows = list(dict.fromkeys(zip(means["value"], means["place"])))
    levels = sorted(means["noise"].unique())
    colors = colormaps["viridis"](np.linspace(0.0, 0.7, max(len(levels), 1)))
    height = _ROW * max(len(rows), len(costs), 3) + 1.3
    figure = Figure(figsize=(DOUBLE, height), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1.0])
    for k, (noise, color) in enumerate(zip(levels, colors)):
        own = means[means["noise"] == noise]
        at = np.array([rows.index(row) for row in zip(own["value"], own["place"])], float)
        for i, kind in enumerate(_KINDS):
            # Each level and kind has its own height in a row.
            y = at + 0.4 * (k - (len(levels) - 1) / 2) + 0.11 * (i - 1)
            left.errorbar(
                own[kind], y, xerr=own[f"{kind}_err"], color=color, elinewidth=0.8, **_look(kind, color)
            )
    left.axvline(0, color="0.6", linewidth=0.6, zorder=0)
    left.set_xlim(-1.05, 1.05)
    left.set_xlabel("Spearman's rank correlation with the weights")
    list_values(left, [f"{value}, {place}" for value, place in rows], 40)
    entries = [
        Line2D([], [], color="0.3", label=label, **_look(kind, "0.3")) for kind, label in _KINDS.items()
    ]
    entries += [
        Line2D([], [], color=color, linewidth=3, label=f"$\\sigma$ = {exact(noise)}")
        for noise, color in zip(levels, colors)
    ]
    entries += draw_costs(right, costs)
    legend_below(figure, entries)
    figure_title(figure, name)
    return figure


def _look(kind: str, color: Any) -> dict[str, Any]:
    marker, face = {"information": ("o", color), "light": ("x", color), "other": ("o", "white")}[kind]
    return {"marker": marker, "markerfacecolor": face, "linestyle": "none", "markersize": 4}


def _places(ranks: pd.DataFrame) -> pd.Series:
    """Return the place of each layer among those of its network with attention, in words."""
    numbers = ranks.groupby(["value", "seed", "noise"], sort=False).cumcount() + 1
    return "layer " + numbers.astype(str)
