"""Learning curves of the classifiers of galaxies."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from shearbench.figures.axes import log_limits, panels
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import legend_below, legend_height
from shearbench.figures.looks import looks
from shearbench.figures.style import SINGLE, styled

ENTRY = Entry(
    category="A. Morphology",
    caption="""\
**Learning curves** of the classifiers, one line per training seed. Above: cross-entropy of the validation
images (solid) and of the augmented training images (dotted), in nats; a validation loss that rises while
the training loss falls is overfitting. Below: accuracy on the validation images. Marker: the epoch with the
lowest validation loss, whose weights are kept.""",
    reads=("morphology_training.csv",),
    each="morphology",
)


@styled
def draw(training: pd.DataFrame) -> Figure:
    """Draw losses and validation accuracy against the epoch.

    Parameters
    ----------
    training : pandas.DataFrame
        ``metrics/morphology_training.csv``.

    Returns
    -------
    matplotlib.figure.Figure
    """
    found = looks(training.rename(columns={"variant": "estimator"}).assign(kind="network"))
    entries = [look.handle() for look in found.values()]
    entries.append(Line2D([], [], color="0.4", linewidth=0.6, linestyle=(0, (1, 1)), label="training loss"))
    figure, axes = panels(1, 2, 1.9, "row", legend_height(entries, SINGLE))
    upper, lower = axes[:, 0]
    for name, look in found.items():
        for _, rows in training[training["variant"] == name].groupby("seed"):
            rows = rows.sort_values("epoch").reset_index(drop=True)
            best = {**look.line, "markevery": [int(rows["validation_loss"].to_numpy().argmin())]}
            dotted = {"color": look.color, "linestyle": (0, (1, 1)), "linewidth": 0.6}
            upper.plot(rows["epoch"], rows["train_loss"], **dotted)
            upper.plot(rows["epoch"], rows["validation_loss"], **best)
            lower.plot(rows["epoch"], rows["validation_accuracy"], **best)
    log_limits(upper, "y", training[["train_loss", "validation_loss"]].to_numpy(float), pad=0.05)
    upper.set_ylabel("cross-entropy [nats]")
    lower.set_ylabel("validation accuracy")
    lower.set_xlabel("epoch")
    legend_below(figure, entries)
    return figure
