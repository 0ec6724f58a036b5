"""How far from the Cramer-Rao bound: RMSE over the bound, and the same by medians."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from shearbench.figures import style


@style.styled
def draw(accuracy: pd.DataFrame) -> Figure:
    """Draw RMSE over the bound against noise, above the robust width over the median bound.

    The bound has a heavy tail (small, faint galaxies), which the rms feels and the median does not.

    Parameters
    ----------
    accuracy : pandas.DataFrame
        ``metrics/accuracy.csv``; read are population, noise, estimator, label, kind, seed, n, snr,
        rmse_over_crb, rmse_over_crb_err, median_abs, crb, crb_median, prior_bound.

    Returns
    -------
    matplotlib.figure.Figure
        One column of panels for each population.
    """
    names = style.populations_of(accuracy)
    found = style.looks(accuracy)
    robust = accuracy.assign(robust=accuracy["median_abs"] / accuracy["crb_median"])
    entries = [*style.bound_handles(), *style.handles(found, found, style.failed(accuracy, "rmse_over_crb"))]
    width = style.SINGLE if len(names) <= 1 else style.DOUBLE
    figure, axes = style.panels(len(names), 2, 2.2, "row", style.legend_height(entries, width))
    for i, name in enumerate(names):
        table = robust[robust["population"] == name]
        style.draw_bounds(axes[0, i], table, table.groupby("noise")["crb"].median())
        axes[1, i].axhline(1.0, color=style.BOUND, linewidth=3.5, zorder=2)
        for k, (estimator, look) in enumerate(found.items()):
            rows = table[table["estimator"] == estimator]
            for axis, column, error in (
                (axes[0, i], "rmse_over_crb", "rmse_over_crb_err"),
                (axes[1, i], "robust", None),
            ):
                points = style.over_seeds(rows, "noise", column, error)
                x = points["noise"] * style.sideways(k, len(found), 0.16)
                style.errorbar(axis, x, points["value"], points["error"], look)
        style.noise_axis(axes[0, i], accuracy["noise"], label=False)
        style.noise_axis(axes[1, i], accuracy["noise"])
        style.snr_axis(axes[0, i], table)
        style.note(axes[0, i], f"{style.wrapped(name)}\n{style.count(table)}", "upper right")
    axes[0, 0].set_ylabel("RMSE / Cramér–Rao bound")
    axes[1, 0].set_ylabel("robust width / median bound")
    style.log_limits(axes[0, 0], "y", np.append(accuracy["rmse_over_crb"].to_numpy(float), 1.0), pad=0.2)
    style.log_limits(axes[1, 0], "y", np.append(robust["robust"].to_numpy(float), 1.0), pad=0.2)
    style.legend_below(figure, entries)
    return figure
