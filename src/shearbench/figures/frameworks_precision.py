"""Rounding errors of a network in NumPy against noise: at which noise the arithmetic becomes the floor."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from shearbench.figures.axes import count, log_limits, note, panels
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import legend_below, legend_height
from shearbench.figures.looks import populations_of
from shearbench.figures.style import BLUE, BOUND, GREEN, SINGLE, VERMILLION, styled, wrapped

ENTRY = Entry(
    category="B. Frameworks",
    caption="""\
**Errors of arithmetic.** The network in NumPy with the same trained weights, in numbers of 64, 32 and 16
bits. Coloured: rms difference of g from float64, against the noise per pixel σ; with 16 bits, weights,
input and the output of each layer are rounded, sums have 32 bits. Error bars: bootstrap over the *n*
galaxies. Black: RMSE of the network in float64. Grey: Cramér–Rao bound, continued to lower noise as
proportional to the noise. Dotted: the noise at which an arithmetic is as large an error as the bound;
with less noise, this network could not reach the bound with that arithmetic, however well it is trained.""",
    reads=("frameworks_precision.csv",),
    each="frameworks",
)

_LOOKS = {"float32": ("s", BLUE), "float16": ("^", GREEN), "bfloat16": ("D", VERMILLION)}


@styled
def draw(precision: pd.DataFrame) -> Figure:
    """Draw rounding errors, RMSE and bound against noise, one panel for each population.

    Parameters
    ----------
    precision : pandas.DataFrame
        ``metrics/frameworks_precision.csv``.

    Returns
    -------
    matplotlib.figure.Figure
    """
    names = populations_of(precision)
    entries = [
        Line2D([], [], color=BOUND, linewidth=3.5, label="Cramér–Rao bound"),
        Line2D([], [], color="black", marker="o", label="RMSE, float64"),
        *(
            Line2D([], [], color=color, marker=marker, label=f"rounding, {name}")
            for name, (marker, color) in _LOOKS.items()
        ),
    ]
    columns = max(len(names), 1)
    figure, axes = panels(
        columns, 1, 2.8, "row", legend_height(entries, SINGLE if columns == 1 else 2 * SINGLE)
    )
    for axis, name in zip(axes[0], names):
        table = precision[precision["population"] == name].sort_values("noise")
        reference = table[table["precision"] == "float64"]
        lowest, bound = reference["noise"].min(), reference["crb"].iloc[0]
        meets = table["noise_of_floor"].to_numpy(float)
        low = min(np.min(meets[meets > 0], initial=lowest), lowest) / 2
        line = np.array([low, lowest])
        axis.plot(line, bound * line / lowest, color=BOUND, linewidth=1.5, linestyle=(0, (2, 1)), zorder=1)
        axis.plot(reference["noise"], reference["crb"], color=BOUND, linewidth=3.5, zorder=1)
        axis.plot(reference["noise"], reference["rmse"], "o-", color="black")
        for kind, (marker, color) in _LOOKS.items():
            rows = table[table["precision"] == kind]
            axis.errorbar(
                rows["noise"], rows["difference"], rows["difference_err"], fmt=f"{marker}-", color=color
            )
            if len(rows) and rows["noise_of_floor"].iloc[0] > 0:
                first = rows.iloc[0]
                at = [first["noise_of_floor"], first["noise"]]
                axis.plot(at, [first["difference"]] * 2, color=color, linestyle=(0, (1, 1)), linewidth=0.8)
                axis.plot(at[:1], [first["difference"]], "|", color=color, markersize=9)
        log_limits(axis, "x", [low, table["noise"].max()], pad=0.2)
        note(axis, f"{wrapped(name)}\n{count(table)}", "center left")
        axis.set_xlabel(r"noise per pixel $\sigma$ [flux units]")
    values = precision[["rmse", "crb", "difference"]].to_numpy(float)
    log_limits(axes[0, 0], "y", values, pad=0.4)
    axes[0, 0].set_ylabel("error of $g$, per component")
    legend_below(figure, entries)
    return figure
