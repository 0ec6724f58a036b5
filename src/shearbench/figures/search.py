"""The trials of a search of hyper-parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from shearbench.figures.axes import log_limits, positive
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import legend_below, legend_height
from shearbench.figures.style import BLUE, DOUBLE, ORANGE, SINGLE, VERMILLION, styled

ENTRY = Entry(
    category="C. Searches",
    caption="""\
**The trials of a search.** Left: validation loss of each trial (the geometric mean over the noise levels of
the RMSE of g, over the standard deviation of the true g), of the best epoch; of trials that ended early, the
lowest until then. Line: the lowest of all complete trials so far. Right: how much each option matters among
the best trials (PED-ANOVA, Watanabe et al. 2023, arXiv:2304.10255), in fractions of the sum; missing with
fewer than 4 complete trials.""",
    reads=("searches/{search}/trials.csv", "searches/{search}/importances.csv"),
    each="search",
)

_LOOKS: dict[str, dict[str, Any]] = {
    "complete": {"color": BLUE, "marker": "o"},
    "pruned": {"color": ORANGE, "marker": "v", "markerfacecolor": "white"},
    "diverged": {"color": VERMILLION, "marker": "x"},
    "killed": {"color": "0.6", "marker": "+"},
}


@styled
def draw(trials: pd.DataFrame, importances: pd.DataFrame) -> Figure:
    """Draw validation loss against trial, and the importance of each option.

    Parameters
    ----------
    trials, importances : pandas.DataFrame
        Tables of `shearbench.training.trials`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    shown = trials[np.isfinite(trials["validation_loss"])]
    states = [state for state in _LOOKS if (shown["state"] == state).any()]
    entries = [
        Line2D([], [], linestyle="none", markersize=4, label=f"{state} ({int(n)})", **_LOOKS[state])
        for state in states
        for n in [(shown["state"] == state).sum()]
    ]
    entries.append(Line2D([], [], color="black", linewidth=0.9, label="lowest so far"))
    width = SINGLE if importances.empty else DOUBLE
    figure = Figure(figsize=(width, 2.2 + legend_height(entries, width)), layout="constrained")
    ratios = [1] if importances.empty else [3, 2]
    left, *others = figure.subplots(1, len(ratios), width_ratios=ratios, squeeze=False)[0]
    for state in states:
        rows = shown[shown["state"] == state]
        look = {"linestyle": "none", "markersize": 4, **_LOOKS[state]}
        left.plot(rows["trial"], rows["validation_loss"], **look)
    complete = shown[shown["state"] == "complete"].sort_values("trial")
    if len(complete):
        lowest = complete["validation_loss"].cummin().tolist()
        ends = [*complete["trial"], trials["trial"].max()]
        left.step(ends, [*lowest, lowest[-1]], where="post", color="black", linewidth=0.9, zorder=1)
    if positive(shown["validation_loss"]).size:
        log_limits(left, "y", shown["validation_loss"], pad=0.1)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_xlabel("trial")
    left.set_ylabel("validation loss")
    ordered = importances.sort_values("importance")
    for right in others:
        right.barh(ordered["option"], ordered["importance"], color=BLUE, height=0.6)
        right.set_xlim(0, None)
        right.set_xlabel("importance")
        right.tick_params(axis="y", length=0)
    legend_below(figure, entries)
    return figure
