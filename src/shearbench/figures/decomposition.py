"""What the error consists of: offset, slope and scatter against noise."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

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
**Offset, slope and scatter** of the estimated against the true shape, against noise per pixel (upper axis:
median matched-filter S/N, sqrt(sum I²)/σ with I the noiseless image). Offset: root mean square over g1 and
g2 of the mean residual. Slope: the same of the fitted slope minus one. Scatter: rms residual, per
component, once both are taken out. They have different cures: an offset or slope can be calibrated, scatter
cannot. Error bars: of the offset and the scatter, their standard errors for the *n* test galaxies less the
failed; of the slope, half the difference of the two components; for networks also the scatter of the seeds.
An offset below its error bar is consistent with none. Estimators are moved sideways by up to 0.1 dex. Thick
grey and shaded: Cramér–Rao and prior-limited bound. At high noise an estimator using a prior goes below the
Cramér–Rao bound because it is biased: its slope falls to zero (\\|slope − 1\\| near 1).""",
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
    """Draw the offset, the error of the slope and the remaining scatter of each estimator.

    Parameters
    ----------
    accuracy : pandas.DataFrame
        ``metrics/accuracy.csv``; read are population, noise, estimator, label, kind, seed, n, snr,
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
    figure = Figure(figsize=(DOUBLE, 2.7 + height), layout="constrained")
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
