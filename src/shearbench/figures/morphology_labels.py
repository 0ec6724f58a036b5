"""Accuracy of classifiers of galaxies against the number of labels, with and without pretraining."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from shearbench.evaluation.contrastive import METHODS
from shearbench.figures.axes import log_limits, panels
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import legend_below, legend_height
from shearbench.figures.looks import Look
from shearbench.figures.style import BLUE, DOUBLE, GREEN, SINGLE, SKY, VERMILLION, styled

ENTRY = Entry(
    category="A. Morphology",
    caption="""\
**Labels that an encoder saves.** Accuracy on the test images against the number of training images whose
labels are used: trained from scratch; fine-tuned from the weights of an encoder that was trained on all
training images without labels; and without further training of the encoder, a linear classifier on its
features f, on its projections g, and the vote of the nearest features. One panel for each encoder. Error
bars: standard error of the mean over seeds; each seed has an encoder and labels of its own.""",
    reads=("morphology_labels.csv",),
    each="morphology",
)
_LOOKS = {
    "scratch": ("0.2", "o"),
    "fine_tuned": (VERMILLION, "s"),
    "probe_f": (BLUE, "^"),
    "probe_g": (SKY, "v"),
    "neighbours": (GREEN, "D"),
}


@styled
def draw(labels: pd.DataFrame) -> Figure:
    """Draw the accuracy of each method against the number of labels, a panel for each encoder.

    Parameters
    ----------
    labels : pandas.DataFrame
        ``metrics/morphology_labels.csv``.

    Returns
    -------
    matplotlib.figure.Figure
    """
    encoders = list(dict.fromkeys(labels["encoder"]))
    found = {name: Look(METHODS[name], *_LOOKS[name]) for name in METHODS if name in set(labels["method"])}
    entries = [look.handle() for look in found.values()]
    width = SINGLE if len(encoders) <= 1 else DOUBLE
    figure, axes = panels(len(encoders), 1, 2.5, "row", legend_height(entries, width))
    for axis, encoder in zip(axes[0], encoders):
        for name, look in found.items():
            rows = labels[(labels["encoder"] == encoder) & (labels["method"] == name)].sort_values("labels")
            axis.errorbar(
                rows["labels"], rows["accuracy"], np.nan_to_num(rows["accuracy_error"]), **look.line
            )
        log_limits(axis, "x", labels["labels"].to_numpy(float))
        axis.set_title(encoder)
        axis.set_xlabel("labels")
    axes[0, 0].set_ylabel("accuracy")
    legend_below(figure, entries)
    return figure
