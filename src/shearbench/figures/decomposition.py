"""Offset, slope and scatter of the estimates against noise."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from shearbench.figures.axes import (
    count,
    draw_bounds,
    errorbar,
    figure_title,
    log_limits,
    noise_axis,
    sideways,
    snr_axis,
)
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import bound_handles, failures, handles, legend_below, legend_height
from shearbench.figures.looks import looks, over_seeds
from shearbench.figures.style import DOUBLE, styled

ENTRY = Entry(
    category="1. Accuracy",
    caption="""\
**Offset, slope and scatter** of estimated against true shape, against the noise per pixel σ (upper axis:
median matched-filter S/N). Left: offset, the rms over g1 and g2 of the mean residual. Middle: \\|slope −
1\\| of a straight-line fit, rms over both components. Right: scatter about that line, per component.
Calibration removes offset and slope, but not scatter. Error bars: standard errors over the *n* test
galaxies; for the slope, half the difference of the components; for networks also the scatter over seeds.
An offset below its error bar is consistent with zero. Grey: Cramér–Rao bound; shaded: below the
prior-limited bound. At high noise an estimator with a prior has a slope near 0. Points are moved
sideways by up to 0.1 dex.""",
    reads=("accuracy.csv",),
    each="population",
)

_PARTS = (
    ("offset", "|offset| of $g$"),
    ("slope", "|slope $-$ 1|"),
    ("scatter", "scatter of $g$, per component"),
)


@styled
def draw(accuracy: pd.DataFrame, population: str) -> Figure:
    """Draw offset, slope minus 1 and remaining scatter of each estimator against noise.

    Parameters
    ----------
    accuracy : pandas.DataFrame
        ``metrics/accuracy.csv``; columns used: population, noise, estimator, label, kind, seed, n, snr,
        bias_g1, bias_g2, slope_g1, slope_g2, scatter, crb, prior_bound, n_failed.
    population : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    table = accuracy[accuracy["population"] == population]
    good = (table["n"] - table["n_failed"]).clip(lower=1)
    table = table.assign(
        offset=np.hypot(table["bias_g1"], table["bias_g2"]) / np.sqrt(2),
        slope=np.hypot(table["slope_g1"], table["slope_g2"]) / np.sqrt(2),
        # Standard errors of a mean and of a standard deviation: the offset is the rms of two means of
        # `good` numbers each, the scatter comes from twice as many.
        offset_err=table["scatter"] / np.sqrt(2 * good),
        slope_err=np.abs(table["slope_g1"] - table["slope_g2"]) / 2,
        scatter_err=table["scatter"] / np.sqrt(4 * good),
    )
    found = looks(accuracy)
    names = [name for name in found if name in set(table["estimator"])]
    entries = [
        *bound_handles(table),
        *handles(found, names, failures(table, "scatter")),
    ]
    height = legend_height(entries, DOUBLE)
    layout = ConstrainedLayoutEngine(w_pad=0.04)
    figure = Figure(figsize=(DOUBLE, 2.7 + height), layout=layout)
    for axis, (part, label) in zip(figure.subplots(1, 3), _PARTS):
        if part == "scatter":
            draw_bounds(axis, table)
        for i, name in enumerate(names):
            points = over_seeds(table[table["estimator"] == name], "noise", part, f"{part}_err")
            x = points["noise"] * sideways(i, len(names))
            errorbar(axis, x, points["value"], points["error"], found[name])
        noise_axis(axis, table["noise"])
        snr_axis(axis, table)
        log_limits(axis, "y", table[part].to_numpy(float))
        axis.set_ylabel(label)
    figure_title(figure, f"{population}, {count(table)}")
    legend_below(figure, entries)
    return figure
