"""Heat map of networks on the populations that they were trained on, and on others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from shearbench.evaluation.statistics import combine_seeds
from shearbench.figures.axes import positive
from shearbench.figures.catalogue import Entry
from shearbench.figures.style import DOUBLE, exact, styled, wrapped

ENTRY = Entry(
    category="3. Shear bias",
    caption="""\
**Trained on one population, judged on another**: RMSE over the Cramér–Rao bound of each network (row of
panels) at each noise level σ (column), for the population that it was trained on (vertical) and the one
that it measures (horizontal). Framed: both are the same. All other cells are out of distribution: the
network has not seen such galaxies or PSFs. Below each ratio: multiplicative bias m, mean of both
components, after calibration by the response on the population of the training; where it is below twice
its error, that limit. Means over training seeds; errors are in the table.""",
    reads=("judged.csv",),
)


@styled
def draw(judged: pd.DataFrame) -> Figure:
    """Draw the matrix of populations for each network and noise level.

    Parameters
    ----------
    judged : pandas.DataFrame
        ``metrics/judged.csv``.

    Returns
    -------
    matplotlib.figure.Figure
        Rows: networks; columns: noise levels.
    """
    keys = ["trained_on", "population", "noise", "estimator", "label"]
    table = combine_seeds(
        judged, keys, {name: f"{name}_err" for name in ("rmse_over_crb", "m1", "m2")}, sums=["n"]
    )
    names = [str(name) for name in table["estimator"].drop_duplicates()]
    levels = sorted(table["noise"].unique())
    judges = [str(name) for name in table["population"].drop_duplicates()]
    trained = list(dict.fromkeys([*judges, *table["trained_on"]]))
    rows, columns = max(len(names), 1), max(len(levels), 1)
    height = 0.9 + rows * (0.35 + 0.42 * len(trained))
    figure = Figure(figsize=(DOUBLE, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    ratios = positive(table["rmse_over_crb"])
    low, high = (ratios.min(), ratios.max()) if ratios.size else (1.0, 10.0)
    norm = LogNorm(low, max(high, 1.01 * low))
    for line, name in zip(axes, names):
        for axis, level in zip(line, levels):
            part = table[(table["estimator"] == name) & (table["noise"] == level)]
            image = np.full((len(trained), len(judges)), np.nan)
            for cell in part.to_dict("records"):
                i, j = trained.index(str(cell["trained_on"])), judges.index(str(cell["population"]))
                image[i, j] = ratio = float(cell["rmse_over_crb"])
                text = "no result" if not np.isfinite(ratio) else f"{ratio:.3g}"
                text += _bias(cell)
                dark = np.isfinite(ratio) and norm(max(ratio, low)) > 0.5
                axis.text(j, i, text, ha="center", va="center", fontsize=6, color="w" if dark else "k")
                if i == j:
                    axis.add_patch(Rectangle((j - 0.48, i - 0.46), 0.96, 0.92, fill=False, linewidth=1.2))
            axis.imshow(image, norm=norm, cmap="Blues", aspect="auto")
            axis.set_title(rf"{part['label'].iloc[0] if len(part) else name}, $\sigma$ = {exact(level)}")
            axis.set_xticks(range(len(judges)), [wrapped(one, 14) for one in judges])
            axis.set_yticks(range(len(trained)), [wrapped(one, 14) for one in trained])
            axis.tick_params(length=0, labelsize=6.5)
        line[0].set_ylabel("trained on")
    for axis in axes[-1]:
        axis.set_xlabel("judged on")
    bar = figure.colorbar(ScalarMappable(norm, "Blues"), ax=axes, location="bottom", fraction=0.03, aspect=60)
    bar.set_label("RMSE / Cramér–Rao bound")
    figure.suptitle(
        "framed: the same population; all others: out of distribution", fontsize=8.5, x=0.01, ha="left"
    )
    return figure


def _bias(cell: Mapping[Any, Any]) -> str:
    """Return m of both components as a line of a cell, or the limit of an m that is not detected."""
    m, limit = (cell["m1"] + cell["m2"]) / 2, float(np.hypot(cell["m1_err"], cell["m2_err"]))
    if not np.isfinite(m):
        return ""
    return f"\n$|m|$ < {limit:.1g}" if abs(m) < limit else f"\n$m$ = {m:.1g}"
