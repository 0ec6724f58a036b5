"""Leakage of the PSF's shape into the calibrated shear of each estimator, and the requirements on it."""

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
**Leakage of the PSF's shape**: slope α of the mean calibrated shear on the shape of the PSF, for both
components, against the noise per pixel σ. Each galaxy is simulated without shear under PSFs with opposite
shapes, in several orientations and with noise of both signs, so that shape noise cancels. A network that was
trained with one PSF for all galaxies and has no forward model is not told the PSF; its α is the effect
of a PSF that it does not know. The number of galaxies is printed. Axes are linear near zero and
logarithmic beyond. Bands: \\|α\\| < 0.01, a usual requirement, and a tenth of it. Error bars: 1σ, bootstrap
over galaxies and scatter over training seeds. Points are moved sideways by up to 0.28 dex.""",
    reads=("psf_leakage.csv",),
    each="population",
)

REQUIREMENTS = ((1e-2, "0.90"), (1e-3, "0.78"))
"""Limits of |alpha|, and the grey of the band of each.

With a mean PSF shape of 0.02, an alpha of 0.01 makes an additive bias of 2e-4.
"""


@styled
def draw(psf_leakage: pd.DataFrame, population: str) -> Figure:
    """Draw alpha1 and alpha2 of the calibrated shear against noise, on signed logarithmic axes.

    Parameters
    ----------
    psf_leakage : pandas.DataFrame
        ``metrics/psf_leakage.csv``; columns used: population, noise, estimator, label, kind, seed,
        calibration, n_pairs, n_failed, and alpha1, alpha2 with their errors.
    population : str

    Returns
    -------
    matplotlib.figure.Figure
        One panel for each component.
    """
    table = psf_leakage[
        (psf_leakage["population"] == population) & (psf_leakage["calibration"] == "response")
    ]
    found = looks(psf_leakage)
    names = [name for name in found if name in set(table["estimator"])]
    bands = [Patch(color=grey, label=rf"$|\alpha|$ < {exact(limit)}") for limit, grey in REQUIREMENTS]
    entries = [*bands, *handles(found, names, failures(table, "alpha1"), line=False)]
    figure = Figure(figsize=(DOUBLE, 2.5 + legend_height(entries, DOUBLE)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    values = positive(np.abs(table[["alpha1", "alpha2"]].to_numpy(float)))
    largest = float(values.max()) if values.size else 0.0
    for axis, quantity in zip(axes, ("alpha1", "alpha2")):
        for limit, grey in REQUIREMENTS:
            axis.axhspan(-limit, limit, color=grey, linewidth=0, zorder=0)
        axis.axhline(0, color="0.4", linewidth=0.5, zorder=1)
        for i, name in enumerate(names):
            own = table[table["estimator"] == name]
            points = over_seeds(own, "noise", quantity, f"{quantity}_err")
            x = points["noise"] * sideways(i, len(names), 0.55)
            errorbar(axis, x, points["value"], points["error"], found[name], linestyle="none")
        smallest = REQUIREMENTS[-1][0]
        signed_log(axis, "y", smallest, max(2 * largest, 20 * smallest))
        noise_axis(axis, table["noise"], pad=0.45)
        axis.set_ylabel(rf"$\alpha_{quantity[-1]}$", labelpad=0)
        axis.tick_params(axis="y", labelleft=True)
    n = table["n_pairs"][table["n_pairs"] > 0].astype(int)
    upto = "up to " if n.nunique() > 1 else ""
    axes[0].set_title(f"{upto}{n.max()} galaxies" if len(n) else "", loc="left", fontsize="medium")
    figure_title(figure, population)
    legend_below(figure, entries)
    return figure
