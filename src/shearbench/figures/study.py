"""The answer to a study: RMSE over the bound along the study's axis, with errors and seeds."""

from __future__ import annotations

import math
import textwrap

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from shearbench.figures.axes import log_limits
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import legend_below
from shearbench.figures.style import BOUND, SINGLE, SPACING, exact, styled, wrapped

ENTRY = Entry(
    category="7. Studies",
    caption="""\
RMSE of g over the Cramér–Rao bound for each value of what is varied, one line per noise level σ (per pixel,
flux units); the title is the question. Large points are means over training seeds with their error (scatter
of the seeds over the square root of their number, and bootstrap over test galaxies, in quadrature); small
points beside them are the single seeds. Solid, filled: the noise level at which the verdict is given. Grey:
the bound. At high noise networks go below the Cramér–Rao bound because they learn the distribution of
shapes and are biased towards it.""",
    reads=("studies/{study}.csv", "studies/{study}_accuracy.csv"),
    each="study",
)

_MARKERS = "osDv^P<>"


@styled
def draw(table: pd.DataFrame, accuracy: pd.DataFrame, question: str, axis_label: str) -> Figure:
    """Draw RMSE over the Cramer-Rao bound for each value of a study, a line for each noise level.

    More than five values that are no numbers are listed from top to bottom, at the judged noise level alone.

    Parameters
    ----------
    table : pandas.DataFrame
        Of `shearbench.evaluation.study.study_table`; read are value, variant, population, noise,
        rmse_over_crb, rmse_over_crb_err, judged. Where all values are positive numbers, the axis is one of
        numbers, logarithmic from a factor of eight on.
    accuracy : pandas.DataFrame
        ``metrics/accuracy.csv``, for the single seeds; read are population, noise, estimator,
        rmse_over_crb.
    question : str
        What the study asks; the title.
    axis_label : str
        What is varied.

    Returns
    -------
    matplotlib.figure.Figure
        Large points are means over seeds, small ones beside them the seeds. The noise level that the verdict
        is read off is drawn with a solid line and filled points.
    """
    values = [str(value) for value in table["value"].drop_duplicates()]
    numbers = _numbers(values)
    place = dict(zip(values, numbers or range(len(values))))
    listed = numbers is None and len(values) > 5
    title = "\n".join(textwrap.wrap(question.replace("$", r"\$"), 38 if listed else 58))
    if listed:
        table = table[table["judged"].astype(bool)]
    levels = np.unique(table["noise"].dropna())
    colors = colormaps["viridis"](np.linspace(0.0, 0.8, max(len(levels), 1)))
    judged = set(table.loc[table["judged"].astype(bool), "noise"])
    entries = [Line2D([], [], color=BOUND, linewidth=3.0, label="Cramér–Rao bound")]
    height = 0.17 * len(values) + 0.8 if listed else 2.5
    height += 0.13 * title.count("\n") + 0.14 * (2 + len(levels) // 3)
    figure = Figure(figsize=(SINGLE, height), layout="constrained")
    axis = figure.subplots()
    (axis.axvline if listed else axis.axhline)(1.0, color=BOUND, linewidth=3.0, zorder=1)
    for k, (noise, color) in enumerate(zip(levels, colors)):
        chosen = noise in judged
        look = {
            "color": color,
            "marker": _MARKERS[k % len(_MARKERS)],
            "markerfacecolor": color if chosen else "white",
            "linestyle": "none" if listed else "-" if chosen else (0, (3, 1.5)),
            "markersize": 4.5,
        }
        label = f"$\\sigma$ = {exact(noise)}"
        entries.append(Line2D([], [], label=label, **look))
        rows = table[table["noise"] == noise]
        x = rows["value"].astype(str).map(place).to_numpy(float)
        y = rows["rmse_over_crb"].to_numpy(float)
        error = np.nan_to_num(rows["rmse_over_crb_err"].to_numpy(float))
        axis.errorbar(
            x=y if listed else x,
            y=x if listed else y,
            xerr=error if listed else None,
            yerr=None if listed else error,
            elinewidth=0.8,
            capsize=2.0,
            zorder=3,
            **look,
        )
        for at, row in zip(x, rows.to_dict("records")):
            seeds = accuracy[
                (accuracy["population"] == row["population"])
                & (accuracy["estimator"] == row["variant"])
                & np.isclose(accuracy["noise"], noise, rtol=1e-9)
            ]["rmse_over_crb"].to_numpy(float)
            beside = at * 1.04 if numbers else at + (0.25 if listed else 0.09)
            single = [np.full(len(seeds), beside), seeds]
            axis.plot(
                *(single[::-1] if listed else single),
                linestyle="none",
                marker=".",
                markersize=3,
                color=color,
                zorder=2,
            )
    both = [table["rmse_over_crb"].to_numpy(float), np.array([1.0])]
    log_limits(axis, "x" if listed else "y", np.concatenate(both), pad=0.2)
    if listed:
        axis.set_yticks(range(len(values)), values)
        axis.tick_params(axis="y", which="both", right=False, left=False)
        axis.set_ylim(len(values) - 0.4, -0.6)
        axis.grid(axis="y", linewidth=0.3, color="0.85")
        axis.set_axisbelow(True)
    elif numbers is None:
        axis.set_xticks(range(len(values)), [wrapped(value, 12) for value in values])
        for tick in axis.get_xticklabels():
            tick.set_linespacing(SPACING)
        axis.tick_params(axis="x", which="both", top=False, length=0)
        axis.set_xlim(-0.5, max(len(values), 1) - 0.5)
    elif max(numbers) >= 8 * min(numbers):
        log_limits(axis, "x", numbers, pad=0.1)
        if len(numbers) <= 8:
            axis.set_xticks(numbers, values)
    labels = [axis_label, "RMSE / Cramér–Rao bound"]
    axis.set_xlabel(labels[1] if listed else labels[0])
    axis.set_ylabel("" if listed else labels[1])
    axis.set_title(title, fontsize=8, loc="left", linespacing=SPACING)
    legend_below(figure, entries)
    return figure


def _numbers(values: list[str]) -> list[float] | None:
    """Return the values as positive numbers, or None where one of them is not."""
    try:
        found = [float(value) for value in values]
    except ValueError:
        return None
    return found if found and all(math.isfinite(v) and v > 0 for v in found) else None
