"""RMSE of g against noise, for every estimator, with both bounds."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shearbench.figures.axes import (
    count,
    draw_bounds,
    draw_floor,
    errorbar,
    log_limits,
    noise_axis,
    note,
    panels,
    snr_axis,
)
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import (
    bound_handles,
    failures,
    floor_handle,
    handles,
    legend_below,
    legend_height,
)
from shearbench.figures.looks import Look, looks, over_seeds, populations_of
from shearbench.figures.style import DOUBLE, SINGLE, styled, wrapped

ENTRY = Entry(
    category="1. Accuracy",
    caption="""\
**Error against noise.** Root mean square error (RMSE) of the estimated reduced shear g, per component,
against the noise per pixel σ (upper axis: median matched-filter S/N), one panel per population. All
estimators measure the same *n* test galaxies; failed measurements are left out. Error bars: bootstrap
over galaxies and, for networks, scatter over training seeds. Grey line: Cramér–Rao bound, the least
error of an unbiased estimator that fits flux, centroid, size and shape. Shaded: errors below the least
of an estimator that also knows the distribution of shapes. Dashed: Bayes floor, the RMSE of the
posterior mean. An estimator that levels off while the bound falls has a floor of its own. At high noise
an estimator with a prior can go below the Cramér–Rao bound because it is biased.""",
    reads=("accuracy.csv",),
    reads_if_made=("bayes_floor.csv",),
)


@styled
def draw(accuracy: pd.DataFrame, bayes_floor: pd.DataFrame | None = None) -> Figure:
    """Draw the RMSE of g (per component) against noise, one panel for each population.

    Parameters
    ----------
    accuracy : pandas.DataFrame
        ``metrics/accuracy.csv``; columns used: population, noise, estimator, label, kind, seed, n, snr, rmse,
        rmse_err, crb, prior_bound.
    bayes_floor : pandas.DataFrame, optional
        ``metrics/bayes_floor.csv``; columns used: population, noise, floor_over_crb and its error.

    Returns
    -------
    matplotlib.figure.Figure
    """
    names = populations_of(accuracy)
    found = looks(accuracy)
    entries = [
        *bound_handles(accuracy),
        *([] if bayes_floor is None else [floor_handle()]),
        *handles(found, found, failures(accuracy, "rmse")),
    ]
    columns = min(max(len(names), 1), 2)
    rows = -(-len(names) // 2) or 1
    width = SINGLE if columns == 1 else DOUBLE
    figure, axes = panels(columns, rows, 3.0, True, legend_height(entries, width))
    for i, axis in enumerate(axes.flat):
        if i >= len(names):
            axis.set_visible(False)
            continue
        table = accuracy[accuracy["population"] == names[i]]
        _panel(axis, table, found)
        if bayes_floor is not None:
            floor = bayes_floor[bayes_floor["population"] == names[i]]
            draw_floor(axis, floor, table.groupby("noise")["crb"].median())
        noise_axis(axis, accuracy["noise"], label=i >= len(names) - columns)
        snr_axis(axis, table)
        axis.tick_params(labelbottom=i >= len(names) - columns)
        note(axis, f"{wrapped(names[i])}\n{count(table)}", "lower right")
        if i % columns == 0:
            axis.set_ylabel("RMSE of $g$, per component")
    values = accuracy[["rmse", "crb", "prior_bound"]].clip(upper=1.0).to_numpy(float)
    # No shape has |g| > 1, so a bound above 1 need not be shown.
    log_limits(axes[0, 0], "y", values, pad=0.2)
    legend_below(figure, entries)
    return figure


def _panel(axis: Axes, table: pd.DataFrame, found: dict[str, Look]) -> None:
    draw_bounds(axis, table)
    for name, look in found.items():
        points = over_seeds(table[table["estimator"] == name], "noise", "rmse", "rmse_err")
        errorbar(axis, points["noise"], points["value"], points["error"], look)
