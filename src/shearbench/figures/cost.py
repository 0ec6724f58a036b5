"""Accuracy against cost."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from shearbench.figures import style


@style.styled
def draw(accuracy: pd.DataFrame) -> Figure:
    """Draw RMSE over the bound against seconds per stamp, at the lowest noise and at the middle level.

    Parameters
    ----------
    accuracy : pandas.DataFrame
        ``metrics/accuracy.csv``; read are population, noise, estimator, label, kind, seed,
        rmse_over_crb, rmse_over_crb_err, seconds_per_stamp.

    Returns
    -------
    matplotlib.figure.Figure
        Rows: populations; columns: the two noise levels (one where there is only one).
    """
    names = style.populations_of(accuracy)
    found = style.looks(accuracy)
    levels = np.unique(accuracy["noise"].dropna())
    shown = list(dict.fromkeys([levels[0], levels[len(levels) // 2]])) if len(levels) else []
    entries = [style.bound_handles()[0], *style.handles(found, found, style.failed(accuracy, "rmse_over_crb"))]
    width = style.SINGLE if len(shown) <= 1 else style.DOUBLE
    rows = max(len(names), 1)
    figure, axes = style.panels(len(shown), rows, 2.4, True, style.legend_height(entries, width))
    for i, name in enumerate(names):
        for j, noise in enumerate(shown):
            axis = axes[i, j]
            table = accuracy[(accuracy["population"] == name) & (accuracy["noise"] == noise)]
            axis.axhline(1.0, color=style.BOUND, linewidth=3.5, zorder=1)
            for estimator, look in found.items():
                rows_of = table[table["estimator"] == estimator]
                points = style.over_seeds(rows_of, "estimator", "rmse_over_crb", "rmse_over_crb_err")
                seconds = rows_of["seconds_per_stamp"].median()
                if len(points):
                    style.errorbar(axis, [seconds], points["value"], points["error"], look, linestyle="none")
            style.note(axis, f"{style.wrapped(name)}\n$\\sigma$ = {style.power(noise)}", "upper right")
            if j == 0:
                axis.set_ylabel("RMSE / Cramér–Rao bound")
            if i == len(names) - 1:
                axis.set_xlabel("seconds per stamp [s]")
    drawn = accuracy[accuracy["noise"].isin(shown)]
    style.log_limits(axes[0, 0], "x", drawn["seconds_per_stamp"], pad=0.4)
    style.log_limits(axes[0, 0], "y", np.append(drawn["rmse_over_crb"].to_numpy(float), 1.0), pad=0.3)
    style.legend_below(figure, entries)
    return figure
