"""Calibration of the probabilities of the classifiers of galaxies."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from shearbench.figures.axes import panels
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import legend_below, legend_height
from shearbench.figures.looks import looks
from shearbench.figures.style import SINGLE, styled

ENTRY = Entry(
    category="A. Morphology",
    caption="""\
**Calibration.** Fraction of right answers against the probability that the classifier gives its answer, in
bins with equal numbers of test images. On the grey line probabilities are what they claim; below it the
classifier is overconfident. Error bars: binomial.""",
    reads=("morphology_calibration.csv",),
    each="morphology",
)


@styled
def draw(calibration: pd.DataFrame) -> Figure:
    """Draw the fraction of right answers against the confidence, one line for each classifier.

    Parameters
    ----------
    calibration : pandas.DataFrame
        ``metrics/morphology_calibration.csv``.

    Returns
    -------
    matplotlib.figure.Figure
    """
    found = looks(calibration.rename(columns={"variant": "estimator"}).assign(kind="network"))
    entries = [look.handle() for look in found.values()]
    figure, axes = panels(1, 1, 2.6, "row", legend_height(entries, SINGLE))
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color="0.7", zorder=1)
    for name, look in found.items():
        rows = calibration[calibration["variant"] == name].sort_values("confidence")
        axis.errorbar(rows["confidence"], rows["accuracy"], rows["accuracy_error"], **look.line)
    least = min(calibration["confidence"].min(), calibration["accuracy"].min())
    axis.set_xlim(max(0.0, least - 0.05), 1.01)
    axis.set_ylim(max(0.0, least - 0.05), 1.03)
    axis.set_xlabel("probability of the answer")
    axis.set_ylabel("fraction of right answers")
    legend_below(figure, entries)
    return figure
