"""Training curves of the networks."""

from __future__ import annotations

from collections.abc import Mapping
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


@styled
def validation(epochs: Mapping[int, Mapping[float, float]]) -> Figure:
    """Draw the validation RMSE against noise: the last epoch in black, earlier ones in lighter grey.

    Parameters
    ----------
    epochs : mapping of int to mapping
        For each epoch so far, the RMSE of a component of g by noise level [flux per pixel].

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = panels(1, 1, 2.2)
    axis, last = axes[0, 0], max(epochs)
    for place, (epoch, found) in enumerate(sorted(epochs.items()), 1):
        axis.plot(
            list(found),
            list(found.values()),
            color="black" if epoch == last else str(0.9 - 0.5 * place / len(epochs)),
            linewidth=1.2 if epoch == last else 0.6,
            marker="o" if epoch == last else None,
            markersize=3,
            label=f"epoch {epoch}" if epoch in (min(epochs), last) else None,
        )
    log_limits(axis, "x", [sigma for found in epochs.values() for sigma in found], pad=0.05)
    log_limits(axis, "y", [value for found in epochs.values() for value in found.values()], pad=0.1)
    axis.set_xlabel(r"noise $\sigma$ [flux per pixel]")
    axis.set_ylabel("validation RMSE of $g$, per component")
    axis.legend(loc="upper left")
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
