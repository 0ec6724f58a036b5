"""Residuals against size, flux, ellipticity and centroid at the lowest noise."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from shearbench.figures import style

PROPERTIES = {
    "hlr": "half-light radius [arcsec]",
    "flux": "flux [flux units]",
    "g": "true $|g|$",
    "centroid": "centroid offset [arcsec]",
    "sersic_n": "Sérsic index $n$",
}
"""Properties a trend can be against, with the labels of their axes."""


@style.styled
def draw(trends: pd.DataFrame, population: str) -> Figure:
    """Draw the mean residual and the RMSE in bins of each property.

    Parameters
    ----------
    trends : pandas.DataFrame
        ``metrics/trends.csv``; read are population, noise, estimator, label, kind, seed, property, low,
        high, centre, n, bias, bias_err, rmse, rmse_err, crb.
    population : str

    Returns
    -------
    matplotlib.figure.Figure
        One column of panels for each property: mean residual above, RMSE below.
    """
    table = trends[trends["population"] == population]
    found = style.looks(trends)
    names = [name for name in found if name in set(table["estimator"])]
    properties = [name for name in PROPERTIES if name in set(table["property"])]
    entries = [style.bound_handles()[0], *style.handles(found, names, style.failed(table, "rmse"))]
    height = style.legend_height(entries, style.DOUBLE)
    figure = Figure(figsize=(style.DOUBLE, 3.9 + height), layout="constrained")
    axes = figure.subplots(2, max(len(properties), 1), squeeze=False, sharey="row", sharex="col")
    for column, name in enumerate(properties):
        rows = table[table["property"] == name]
        upper, lower = axes[:, column]
        upper.axhline(0, color=style.BOUND, linewidth=1.5, zorder=1)
        bound = rows.groupby("centre")["crb"].median().dropna()
        lower.plot(bound.index, bound.to_numpy(), color=style.BOUND, linewidth=3.5, zorder=2)
        width = float((rows["high"] - rows["low"]).median())
        for i, estimator in enumerate(names):
            own = rows[rows["estimator"] == estimator]
            shift = 0.5 * width * (i / (len(names) - 1) - 0.5) if len(names) > 1 else 0.0
            for axis, value in ((upper, "bias"), (lower, "rmse")):
                points = style.over_seeds(own, "centre", value, f"{value}_err")
                x = points["centre"] + shift
                style.errorbar(axis, x, points["value"], points["error"], found[estimator], markersize=2.6)
        if len(rows):
            upper.set_xlim(rows["low"].min(), rows["high"].max())
        lower.set_xlabel(PROPERTIES[name])
    _ordinates(axes, table)
    noise = f", $\\sigma$ = {style.power(table['noise'].min())}" if len(table) else ""
    figure.suptitle(f"{population}{noise}", fontsize=8.5, x=0.01, ha="left")
    style.legend_below(figure, entries)
    return figure


def _ordinates(axes: np.ndarray, table: pd.DataFrame) -> None:
    bias, error = np.abs(table["bias"].to_numpy(float)), table["bias_err"].to_numpy(float)
    sizes, errors = style.positive(bias), style.positive(error)
    linear = float(np.quantile(errors, 0.1)) if errors.size else 1e-4
    style.signed_log(axes[0, 0], "y", linear, 2 * float(sizes.max()) if sizes.size else 0.0)
    style.log_limits(axes[1, 0], "y", table[["rmse", "crb"]].to_numpy(float), pad=0.2)
    axes[0, 0].set_ylabel("mean residual of $g$")
    axes[1, 0].set_ylabel("RMSE of $g$, per component")
