"""Multiplicative bias against true signal-to-noise ratio and size over that of the PSF."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from shearbench.figures.axes import errorbar, figure_title, log_limits, sideways, signed_log
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import handles, legend_below, legend_height
from shearbench.figures.looks import looks, over_seeds
from shearbench.figures.style import DOUBLE, exact, styled

ENTRY = Entry(
    category="3. Shear bias",
    caption="""\
**Shear bias against galaxy properties**: multiplicative bias m, mean of both components, in quarters of
the galaxies by true signal-to-noise ratio (above) and by half-light radius over FWHM of the PSF (below),
one column per noise level σ. Calibrated by the mean response of all galaxies, measured on other galaxies;
metacalibration and FPFS by the response that they measure themselves in each bin. True properties select
nothing that the shear changes. The axis of m is linear within ±0.01 and logarithmic beyond. Error bars: 1σ,
bootstrap over galaxies and scatter over training seeds. Points are moved sideways.""",
    reads=("shear_trends.csv",),
    each="population",
)

_ROWS = (("s2n", "signal-to-noise ratio"), ("size", "half-light radius / PSF FWHM"))
_LINEAR = 0.01  # |m| beyond which the axis is logarithmic


@styled
def draw(trends: pd.DataFrame, population: str) -> Figure:
    """Draw the calibrated m, the mean of both components, in bins of two true properties.

    Parameters
    ----------
    trends : pandas.DataFrame
        ``metrics/shear_trends.csv``.
    population : str

    Returns
    -------
    matplotlib.figure.Figure
        Rows: properties; columns: noise levels.
    """
    table = trends[(trends["population"] == population) & (trends["calibration"] == "response")]
    error = np.hypot(table["m1_err"].astype(float), table["m2_err"].astype(float)) / 2
    table = table.assign(m=table[["m1", "m2"]].astype(float).mean(axis=1), m_err=error)
    found = looks(trends)
    names = [name for name in found if name in set(table["estimator"])]
    levels = sorted(table["noise"].unique())
    entries = handles(found, names, {}, line=False)
    figure = Figure(figsize=(DOUBLE, 4.2 + legend_height(entries, DOUBLE)), layout="constrained")
    axes = figure.subplots(2, max(len(levels), 1), sharey=True, squeeze=False)
    sizes = table["m"].abs().to_numpy(float)
    largest = float(sizes[np.isfinite(sizes)].max(initial=3 * _LINEAR))
    for row, (name, title) in zip(axes, _ROWS):
        of_property = table[table["property"] == name]
        for column, axis in enumerate(row):
            axis.axhline(0, color="0.4", linewidth=0.5, zorder=1)
            level = levels[column] if column < len(levels) else np.nan
            part = of_property[of_property["noise"] == level]
            for i, estimator in enumerate(names):
                points = over_seeds(part[part["estimator"] == estimator], "centre", "m", "m_err")
                x = points["centre"] * sideways(i, len(names), 0.03)
                errorbar(axis, x, points["value"], points["error"], found[estimator], linestyle="none")
            log_limits(axis, "x", part["centre"], 0.05)
            axis.set_xlabel(title)
        row[0].set_ylabel("$m$")
    for axis, level in zip(axes[0], levels):
        axis.set_title(f"$\\sigma$ = {exact(level)}")
    signed_log(axes[0, 0], "y", _LINEAR, 2 * largest)
    figure_title(figure, population)
    legend_below(figure, entries)
    return figure
