"""Legends: the entries of estimators and bounds, and one legend below all panels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from shearbench.evaluation.failures import failing
from shearbench.figures.axes import FLOOR
from shearbench.figures.looks import Look
from shearbench.figures.style import BOUND, SPACING


def failures(table: pd.DataFrame, column: str) -> dict[str, str]:
    """Return a remark for each estimator that fails on all galaxies, or on most at some noise level."""
    good = table[np.isfinite(table[column].astype(float))]
    remarks = {str(name): "no result" for name in set(table["estimator"]) - set(good["estimator"])}
    if "n_failed" in table:
        for one in failing(table.to_dict("records")):
            remarks.setdefault(one.estimator, "fails on most")
    return remarks


def handles(
    found: Mapping[str, Look],
    shown: Iterable[str],
    remarks: Mapping[str, str] | None = None,
    line: bool = True,
) -> list[Line2D]:
    """Return legend entries for the estimators `shown`, each followed by its remark, if any."""
    shown, remarks = set(shown), remarks or {}
    entries = [
        look.handle(f"{look.label} ({remarks[name]})" if name in remarks else None)
        for name, look in found.items()
        if name in shown
    ]
    for entry in entries:
        if not line:
            entry.set_linestyle("none")
    return entries


def _legend_columns(entries: Sequence[Artist], width: float) -> int:
    """Return the largest number of columns that fit into the width; matplotlib fills them one by one."""
    widths = [max(map(len, str(entry.get_label()).split("\n"))) * 0.041 + 0.46 for entry in entries]
    for columns in range(len(entries), 1, -1):
        each, longer = divmod(len(entries), columns)
        sizes = [each + (i < longer) for i in range(columns)]
        ends = np.cumsum(sizes)
        if sum(max(widths[end - size : end]) for size, end in zip(sizes, ends)) <= width:
            return columns
    return 1


def legend_height(entries: Sequence[Artist], width: float) -> float:
    """Return the height of `legend_below`, inches."""
    if not entries:
        return 0.0
    columns = _legend_columns(entries, width)
    rows = math.ceil(len(entries) / columns)
    lines = max(str(entry.get_label()).count("\n") + 1 for entry in entries)
    return 0.06 + 0.14 * rows * (1 if lines == 1 else 0.75 * lines)


def legend_below(figure: Figure, entries: Sequence[Artist]) -> None:
    """Put one legend for all panels below them, in as many columns as fit."""
    if entries:
        columns = _legend_columns(entries, figure.get_figwidth())
        legend = figure.legend(handles=list(entries), loc="outside lower center", ncols=columns)
        for text in legend.get_texts():
            if "\n" in text.get_text():
                text.set_linespacing(SPACING)


def crb_handle() -> Line2D:
    """Return the legend entry of the Cramer-Rao bound."""
    return Line2D([], [], color=BOUND, linewidth=3.5, label="Cramér–Rao bound")


def bound_handles(table: pd.DataFrame) -> list[Artist]:
    """Return the legend entries of the bounds whose columns in a table of metrics have values."""
    prior = Patch(facecolor="0.93", edgecolor="0.35", linestyle=":", label="below prior-limited bound")
    return [
        entry
        for column, entry in (("crb", crb_handle()), ("prior_bound", prior))
        if np.isfinite(table[column].astype(float)).any()
    ]


def floor_handle() -> Artist:
    """Return the legend entry of the Bayes floor."""
    return Line2D([], [], label="Bayes floor", **FLOOR)
