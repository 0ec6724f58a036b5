"""Changes of m and c from a PSF or a noise level that is told wrongly, and the requirements of surveys."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from shearbench.figures.axes import errorbar, figure_title, noise_axis, positive, sideways, signed_log
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import failures, handles, legend_below, legend_height
from shearbench.figures.looks import looks, over_seeds
from shearbench.figures.shear_bias import REQUIREMENTS
from shearbench.figures.style import DOUBLE, exact, styled

ENTRY = Entry(
    category="3. Shear bias",
    caption="""\
**PSF and noise told wrongly**: changes of m and c of the calibrated shear, mean of both components, if an
estimator is told a PSF or a noise level with the error above each panel, against the noise per pixel σ.
The same noisy stamps are measured with and without the error. A network that has neither the PSF nor the
noise level as an input does not change. The number of galaxies is printed. Axes are linear near zero and
logarithmic beyond. Bands: survey requirements on m and c. Error bars: 1σ, bootstrap over galaxies and
scatter over training seeds. Points are moved sideways by up to 0.28 dex.""",
    reads=("model_errors.csv",),
    each="population",
)

_TITLES = {
    "psf_size": "PSF {:.3g}% larger",
    "psf_shape": "PSF shape {:+.3g}",
    "noise_low": "noise {:.3g}% lower",
    "noise_high": "noise {:.3g}% higher",
}


@styled
def draw(model_errors: pd.DataFrame, population: str) -> Figure:
    """Draw the changes of m and c against noise, one column for each error that is told.

    Parameters
    ----------
    model_errors : pandas.DataFrame
        ``metrics/model_errors.csv``.
    population : str

    Returns
    -------
    matplotlib.figure.Figure
        Rows: m and c.
    """
    table = model_errors[
        (model_errors["population"] == population) & (model_errors["calibration"] == "response")
    ]
    table = table.assign(
        **{
            f"{letter}{part}": value * table["amount"].abs() if part else value * table["amount"]
            for letter in "mc"
            for part, value in (
                ("", table[[f"d{letter}1", f"d{letter}2"]].mean(axis=1)),
                ("_err", np.hypot(table[f"d{letter}1_err"], table[f"d{letter}2_err"]) / 2),
            )
        }
    )
    found = looks(model_errors)
    names = [name for name in found if name in set(table["estimator"])]
    bands = [
        Patch(color=grey, label=f"{survey}: $|{letter}|$ < {exact(limit)}")
        for letter in "mc"
        for survey, limit, grey in REQUIREMENTS[letter]
    ]
    entries = [*bands, *handles(found, names, failures(table, "m"), line=False)]
    figure = Figure(figsize=(DOUBLE, 4.1 + legend_height(entries, DOUBLE)), layout="constrained")
    axes = figure.subplots(2, 4, sharex=True, sharey="row")
    for row, letter in zip(axes, "mc"):
        values = positive(np.abs(table[letter].to_numpy(float)))
        smallest = REQUIREMENTS[letter][-1][1]
        limit = max(2 * float(values.max(initial=0.0)), 10 * smallest)
        for axis, (told, title) in zip(row, _TITLES.items()):
            part = table[table["told"] == told]
            for _, band, grey in REQUIREMENTS[letter]:
                axis.axhspan(-band, band, color=grey, linewidth=0, zorder=0)
            axis.axhline(0, color="0.4", linewidth=0.5, zorder=1)
            for i, name in enumerate(names):
                points = over_seeds(part[part["estimator"] == name], "noise", letter, f"{letter}_err")
                x = points["noise"] * sideways(i, len(names), 0.55)
                errorbar(axis, x, points["value"], points["error"], found[name], linestyle="none")
            signed_log(axis, "y", smallest, limit)
            noise_axis(axis, table["noise"], label=letter == "c", pad=0.45)
            if letter == "m" and len(part):
                amount = abs(float(part["amount"].iloc[0]))
                axis.set_title(title.format(amount if told == "psf_shape" else 100 * amount), loc="left")
        row[0].set_ylabel(rf"$\Delta {letter}$")
    n = table["n_pairs"][table["n_pairs"] > 0].astype(int)
    upto = "up to " if n.nunique() > 1 else ""
    figure_title(figure, f"{population}, {upto}{n.max()} galaxies" if len(n) else population)
    legend_below(figure, entries)
    return figure
