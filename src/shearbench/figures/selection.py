"""Multiplicative bias of the galaxies that a cut leaves, without and with the response of the selection."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from shearbench.figures.axes import errorbar, figure_title, signed_log
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import handles, legend_below, legend_height
from shearbench.figures.looks import looks, over_seeds
from shearbench.figures.style import DOUBLE, exact, styled

ENTRY = Entry(
    category="3. Shear bias",
    caption="""\
**Selection**: multiplicative bias m, mean of both components, of all galaxies and of those that pass a cut
in a quantity that the estimator itself measures: signal-to-noise ratio, size, flux, or its error of the
shape. A cut leaves 70% of the stamps. One column per noise level σ. Above: calibrated by the response of
the shapes of the selected galaxies. Below: the response of the selection, from the galaxies that pass
under each shear, is added. An estimator has no point where it does not measure the quantity. The axis is
linear within ±0.01 and logarithmic beyond. Error bars: 1σ, bootstrap over galaxies and scatter over
training seeds.""",
    reads=("selection.csv",),
    each="population",
)

_ROWS = (("response", "response of shapes"), ("selection", "with that of\nthe selection"))
_QUANTITIES = {"none": "all", "s2n": "S/N", "size": "size", "flux": "flux", "error": "error"}
_LINEAR = 0.01  # |m| beyond which the axis is logarithmic


@styled
def draw(selection: pd.DataFrame, population: str) -> Figure:
    """Draw m, the mean of both components, for each cut.

    Parameters
    ----------
    selection : pandas.DataFrame
        ``metrics/selection.csv``.
    population : str

    Returns
    -------
    matplotlib.figure.Figure
        Rows: calibrations; columns: noise levels. In a panel: all galaxies, then each cut.
    """
    table = selection[selection["population"] == population]
    error = np.hypot(table["m1_err"].astype(float), table["m2_err"].astype(float)) / 2
    table = table.assign(m=table[["m1", "m2"]].astype(float).mean(axis=1), m_err=error)
    table = table.assign(place=[list(_QUANTITIES).index(name) for name in table["quantity"]])
    found = looks(selection)
    names = [name for name in found if name in set(table["estimator"])]
    levels = sorted(table["noise"].unique())
    entries = handles(found, names, {}, line=False)
    figure = Figure(figsize=(DOUBLE, 3.8 + legend_height(entries, DOUBLE)), layout="constrained")
    axes = figure.subplots(2, max(len(levels), 1), sharex=True, sharey=True, squeeze=False)
    for row, (calibration, title) in zip(axes, _ROWS):
        for column, axis in enumerate(row):
            axis.axhline(0, color="0.4", linewidth=0.5, zorder=1)
            if column == 0:
                axis.set_ylabel(f"{title}\n$m$")
            if column >= len(levels):
                continue
            part = table[(table["noise"] == levels[column]) & (table["calibration"] == calibration)]
            for i, name in enumerate(names):
                points = over_seeds(part[part["estimator"] == name], "place", "m", "m_err")
                x = points["place"] + (i - (len(names) - 1) / 2) * 0.8 / max(len(names), 1)
                errorbar(axis, x, points["value"], points["error"], found[name], linestyle="none")
    for axis, level in zip(axes[0], levels):
        axis.set_title(f"$\\sigma$ = {exact(level)}")
    sizes = table["m"].abs().to_numpy(float)
    largest = float(sizes[np.isfinite(sizes)].max(initial=3 * _LINEAR))
    signed_log(axes[0, 0], "y", _LINEAR, 2 * largest)
    for axis in axes[-1]:
        axis.set_xticks(range(len(_QUANTITIES)), list(_QUANTITIES.values()))
        axis.set_xlabel("quantity that is cut")
    figure_title(figure, population)
    legend_below(figure, entries)
    return figure
