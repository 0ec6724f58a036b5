"""The headline: RMSE against noise, every estimator, both bounds."""

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
**Error against noise.** Root mean square error of the estimated shape g (reduced shear, dimensionless;
mean square over g1 and g2 and over all test galaxies not flagged as failed) against the standard
deviation of the noise in a pixel, one panel per population. *n* in each panel is the number of test
galaxies; every estimator gets the same pixels. Compared are estimates of g of single galaxies:
re-Gaussianisation's distortion is converted, KSB's is a shear. What answers for ensembles only
(metacalibration, AnaCal's FPFS) is in the shear-bias figure alone. The upper axis gives the median over
galaxies of the matched-filter S/N, sqrt(sum I²)/σ with I the noiseless image. Points are means over
training seeds; error bars are the bootstrap error over galaxies and, for networks trained more than
once, the scatter of the seeds over the square root of their number, in quadrature (often smaller than
the points). Thick grey line: Cramér–Rao bound, the least error of an unbiased estimator that fits flux,
centroid, size and shape. Light shading: below the prior-limited bound, the least error of an estimator
that knows the distribution of shapes. Dashed: the Bayes floor, the error of the posterior mean, found
by importance sampling on part of the galaxies (its ratio to their bound, times the bound of all). At
high noise an estimator using a prior goes below the Cramér–Rao bound because it is biased (towards
round), not because it is better than possible. "Mismatched" marks fits of a model that is not the
galaxies'. "NGMix" is the ngmix package; "mixture fit" is this project's own fit of the same models;
where the ngmix package was not available its curves are absent.""",
    reads=("accuracy.csv",),
    reads_if_made=("bayes_floor.csv",),
)


@styled
def draw(accuracy: pd.DataFrame, bayes_floor: pd.DataFrame | None = None) -> Figure:
    """Draw the RMSE of g (per component) against noise, one panel for each population.

    Parameters
    ----------
    accuracy : pandas.DataFrame
        ``metrics/accuracy.csv``; read are population, noise, estimator, label, kind, seed, n, snr, rmse,
        rmse_err, crb, prior_bound.
    bayes_floor : pandas.DataFrame, optional
        ``metrics/bayes_floor.csv``; read are population, noise, floor_over_crb and its error.

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
        note(axis, f"{wrapped(names[i])}\n{count(table)}")
        if i % columns == 0:
            axis.set_ylabel("RMSE of $g$, per component")
    values = accuracy[["rmse", "crb", "prior_bound"]].clip(upper=1.0).to_numpy(float)
    # An RMSE above 1 means nothing for |g| < 1: the bound may leave the frame there.
    log_limits(axes[0, 0], "y", values, pad=0.2)
    legend_below(figure, entries)
    return figure


def _panel(axis: Axes, table: pd.DataFrame, found: dict[str, Look]) -> None:
    draw_bounds(axis, table)
    for name, look in found.items():
        points = over_seeds(table[table["estimator"] == name], "noise", "rmse", "rmse_err")
        errorbar(axis, points["noise"], points["value"], points["error"], look)
