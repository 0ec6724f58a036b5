"""Confusion matrix of the best classifier of galaxies by morphology."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from shearbench.evaluation.morphology import best_variant
from shearbench.figures.axes import figure_title
from shearbench.figures.catalogue import Entry
from shearbench.figures.style import DOUBLE, styled

ENTRY = Entry(
    category="A. Morphology",
    caption="""\
**Confusion matrix** of the classifier with the highest accuracy on the validation images, for the test
images. Left: number of images of each true class (rows) with each answer (columns), a mean over training
seeds. Right: the same as a percentage of the true class, so that its diagonal is the recall.""",
    reads=("morphology.csv", "morphology_confusion.csv"),
    each="morphology",
)


@styled
def draw(summary: pd.DataFrame, confusion: pd.DataFrame) -> Figure:
    """Draw the counts and the row-normalised matrix side by side.

    Parameters
    ----------
    summary, confusion : pandas.DataFrame
        ``metrics/morphology.csv`` and ``metrics/morphology_confusion.csv``.

    Returns
    -------
    matplotlib.figure.Figure
    """
    best = best_variant(summary)
    rows = confusion[confusion["variant"] == best]
    names = [str(name) for name in rows.drop_duplicates("true")["name"]]
    count = len(names)
    figure = Figure(figsize=(DOUBLE, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, column, title in zip(axes, ("n", "fraction"), ("images", "% of the true class")):
        values = rows.pivot(index="true", columns="predicted", values=column).to_numpy(float)
        shown = values if column == "n" else 100 * values
        shade = values / np.maximum(values.max(), 1e-12) if column == "n" else values
        axis.imshow(np.sqrt(shade), cmap="Blues", vmin=0, vmax=1)
        for i, j in np.ndindex(count, count):
            if shown[i, j] > 0:
                dark = shade[i, j] > 0.4
                text = f"{shown[i, j]:.0f}" if shown[i, j] >= 1 else f"{shown[i, j]:.1f}"
                axis.text(j, i, text, ha="center", va="center", fontsize=6, color="w" if dark else "k")
        axis.set_title(title)
        axis.set_xlabel("answer")
        axis.set_xticks(range(count), names, rotation=60, ha="right", rotation_mode="anchor")
        axis.tick_params(length=0, labelsize=6.5)
    axes[0].set_yticks(range(count), names)
    axes[0].set_ylabel("true class")
    figure_title(figure, best)
    return figure
