"""The weights that networks give to pixels, beside the optimal ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from shearbench.evaluation.inside_maps import read_inside
from shearbench.figures.axes import note
from shearbench.figures.catalogue import Entry
from shearbench.figures.style import DOUBLE, exact, styled, wrapped

ENTRY = Entry(
    category="8. Inside networks",
    caption="""\
**The weights of the pixels**, for one test galaxy without noise. First column of each half: the weights in
the unbiased estimate of g1, or g2, with the smallest error, from the Fisher matrix with flux, position and
size unknown. Other columns: the derivative of the network's answer by the pixels, at each noise level σ that
the network is told. Each image is divided by its norm, and all have the same colour scale. Numbers: the
cosine between the two, mean over several galaxies, with its error: 1 means that the network weighs the pixels
in the best way. The error from noise of an answer that responds to the shear only is 1 / cosine times the
Cramér–Rao bound.""",
    reads=("inside_maps.h5", "inside_overlap.csv"),
    each="population",
)


@styled
def draw(path: str, overlap: pd.DataFrame, population: str) -> Figure:
    """Draw the weights of the networks of a population.

    Parameters
    ----------
    path : str
        ``metrics/inside_maps.h5``.
    overlap : pandas.DataFrame
        ``metrics/inside_overlap.csv``, see `shearbench.diagnostics.maps.measure_maps`.
    population : str
    """
    networks = [one for one in read_inside(path) if one.population == population]
    overlap = overlap[overlap["population"] == population]
    levels = max((len(one.arrays["noise"]) for one in networks), default=1)
    columns = 2 * (levels + 1)
    side = (DOUBLE - 1.0) / columns
    rows = max(len(networks), 1)
    layout = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    figure = Figure(figsize=(DOUBLE, rows * (side + 0.06) + 0.35), layout=layout)
    axes = figure.subplots(rows, columns, squeeze=False)
    limit = max((np.abs(_unit(one.arrays["optimal"])).max() for one in networks), default=1.0)
    shown = None
    for row, one in zip(axes, networks):
        own = overlap[overlap["variant"] == one.variant].set_index("noise")
        for k, name in enumerate(("g1", "g2")):
            images = [one.arrays["optimal"][k], *one.arrays["gradient"][:, k]]
            for axis, image in zip(row[k * (levels + 1) :], images):
                shown = axis.imshow(_unit(image), cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower")
            for axis, noise in zip(row[k * (levels + 1) + 1 :], one.arrays["noise"]):
                if noise in own.index:
                    value, error = own.loc[noise, [f"overlap_{name}", f"overlap_{name}_err"]]
                    text = f"{value:.2f}" + (f" ± {error:.2f}" if np.isfinite(error) else "")
                    note(axis, text, fontsize=5.5)
        row[0].set_ylabel(wrapped(one.variant, 14), fontsize=7)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for one in networks[:1]:
        for k, name in enumerate(("$g_1$", "$g_2$")):
            titles = [f"{name}: optimal", *(f"$\\sigma$ = {exact(noise)}" for noise in one.arrays["noise"])]
            for axis, title in zip(axes[0, k * (levels + 1) :], titles):
                axis.set_title(title, fontsize=6.5, pad=2)
    if shown is not None:
        bar = figure.colorbar(shown, ax=axes, fraction=0.02, pad=0.01, aspect=40)
        bar.set_label("weight / norm", fontsize=7)
    return figure


def _unit(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return images [..., ny, nx] divided by their norms."""
    norm = np.sqrt(np.sum(image**2, axis=(-2, -1), keepdims=True))
    return image / np.where(norm > 0, norm, 1.0)
