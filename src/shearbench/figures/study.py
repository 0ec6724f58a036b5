"""Result of a study: RMSE over the bound for each value of the varied setting, with errors and seeds."""

from __future__ import annotations

import math
import textwrap

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from shearbench.figures.axes import figure_title, log_limits
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import legend_below
from shearbench.figures.style import BOUND, SINGLE, SPACING, VERMILLION, exact, styled, wrapped

ENTRY = Entry(
    category="7. Studies",
    caption="""\
RMSE of g divided by the Cramér–Rao bound (grey) for each setting that the study compares, one line and one
symbol per noise level σ (per pixel, flux units). Large symbols: mean over training seeds; error bars:
scatter of the seeds over the square root of their number and bootstrap over the test galaxies, in
quadrature. Small points beside them: single seeds. Filled symbols: the noise levels at which the settings
are judged. Crosses at the edge, with a number such as 2/3: seeds whose training diverged, of those trained;
they are left out of the mean. At high noise a network can go below the bound because it has learned the
distribution of shapes and is biased towards it.""",
    reads=("studies/{study}.csv", "studies/{study}_accuracy.csv"),
    each="study",
)

_MARKERS = "osDv^P<>"


@styled
def draw(table: pd.DataFrame, accuracy: pd.DataFrame, question: str, axis_label: str) -> Figure:
    """Draw RMSE over the Cramer-Rao bound for each value of a study, a line for each noise level.

    If there are more than five values and they are not numbers, they are listed from top to bottom, at the
    judged noise levels only.

    Parameters
    ----------
    table : pandas.DataFrame
        Table of `shearbench.evaluation.study.study_table`; columns used: value, variant, population, noise,
        rmse_over_crb, rmse_over_crb_err, judged, n_trained, n_diverged. If all values are positive numbers,
        the axis is numerical, and logarithmic if they span a factor of eight or more.
    accuracy : pandas.DataFrame
        ``metrics/accuracy.csv``, for the single seeds; columns used: population, noise, estimator,
        rmse_over_crb.
    question : str
        The question of the study; the title.
    axis_label : str
        Name of the varied setting.

    Returns
    -------
    matplotlib.figure.Figure
        Large symbols are means over seeds, small points beside them single seeds. The noise level of the
        verdict has a solid line and filled symbols; there may be several.
    """
    values = [str(value) for value in table["value"].drop_duplicates()]
    numbers = _numbers(values)
    place = dict(zip(values, numbers or range(len(values))))
    listed = numbers is None and len(values) > 5
    title = "\n".join(textwrap.wrap(question.replace("$", r"\$"), 58))
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
    lost = table[table["n_diverged"] > 0].drop_duplicates("value")
    if len(lost):
        look = {"color": VERMILLION, "marker": "x", "markersize": 4.5, "linestyle": "none"}
        entries.append(Line2D([], [], label="seeds that diverged", **look))
        # At the far edge, because a value without a result has no place on the axis of the RMSE.
        edge = axis.get_yaxis_transform() if listed else axis.get_xaxis_transform()
        for row in lost.to_dict("records"):
            at = (1.0, place[str(row["value"])]) if listed else (place[str(row["value"])], 1.0)
            axis.plot(*([one] for one in at), transform=edge, clip_on=False, zorder=4, **look)
            axis.annotate(
                f"{row['n_diverged']:.0f}/{row['n_trained']:.0f}",
                at,
                (-5, 0) if listed else (0, -5),
                xycoords=edge,
                textcoords="offset points",
                ha="right" if listed else "center",
                va="center" if listed else "top",
                fontsize=6.5,
                color=VERMILLION,
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
    figure_title(figure, title)
    legend_below(figure, entries)
    return figure


def _numbers(values: list[str]) -> list[float] | None:
    """Return the values as positive numbers, or None if one of them is no positive number."""
    try:
        found = [float(value) for value in values]
    except ValueError:
        return None
    return found if found and all(math.isfinite(v) and v > 0 for v in found) else None
