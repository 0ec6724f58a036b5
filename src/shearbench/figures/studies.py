"""All studies in one figure: the effect of each value on the RMSE, with its error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from shearbench.evaluation.beliefs import HELPS, HURTS
from shearbench.figures.axes import figure_title, log_limits
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import legend_below
from shearbench.figures.style import BLUE, DOUBLE, VERMILLION, exact, styled

ENTRY = Entry(
    category="7. Studies",
    caption="""\
Effect of each value of all studies: RMSE of g divided by the RMSE of the value that it is compared with (in
brackets; some values have their own) on the same noisy galaxies, at each noise level σ (per pixel, flux
units) at which studies are judged; below 1 the value helps. Error bars: bootstrap of the same galaxies for
both and scatter of the training seeds over the square root of their number, in quadrature. Filled symbols:
differences that are significant (Welch's t for the number of seeds) after the false discoveries among all
comparisons of the figure are limited to 5% (Benjamini–Hochberg). Triangles at an edge: the effect, given as a
number, lies beyond it. Crosses at the edge: all trainings of a value diverged; a number such as 1/3 counts
the trainings that diverged.""",
    reads=("studies.csv",),
    each="studies",
)

_LOOKS = {HELPS: (BLUE, "o"), HURTS: (VERMILLION, "s")}
_OTHER = ("0.45", "D")
_ROW, _LEAST, _PAGE, _MARGIN = 0.135, 0.09, 9.6, 0.75  # heights, inches: rows, a page, title and legend
_BEYOND = 0.03  # fraction of the effects that may lie beyond either end of an axis
_LONGEST = 34  # characters of a label


@styled
def draw(table: pd.DataFrame) -> Figure:
    """Draw the effects of all values, grouped by study, in two columns with a panel for each noise level.

    Parameters
    ----------
    table : pandas.DataFrame
        ``metrics/studies.csv``, see `shearbench.evaluation.beliefs.summary`.

    Returns
    -------
    matplotlib.figure.Figure
        Two journal columns wide. Studies are in the order of their most helpful value at the lowest noise
        level, values in the order of their effect at this level.
    """
    levels = sorted(table["noise"].unique())
    blocks = _blocks(table)
    columns = _in_columns(blocks, 2 if len(table) > 12 * max(len(levels), 1) else 1)
    rows = max((sum(len(values) + 1 for _, values in column) for column in columns), default=1)
    pitch = min(_ROW, max((_PAGE - _MARGIN) / max(rows, 1), _LEAST))
    figure = Figure(figsize=(DOUBLE, pitch * rows + _MARGIN), layout="constrained")
    axes = figure.subplots(1, max(len(columns) * len(levels), 1), squeeze=False, sharey=False)[0]
    limits = {level: _limits(table[table["noise"] == level]) for level in levels}
    for number, column in enumerate(columns):
        lines = [line for study, values in column for line in [(study, None), *((study, v) for v in values)]]
        for k, level in enumerate(levels):
            axis = axes[number * len(levels) + k]
            _panel(axis, table[table["noise"] == level], lines, rows, limits[level])
            axis.set_title(f"$\\sigma$ = {exact(level)}", fontsize=8)
            if k == 0:
                _name(axis, table, lines, size=min(6.5, 57 * pitch))
    figure_title(figure, "RMSE / RMSE of the study's reference (in brackets)")
    legend_below(figure, _entries("one seed" in set(table["outcome"])))
    return figure


def _blocks(table: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Return the studies with their values, both in the order of the effect at the lowest noise level."""
    blocks = {}
    for study, own in table.groupby("study", sort=False):
        first = own[own["noise"] == own["noise"].min()].sort_values("effect", kind="stable")
        values = dict.fromkeys([*first["value"], *own["value"]])
        blocks[str(study)] = (float(np.nan_to_num(first["effect"].min(), nan=np.inf)), list(values))
    return [(name, values) for name, (_, values) in sorted(blocks.items(), key=lambda block: block[1][0])]


def _in_columns(blocks: list[tuple[str, list[str]]], count: int) -> list[list[tuple[str, list[str]]]]:
    """Divide the blocks into columns of about the same height, in their order."""
    total = sum(len(values) + 1 for _, values in blocks)
    columns: list[list[tuple[str, list[str]]]] = [[] for _ in range(count)]
    done = 0
    for block in blocks:
        height = len(block[1]) + 1
        columns[min(int((done + height / 2) * count / max(total, 1)), count - 1)].append(block)
        done += height
    return [column for column in columns if column]


def _limits(table: pd.DataFrame) -> np.ndarray:
    """Return the limits of a noise level's axis: it shows the error bars of nearly all effects, and 1."""
    effect, error = (table[name].to_numpy(float) for name in ("effect", "effect_err"))
    error = np.nan_to_num(error)[np.isfinite(effect)]
    effect = effect[np.isfinite(effect)]
    if not effect.size:
        return np.array([0.9, 1.1])
    # A bar to zero or below would end nowhere on a logarithmic axis.
    low = np.quantile(np.maximum(effect - error, effect / 3), _BEYOND)
    high = np.quantile(effect + error, 1 - _BEYOND)
    return np.array([min(low, 0.9), max(high, 1.1)])


def _panel(
    axis: Axes, table: pd.DataFrame, lines: list[tuple[str, str | None]], rows: int, limits: np.ndarray
) -> None:
    """Draw the effects of one noise level."""
    log_limits(axis, "x", limits, pad=0.06)
    axis.axvline(1.0, color="0.6", linewidth=0.8, zorder=1)
    found = {(row["study"], row["value"]): row for row in table.to_dict("records")}
    first, edge = axis.get_xlim()
    for y, line in enumerate(lines):
        row = found.get(line)
        if line[1] is None:
            axis.axhspan(y - 0.5, y + 0.5, facecolor="0.93", edgecolor="none", zorder=0)
        if row is None:
            continue
        color, marker = _LOOKS.get(row["outcome"], _OTHER)
        filled = row["outcome"] in _LOOKS
        if not first <= row["effect"] <= edge and math.isfinite(row["effect"]):
            left = row["effect"] < first
            x, marker, aligned = (first, "<", "left") if left else (edge, ">", "right")
            axis.plot([x], [y], marker, color=color, markersize=3.5, clip_on=False, zorder=4)
            place: dict[str, Any] = {"textcoords": "offset points", "ha": aligned, "va": "center"}
            axis.annotate(f"{row['effect']:.2g}", (x, y), (5 if left else -5, 0), fontsize=5.5, **place)
        elif math.isfinite(row["effect"]):
            error = np.nan_to_num(row["effect_err"])
            below = min(error, 0.999 * row["effect"])
            axis.errorbar(
                [row["effect"]],
                [y],
                xerr=[[below], [error]],
                color=color,
                marker=marker,
                markersize=3.2,
                markerfacecolor=color if filled else "white",
                markeredgewidth=0.7,
                elinewidth=0.7,
                linestyle="none",
                zorder=3,
            )
        elif row["outcome"] == "diverged":
            axis.plot([edge], [y], marker="x", color=VERMILLION, markersize=4, clip_on=False, zorder=4)
        if row["n_diverged"]:
            lost = f"{row['n_diverged']:.0f}/{row['n_trained']:.0f}"
            axis.annotate(
                lost, (edge, y), (-5, 0), textcoords="offset points", ha="right", va="center", fontsize=5.5
            )
    axis.set_ylim(rows - 0.5, -0.5)
    axis.set_yticks([])
    axis.tick_params(axis="x", labelsize=6.5)


def _name(axis: Axes, table: pd.DataFrame, lines: list[tuple[str, str | None]], size: float) -> None:
    """Write the names of studies, their references and their values at the left of a panel."""
    references = table.groupby("study")["reference"].unique()
    texts = []
    for study, value in lines:
        beside = references[study][0] if len(references[study]) == 1 else "each its own"
        heading = f"{study.replace('_', ' ')} ({beside})"
        texts.append(_short(heading if value is None else value))
    axis.set_yticks(range(len(lines)), texts)
    axis.tick_params(axis="y", length=0, labelsize=size, pad=2)
    for label, (_, value) in zip(axis.get_yticklabels(), lines):
        label.set_fontweight("bold" if value is None else "normal")


def _short(text: str) -> str:
    shorter = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return shorter.replace("$", r"\$")


def _entries(single: bool) -> list[Line2D]:
    """Return the entries of the legend; with `single`, some values have one seed."""
    looks = {
        "helps": _LOOKS[HELPS],
        "hurts": _LOOKS[HURTS],
        f"no difference seen at this precision{', or one seed' if single else ''}": _OTHER,
    }
    entries = [
        Line2D(
            [],
            [],
            color=color,
            marker=marker,
            markersize=3.5,
            markerfacecolor=color if (color, marker) != _OTHER else "white",
            linestyle="none",
            label=label,
        )
        for label, (color, marker) in looks.items()
    ]
    return [*entries, Line2D([], [], color=VERMILLION, marker="x", linestyle="none", label="diverged")]
