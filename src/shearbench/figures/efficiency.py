"""How far from the Cramer-Rao bound: RMSE over the bound against noise."""

from __future__ import annotations

import numpy as np
import pandas as pd
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
**Distance from the bound.** RMSE of g (as in the headline figure) divided by the Cramér–Rao bound of the
same galaxies (root mean variance over the good ones), against noise per pixel: the whole range above, on a
logarithmic axis, and close to the bound below, on a linear one (what lies outside is not drawn there). The
upper axis is the median matched-filter S/N, sqrt(sum I²)/σ with I the noiseless image; *n* is the number of
test galaxies. Error bars resample numerator and denominator together (bootstrap over galaxies) and include
the scatter over training seeds. Points of different estimators are moved sideways by up to 0.08 dex so that
their bars do not overlap. At high noise an estimator using a prior goes below the Cramér–Rao bound (values
under 1) because it is biased; the light shading shows what the prior-limited bound forbids. Dashed: the
Bayes floor, the root mean variance of the posterior of part of the galaxies, over their bound: the least
RMSE that an estimator can have on average over the population, whatever it knows of it.""",
    reads=("accuracy.csv",),
    reads_if_made=("bayes_floor.csv",),
)

ZOOM = (0.6, 1.6)
"""Limits of the lower panels: close to the bound, where per cents matter."""


@styled
def draw(accuracy: pd.DataFrame, bayes_floor: pd.DataFrame | None = None) -> Figure:
    """Draw RMSE over the bound against noise: the whole range above, close to the bound below.

    Parameters
    ----------
    accuracy : pandas.DataFrame
        ``metrics/accuracy.csv``; read are population, noise, estimator, label, kind, seed, n, snr,
        rmse_over_crb, rmse_over_crb_err, crb, prior_bound.
    bayes_floor : pandas.DataFrame, optional
        ``metrics/bayes_floor.csv``; read are population, noise, floor_over_crb and its error.

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
        note(upper, f"{wrapped(name)}\n{count(table)}", "upper right")
        note(lower, "close to the bound", "upper right")
    log_limits(axes[0, 0], "y", np.append(accuracy["rmse_over_crb"].to_numpy(float), 1.0), pad=0.2)
    axes[1, 0].set_ylim(*ZOOM)
    for axis in axes[:, 0]:
        axis.set_ylabel("RMSE / Cramér–Rao bound")
    legend_below(figure, entries)
    return figure
