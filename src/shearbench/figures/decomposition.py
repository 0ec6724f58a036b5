"""What the error consists of: offset, slope and scatter against noise."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from shearbench.figures import style

_PARTS = (
    ("offset", "|offset| of $g$"),
    ("slope", "|slope $-$ 1|"),
    ("scatter", "scatter of $g$, per component"),
)


@style.styled
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
    found = style.looks(accuracy)
    names = [name for name in found if name in set(table["estimator"])]
    entries = [
        *style.bound_handles(table),
        *style.handles(found, names, style.failures(table, "scatter")),
    ]
    height = style.legend_height(entries, style.DOUBLE)
    figure = Figure(figsize=(style.DOUBLE, 2.7 + height), layout="constrained")
    for axis, (part, label) in zip(figure.subplots(1, 3), _PARTS):
        if part == "scatter":
            style.draw_bounds(axis, table)
        for i, name in enumerate(names):
            points = style.over_seeds(table[table["estimator"] == name], "noise", part, f"{part}_err")
            x = points["noise"] * style.sideways(i, len(names))
            style.errorbar(axis, x, points["value"], points["error"], found[name])
        style.noise_axis(axis, table["noise"])
        style.snr_axis(axis, table)
        style.log_limits(axis, "y", table[part].to_numpy(float))
        axis.set_ylabel(label)
    style.title(figure, f"{population}, {style.count(table)}")
    style.legend_below(figure, entries)
    return figure
