"""Multiplicative and additive shear bias of each estimator, and the requirements of surveys."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from shearbench.figures.axes import errorbar, figure_title, noise_axis, positive, sideways, signed_log
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import failures, handles, legend_below, legend_height
from shearbench.figures.looks import looks, over_seeds
from shearbench.figures.style import DOUBLE, exact, styled

ENTRY = Entry(
    category="3. Shear bias",
    caption="""\
**Shear bias**: multiplicative bias m and additive bias c of the mean shape, ⟨ĝ⟩ = (1 + m) g + c, for
both components, against the noise per pixel σ. Each galaxy is simulated under positive and negative
shear, in several orientations and with noise of both signs, so that shape noise cancels. Above: without
calibration. Below: after division by the mean response, measured on other galaxies; metacalibration and
FPFS use the response that they measure themselves, and their m above has no meaning. The number of
galaxies is printed. Axes are linear near zero and logarithmic beyond. Bands: survey requirements. Error
bars: 1σ, bootstrap over galaxies and scatter over training seeds. Points are moved sideways by up to
0.28 dex.""",
    reads=("shear_bias.csv",),
    each="population",
)

REQUIREMENTS = {
    "m": (("Euclid", 2e-3, "0.90"), ("LSST", 1e-3, "0.82"), ("Roman", 3.2e-4, "0.72")),
    "c": (("Euclid", 5e-4, "0.90"), ("LSST", 1e-4, "0.82")),
}
"""Largest |m| and |c| that each survey allows, and the grey of its band.

Euclid: Cropper et al. (2013), the total of m and the largest value for c; LSST: the DESC requirement for
isolated galaxies under constant shear; Roman: the calibration requirement of its reference survey.
"""
_ROWS = (("none", "uncalibrated"), ("response", "calibrated"))
_COLUMNS = ("m1", "m2", "c1", "c2")


@styled
def draw(shear_bias: pd.DataFrame, population: str) -> Figure:
    """Draw m1, m2, c1, c2 against noise, before and after calibration, on signed logarithmic axes.

    Parameters
    ----------
    shear_bias : pandas.DataFrame
        ``metrics/shear_bias.csv``; columns used: population, noise, estimator, label, kind, seed,
        calibration, n_pairs, and m1, m2, c1, c2 with their errors.
    population : str

    Returns
    -------
    matplotlib.figure.Figure
        Rows: calibration; columns: m1, m2, c1, c2.
    """
    table = shear_bias[shear_bias["population"] == population]
    found = looks(shear_bias)
    names = [name for name in found if name in set(table["estimator"])]
    bands: list[Patch] = []
    for letter in "mc":
        for survey, limit, grey in REQUIREMENTS[letter]:
            bands.append(Patch(color=grey, label=f"{survey}: $|{letter}|$ < {exact(limit)}"))
    entries = [*bands, *handles(found, names, failures(table, "m1"), line=False)]
    height = legend_height(entries, DOUBLE)
    figure = Figure(figsize=(DOUBLE, 4.1 + height), layout="constrained")
    axes = figure.subplots(2, 4, sharex=True)
    for bottom, (calibration, title), row in zip((False, True), _ROWS, axes):
        part = table[table["calibration"] == calibration]
        for axis, quantity in zip(row, _COLUMNS):
            letter = quantity[0]
            for _, limit, grey in REQUIREMENTS[letter]:
                axis.axhspan(-limit, limit, color=grey, linewidth=0, zorder=0)
            axis.axhline(0, color="0.4", linewidth=0.5, zorder=1)
            for i, name in enumerate(names):
                own = part[part["estimator"] == name]
                points = over_seeds(own, "noise", quantity, f"{quantity}_err")
                x = points["noise"] * sideways(i, len(names), 0.55)
                # A line between noise levels would suggest values in the bands that were not measured.
                errorbar(axis, x, points["value"], points["error"], found[name], linestyle="none")
            values = positive(np.abs(table[[f"{letter}1", f"{letter}2"]].to_numpy(float)))
            largest = float(values.max()) if values.size else 0.0
            smallest = REQUIREMENTS[letter][-1][1]
            signed_log(axis, "y", smallest, max(2 * largest, 10 * smallest))
            noise_axis(axis, table["noise"], label=bottom, pad=0.45)
            axis.set_ylabel(f"${letter}_{quantity[1]}$", labelpad=0)
            if quantity == "m1":
                n = part["n_pairs"].dropna().astype(int)
                upto = "up to " if n.nunique() > 1 else ""
                # The text is above the panel because points may lie in any corner of it.
                above = f"{title}, {upto}{n.max()} galaxies" if len(n) else title
                axis.set_title(above, loc="left", fontsize="medium")
            axis.tick_params(axis="y", labelsize=7)
    figure_title(figure, population)
    legend_below(figure, entries)
    return figure
