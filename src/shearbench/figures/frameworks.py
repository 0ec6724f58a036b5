"""One small network in several frameworks: accuracy over the bound, and cost."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from shearbench.figures.axes import errorbar, list_values, log_limits, noise_axis, note, sideways
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import crb_handle, failures, handles, legend_below, legend_height
from shearbench.figures.looks import Look, looks, over_seeds, populations_of
from shearbench.figures.style import BLUE, BOUND, DOUBLE, ORANGE, VERMILLION, styled, wrapped

ENTRY = Entry(
    category="B. Frameworks",
    caption="""\
**One network, several frameworks.** Left: RMSE of g divided by the Cramér–Rao bound of the same test
galaxies, against the noise per pixel σ, one panel per population; points are moved sideways to be
visible. Error bars: bootstrap over the galaxies, and scatter over the seeds of initial weights and
batches, which are the same for all frameworks. Grey: the bound. Right: CPU time of all training steps,
of the compilation and start of the framework, and of the measurement of a thousand stamps, on one thread
each; the mean over populations and seeds. Networks that were trained elsewhere have no training time.""",
    reads=("frameworks.csv",),
    each="frameworks",
)

_COSTS = {
    "train_seconds": ("training", "o", BLUE),
    "compile_seconds": ("start and compilation", "^", VERMILLION),
    "thousand": ("1000 stamps measured", "s", ORANGE),
}


@styled
def draw(frameworks: pd.DataFrame) -> Figure:
    """Draw RMSE over the bound against noise, and CPU times.

    Parameters
    ----------
    frameworks : pandas.DataFrame
        ``metrics/frameworks.csv``.

    Returns
    -------
    matplotlib.figure.Figure
    """
    names = populations_of(frameworks)
    found = looks(frameworks.assign(kind="network"))
    entries = [crb_handle(), *handles(found, found, failures(frameworks, "rmse_over_crb"))]
    costs = [
        Line2D([], [], color=color, marker=marker, linestyle="none", label=label)
        for label, marker, color in _COSTS.values()
    ]
    rows = max(len(names), 1)
    height = 2.4 * rows + legend_height([*entries, *costs], DOUBLE)
    figure = Figure(figsize=(DOUBLE, height), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False, width_ratios=(1.1, 1))
    for i, name in enumerate(names):
        _accuracy(axes[i, 0], frameworks[frameworks["population"] == name], found)
        noise_axis(axes[i, 0], frameworks["noise"], label=i == rows - 1)
        note(axes[i, 0], wrapped(name), "upper right")
        if i:
            axes[i, 1].set_visible(False)
    _cost(axes[0, 1], frameworks, found)
    legend_below(figure, [*entries, *costs])
    return figure


def _accuracy(axis: Axes, table: pd.DataFrame, found: dict[str, Look]) -> None:
    axis.axhline(1.0, color=BOUND, linewidth=3.5, zorder=1)
    for number, (name, look) in enumerate(found.items()):
        rows = table[table["estimator"] == name]
        mean = over_seeds(rows, "noise", "rmse_over_crb", "rmse_over_crb_err")
        errorbar(axis, mean["noise"] * sideways(number, len(found)), mean["value"], mean["error"], look)
    log_limits(axis, "y", np.append(table["rmse_over_crb"].to_numpy(float), 1.0), pad=0.2)
    axis.set_ylabel("RMSE / Cramér–Rao bound")


def _cost(axis: Axes, table: pd.DataFrame, found: dict[str, Look]) -> None:
    means = table.assign(thousand=1e3 * table["seconds_per_stamp"]).groupby("estimator")[list(_COSTS)].mean()
    for column, (_, marker, color) in _COSTS.items():
        values = means[column].reindex(list(found)).to_numpy(float)
        axis.plot(values, np.arange(len(found)), marker, color=color, markersize=4.5)
    list_values(axis, [look.label for look in found.values()])
    log_limits(axis, "x", means.to_numpy(float), pad=0.3)
    axis.set_xlabel("CPU time [s]")
