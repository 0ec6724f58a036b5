"""Training curves of the networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from shearbench.figures.axes import PLATE, log_limits, note, panels
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import legend_below, legend_height
from shearbench.figures.looks import Look, looks, populations_of
from shearbench.figures.style import DOUBLE, SINGLE, styled, wrapped

ENTRY = Entry(
    category="4. Networks",
    caption="""\
**Training curves** of the networks, one column per population and one line per training seed, against
the number of stamps seen. Above: loss on the validation galaxies (solid) and on the training galaxies
(dotted). Below: RMSE of g on the validation galaxies, per component, dimensionless. The marker at the
end of a line names the network. The spread of the lines of one network is the scatter over seeds. Losses
of two networks are comparable only if both were trained with the same loss and the same noise levels.""",
    reads=("training.csv",),
)


@styled
def draw(training: pd.DataFrame) -> Figure:
    """Draw loss and validation RMSE against the stamps seen, one column of panels for each population.

    Parameters
    ----------
    training : pandas.DataFrame
        ``metrics/training.csv``; columns used: population, variant, seed, views, train_loss, validation_loss,
        validation_rmse, and label where it is there.

    Returns
    -------
    matplotlib.figure.Figure
        One line per seed.
    """
    names = populations_of(training)
    named = training.rename(columns={"variant": "estimator"}).assign(kind="network")
    found = looks(named)
    entries: list[Line2D] = [
        Line2D([], [], label=wrapped(look.label), **_line(look)) for look in found.values()
    ]
    entries.append(Line2D([], [], color="0.4", linewidth=0.6, linestyle=(0, (1, 1)), label="training loss"))
    width = SINGLE if len(names) <= 1 else DOUBLE
    figure, axes = panels(len(names), 2, 1.9, "row", legend_height(entries, width))
    for column, name in enumerate(names):
        table = named[named["population"] == name]
        upper, lower = axes[:, column]
        for estimator, look in found.items():
            for _, rows in table[table["estimator"] == estimator].groupby("seed"):
                rows = rows.sort_values("views")
                dotted = {"color": look.color, "linestyle": (0, (1, 1)), "linewidth": 0.6}
                upper.plot(rows["views"], rows["train_loss"], **dotted)
                # A marker at the end of each line names the network in print without colour.
                last = {**_line(look), "markevery": [len(rows) - 1]}
                upper.plot(rows["views"], rows["validation_loss"], **last)
                lower.plot(rows["views"], rows["validation_rmse"], **last)
        note(upper, wrapped(name), "upper right", bbox=PLATE)
        lower.set_xlabel("stamps seen")
    log_limits(axes[0, 0], "x", training["views"], pad=0.08)
    _loss_axis(axes[0, 0], training[["train_loss", "validation_loss"]].to_numpy(float))
    axes[0, 0].set_ylabel("loss")
    log_limits(axes[1, 0], "y", training["validation_rmse"], pad=0.1)
    axes[1, 0].set_ylabel("validation RMSE of $g$,\nper component")
    legend_below(figure, entries)
    return figure


def _line(look: Look) -> dict[str, Any]:
    return {**look.line, "linewidth": 0.9, "markersize": 3.5}


def _loss_axis(axis: Axes, losses: np.ndarray) -> None:
    """Make the axis logarithmic if all losses are positive; a log-likelihood may be negative."""
    found = losses[np.isfinite(losses)]
    if found.size and found.min() > 0:
        log_limits(axis, "y", found, pad=0.1)
        if found.max() / found.min() > 100:
            axis.yaxis.set_major_locator(LogLocator(numticks=6))
