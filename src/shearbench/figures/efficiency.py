"""RMSE of g divided by the Cramer-Rao bound, against noise."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from shearbench.figures.axes import (
    PLATE,
    count,
    draw_bounds,
    draw_floor,
    errorbar,
    log_limits,
    noise_axis,
    note,
    panels,
    sideways,
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
from shearbench.figures.looks import looks, over_seeds, populations_of
from shearbench.figures.style import DOUBLE, SINGLE, styled, wrapped

ENTRY = Entry(
    category="1. Accuracy",
    caption="""\
**Error over the bound.** RMSE of g divided by the Cramér–Rao bound of the same galaxies, against the
noise per pixel σ (upper axis: median matched-filter S/N; *n*: number of test galaxies). Above: all
ratios, logarithmic. Below: ratios near 1, linear. An efficient unbiased estimator lies at 1 (grey).
Error bars: bootstrap over galaxies and scatter over training seeds. Shaded: below the prior-limited
bound, which holds for an estimator that knows the distribution of shapes. Dashed: Bayes floor, the least
RMSE that any estimator can have on average over the population. Points are moved sideways by up to 0.08
dex. At high noise an estimator with a prior can go below 1 because it is biased.""",
    reads=("accuracy.csv",),
    reads_if_made=("bayes_floor.csv",),
)

ZOOM = (0.6, 1.6)
"""Limits of the ratio in the lower panels."""


@styled
def draw(accuracy: pd.DataFrame, bayes_floor: pd.DataFrame | None = None) -> Figure:
    """Draw RMSE over the bound against noise: all ratios above, those near 1 below.

    Parameters
    ----------
    accuracy : pandas.DataFrame
        ``metrics/accuracy.csv``; columns used: population, noise, estimator, label, kind, seed, n, snr,
        rmse_over_crb, rmse_over_crb_err, crb, prior_bound.
    bayes_floor : pandas.DataFrame, optional
        ``metrics/bayes_floor.csv``; columns used: population, noise, floor_over_crb and its error.

    Returns
    -------
    matplotlib.figure.Figure
        One column of panels for each population.
    """
    names = populations_of(accuracy)
    found = looks(accuracy)
    estimators = handles(found, found, failures(accuracy, "rmse_over_crb"))
    floors = [] if bayes_floor is None else [floor_handle()]
    entries = [*bound_handles(accuracy), *floors, *estimators]
    width = SINGLE if len(names) <= 1 else DOUBLE
    figure, axes = panels(len(names), 2, 2.1, "row", legend_height(entries, width))
    for column, name in enumerate(names):
        table = accuracy[accuracy["population"] == name]
        unit = table.groupby("noise")["crb"].median()
        for axis in axes[:, column]:
            draw_bounds(axis, table, unit)
            if bayes_floor is not None:
                floor = bayes_floor[bayes_floor["population"] == name]
                draw_floor(axis, floor, unit, over_unit=True)
            for i, (estimator, look) in enumerate(found.items()):
                rows = table[table["estimator"] == estimator]
                points = over_seeds(rows, "noise", "rmse_over_crb", "rmse_over_crb_err")
                x = points["noise"] * sideways(i, len(found), 0.16)
                errorbar(axis, x, points["value"], points["error"], look)
        upper, lower = axes[:, column]
        noise_axis(upper, accuracy["noise"], label=False)
        noise_axis(lower, accuracy["noise"])
        snr_axis(upper, table)
        note(upper, f"{wrapped(name)}\n{count(table)}", "upper right", bbox=PLATE)
        note(lower, "ratios near 1", "upper right", bbox=PLATE)
    log_limits(axes[0, 0], "y", np.append(accuracy["rmse_over_crb"].to_numpy(float), 1.0), pad=0.2)
    axes[1, 0].set_ylim(*ZOOM)
    for axis in axes[:, 0]:
        axis.set_ylabel("RMSE / Cramér–Rao bound")
    legend_below(figure, entries)
    return figure
