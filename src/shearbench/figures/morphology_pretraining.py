"""The training of encoders without labels: loss, alignment, uniformity and singular values."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import legend_below, legend_height
from shearbench.figures.looks import looks
from shearbench.figures.style import DOUBLE, styled

ENTRY = Entry(
    category="A. Morphology",
    caption="""\
**Training without labels**, one line per encoder and seed. From the left: the contrastive loss (InfoNCE) of
the validation images, in nats; alignment (mean squared distance between the two views of an image: small if
the embedding ignores the changes) against uniformity (log of the mean of exp(-2 d²) over pairs of images:
very negative if they are spread over the sphere), from the first epoch (open) to the last (filled); and the
singular values of the embeddings of the test images, f (solid) and g (dashed). In a collapsed embedding all
but one or two are near zero.""",
    reads=("morphology_pretraining.csv", "morphology_spectrum.csv"),
    each="morphology",
)


@styled
def draw(training: pd.DataFrame, spectrum: pd.DataFrame) -> Figure:
    """Draw the loss, alignment against uniformity, and the singular values.

    Parameters
    ----------
    training, spectrum : pandas.DataFrame
        ``metrics/morphology_pretraining.csv`` and ``metrics/morphology_spectrum.csv``.

    Returns
    -------
    matplotlib.figure.Figure
    """
    found = looks(training.rename(columns={"encoder": "estimator"}).assign(kind="network"))
    entries = [look.handle() for look in found.values()]
    figure = Figure(figsize=(DOUBLE, 2.3 + legend_height(entries, DOUBLE)), layout="constrained")
    loss, plane, values = figure.subplots(1, 3)
    for name, look in found.items():
        for _, rows in training[training["encoder"] == name].groupby("seed"):
            rows = rows.sort_values("epoch")
            loss.plot(rows["epoch"], rows["validation_loss"], color=look.color)
            plane.plot(rows["uniformity"], rows["alignment"], color=look.color, linewidth=0.6)
            ends = rows.iloc[[0, -1]]
            plane.scatter(
                ends["uniformity"],
                ends["alignment"],
                s=12,
                c=["white", look.color],
                edgecolors=look.color,
                zorder=3,
            )
        for (_, output), rows in spectrum[spectrum["encoder"] == name].groupby(["seed", "output"]):
            line = "-" if output == "f" else "--"
            values.plot(rows["number"], rows["singular_value"], line, color=look.color, linewidth=0.8)
    loss.set_xlabel("epoch")
    loss.set_ylabel("InfoNCE [nats]")
    plane.set_xlabel("uniformity")
    plane.set_ylabel("alignment")
    values.set_yscale("symlog", linthresh=1e-3)
    values.set_xlabel("number")
    values.set_ylabel("singular value")
    legend_below(figure, entries)
    return figure
