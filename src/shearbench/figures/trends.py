"""Residuals against size, flux, shape and centroid at the lowest noise."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from shearbench.figures.axes import errorbar, figure_title, log_limits
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import crb_handle, failures, handles, legend_below, legend_height
from shearbench.figures.looks import looks, over_seeds
from shearbench.figures.style import BOUND, DOUBLE, exact, styled

ENTRY = Entry(
    category="2. Residuals",
    caption="""\
**Error against the properties of the galaxies** at the lowest noise of the run, in bins of equal numbers
of test galaxies: true half-light radius [arcsec], flux [flux units], true \\|g\\|, offset of the centroid
[arcsec] and, if it varies, Sérsic index. Above: mean residual along the true shape divided by the RMSE
of the bin; it is positive where galaxies are measured too elongated, and near ±1 where the error is
mostly bias. Below: RMSE of g, per component, with the Cramér–Rao bound of the same galaxies (grey).
Error bars: standard errors over the galaxies of a bin, with the scatter over training seeds. Points are
moved sideways within a bin.""",
    reads=("trends.csv",),
    each="population",
)

PROPERTIES = {
    "hlr": "half-light radius [arcsec]",
    "flux": "flux [flux units]",
    "g": "true $|g|$",
    "centroid": "centroid offset [arcsec]",
    "sersic_n": "Sérsic index $n$",
}
"""Properties of galaxies, and the labels of their axes."""


@styled
def draw(trends: pd.DataFrame, population: str) -> Figure:
    """Draw the mean residual (in units of the RMSE) and the RMSE in bins of each property.

    Mean residuals of estimators differ by factors of a hundred and in sign. Divided by the RMSE they fit on
    one linear axis.

    Parameters
    ----------
    trends : pandas.DataFrame
        ``metrics/trends.csv``; columns used: population, noise, estimator, label, kind, seed, property, low,
        high, centre, n, bias, bias_err, rmse, rmse_err, crb.
    population : str

    Returns
    -------
    matplotlib.figure.Figure
        One column of panels per property: mean residual over RMSE above, RMSE below.
    """
    table = trends[trends["population"] == population]
    table = table.assign(part=table["bias"] / table["rmse"], part_err=table["bias_err"] / table["rmse"])
    found = looks(trends)
    names = [name for name in found if name in set(table["estimator"])]
    properties = [name for name in PROPERTIES if name in set(table["property"])]
    entries = [crb_handle(), *handles(found, names, failures(table, "rmse"))]
    height = legend_height(entries, DOUBLE)
    figure = Figure(figsize=(DOUBLE, 3.9 + height), layout="constrained")
    axes = figure.subplots(2, max(len(properties), 1), squeeze=False, sharey="row", sharex="col")
    for column, name in enumerate(properties):
        rows = table[table["property"] == name]
        upper, lower = axes[:, column]
        upper.axhline(0, color=BOUND, linewidth=1.5, zorder=1)
        bound = rows.groupby("centre")["crb"].median().dropna()
        lower.plot(bound.index, bound.to_numpy(), color=BOUND, linewidth=3.5, zorder=2)
        # Bins have equal numbers of galaxies and differ in width: all estimators must fit into the narrowest.
        width = float((rows["high"] - rows["low"]).min())
        for i, estimator in enumerate(names):
            own = rows[rows["estimator"] == estimator]
            shift = 0.7 * width * (i / (len(names) - 1) - 0.5) if len(names) > 1 else 0.0
            for axis, value in ((upper, "part"), (lower, "rmse")):
                points = over_seeds(own, "centre", value, f"{value}_err")
                x, look = points["centre"] + shift, found[estimator]
                errorbar(
                    axis,
                    x,
                    points["value"],
                    points["error"],
                    look,
                    markersize=0.7 * look.markersize,
                    capsize=0.0,
                    # Lines between points that scatter about zero would cross each other.
                    linestyle="none" if axis is upper else look.linestyle,
                )
        if len(rows):
            low, high = rows["low"].min(), rows["high"].max()
            upper.set_xlim(low - 0.04 * (high - low), high + 0.04 * (high - low))
        lower.set_xlabel(PROPERTIES[name])
    _vertical(axes, table)
    noise = f", $\\sigma$ = {exact(table['noise'].min())}" if len(table) else ""
    figure_title(figure, f"{population}{noise}")
    legend_below(figure, entries)
    return figure


def _vertical(axes: np.ndarray, table: pd.DataFrame) -> None:
    reach = (np.abs(table["part"]) + table["part_err"].fillna(0)).replace(np.inf, np.nan).max()
    reach = 1.1 * reach if reach > 0 else 1.0
    axes[0, 0].set_ylim(-reach, reach)
    log_limits(axes[1, 0], "y", table[["rmse", "crb"]].to_numpy(float), pad=0.2)
    axes[0, 0].set_ylabel("mean residual along shape / RMSE")
    axes[1, 0].set_ylabel("RMSE of $g$, per component")
