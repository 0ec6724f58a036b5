"""Accuracy of classifiers of galaxies against the angle by which the images are turned."""

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
**Invariance under rotation.** Above: accuracy on the test images, turned by an angle. Below: fraction of the
images whose class does not change when they are turned. Error bars: bootstrap over images. A network that is
invariant under quarter turns agrees with itself at 90 degrees; other angles interpolate the pixels.""",
    reads=("morphology_angles.csv",),
    each="morphology",
)


@styled
def draw(angles: pd.DataFrame) -> Figure:
    """Draw accuracy and agreement against the angle, one line for each classifier.

    Parameters
    ----------
    angles : pandas.DataFrame
        ``metrics/morphology_angles.csv``.

    Returns
    -------
    matplotlib.figure.Figure
    """
    found = looks(angles.rename(columns={"variant": "estimator"}).assign(kind="network"))
    entries = [look.handle() for look in found.values()]
    figure, axes = panels(1, 2, 1.9, "row", legend_height(entries, SINGLE))
    for name, look in found.items():
        rows = angles[angles["variant"] == name].sort_values("angle_deg")
        for axis, column in zip(axes[:, 0], ("accuracy", "agreement")):
            axis.errorbar(rows["angle_deg"], rows[column], rows[f"{column}_error"], **look.line)
    axes[0, 0].set_ylabel("accuracy")
    axes[1, 0].set_ylabel("agreement with 0 deg")
    axes[1, 0].set_xlabel("angle of rotation [deg]")
    legend_below(figure, entries)
    return figure
