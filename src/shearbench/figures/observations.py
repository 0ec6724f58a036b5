"""Stamps of a user: beside the simulated population, and estimators beside each other."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from shearbench.figures.axes import figure_title, log_limits, note, positive
from shearbench.figures.catalogue import Entry
from shearbench.figures.legends import legend_below, legend_height
from shearbench.figures.looks import Look, looks
from shearbench.figures.style import BLUE, DOUBLE, SPACING, VERMILLION, styled, wrapped

ENTRY = Entry(
    category="9. Your own stamps",
    caption="""\
**Your own stamps**: above, signal-to-noise ratio, flux and size of the galaxies and width of their PSFs, from
adaptive moments, beside those of simulated galaxies of the population that the networks are trained on
(black line), with noise as in the training; right, the distance of each galaxy from the simulated ones, whose
threshold is 1. Galaxies above it, or with noise outside the training's, are out of range (orange). Below
left, the typical difference of the shapes by two estimators, the median of abs(difference) of both components
over 0.6745, of galaxies that neither flags. Below right, the shear of the ensemble by each estimator after
calibration (filled), and the mean shape before it (hollow). Error bars: 1σ of the mean, with the errors of
the calibration.""",
    reads=("observed_galaxies.parquet", "observed_shapes.parquet", "observed_shear.parquet"),
    each="observation",
)

_PANELS = {
    "snr": "signal-to-noise ratio",
    "flux": "flux",
    "size": r"size $\sigma$ [arcsec]",
    "psf_fwhm": "PSF FWHM [arcsec]",
    "distance": "distance / threshold",
}
_OWN = "its own response"  # of an estimator of ensembles, whose single shapes mean nothing


@styled
def draw(galaxies: pd.DataFrame, shapes: pd.DataFrame, shear: pd.DataFrame, observation: str) -> Figure:
    """Draw the properties of a user's galaxies, differences of estimators, and the shear of the ensemble.

    Parameters
    ----------
    galaxies, shapes, shear : pandas.DataFrame
        ``metrics/observed_galaxies.parquet``, ``observed_shapes.parquet``, ``observed_shear.parquet``.
    observation : str
        Name of the stamps.

    Returns
    -------
    matplotlib.figure.Figure
    """
    own = galaxies[galaxies["observation"] == observation]
    data, simulated = own[own["source"] == "data"], own[own["source"] == "simulated"]
    rows = shear[shear["observation"] == observation]
    found = looks(shear)
    names = [
        (name, int(seed))
        for name in found
        for seed in sorted(rows.loc[rows["estimator"] == name, "seed"].unique())
    ]
    labels = [_label(found[name], name, seed, rows) for name, seed in names]
    out = data["out_of_range"].to_numpy(bool)
    entries = [
        Patch(color=BLUE, alpha=0.6, label=f"{int((~out).sum())} galaxies in range"),
        Patch(color=VERMILLION, alpha=0.8, label=f"{int(out.sum())} out of range or not measured"),
        Line2D([], [], color="black", label=f"{len(simulated)} simulated galaxies"),
        Line2D([], [], color="0.3", marker="o", linestyle="none", label="calibrated shear"),
        Line2D(
            [],
            [],
            color="0.3",
            marker="o",
            markerfacecolor="white",
            linestyle="none",
            label="mean shape, not calibrated",
        ),
    ]
    side = max(1.5, 0.27 * len(names))
    height = 1.6 + side + 0.9 + legend_height(entries, DOUBLE)
    figure = Figure(figsize=(DOUBLE, height), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.6, side + 0.7])[:, 0]
    for axis, (name, label) in zip(above.subplots(1, 5), _PANELS.items()):
        _histogram(axis, data[name], None if name == "distance" else simulated[name], out)
        axis.set_xlabel(label)
    matrix, first, second = below.subplots(1, 3, width_ratios=[1.5, 1, 1])
    single = [
        one
        for one in names
        if _of(rows, *one)["calibration"].iloc[0] != _OWN and _of(rows, *one)["n"].iloc[0] > 0
    ]
    _differences(matrix, shapes[shapes["observation"] == observation], single, names, labels)
    for axis, component in ((first, "1"), (second, "2")):
        _shears(axis, rows, names, found, component)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_yticks(range(len(names)), labels if component == "1" else [""] * len(names), fontsize=6.5)
        for text in axis.get_yticklabels():
            text.set_linespacing(SPACING)
        axis.tick_params(axis="y", length=0)
        axis.set_xlabel(rf"$\gamma_{component}$")
    figure_title(figure, observation)
    legend_below(figure, entries)
    return figure


def _of(table: pd.DataFrame, name: str, seed: int) -> pd.DataFrame:
    return table[(table["estimator"] == name) & (table["seed"] == seed)]


def _label(look: Look, name: str, seed: int, rows: pd.DataFrame) -> str:
    several = rows.loc[rows["estimator"] == name, "seed"].nunique() > 1
    return wrapped(f"{look.label}, seed {seed}" if several else look.label, 20)


def _histogram(axis: Axes, values: pd.Series, simulated: pd.Series | None, out: NDArray[np.bool_]) -> None:
    """Draw the distribution of a property, of galaxies in and out of range and of simulated ones."""
    every = positive(np.concatenate([values, [] if simulated is None else simulated]))
    if not every.size:
        note(axis, "no values", "upper left")
        axis.set_yticks([])
        return
    if simulated is None:
        every = np.append(every, 1.0)  # the threshold
    low, high = every.min() / 1.05, every.max() * 1.05
    bins = np.geomspace(low, high, 25).tolist()
    parts = [positive(values[~out]), positive(values[out])]
    n = max(sum(map(len, parts)), 1)
    weights = [np.full(len(part), 1 / n) for part in parts]
    axis.hist(parts, bins, weights=weights, stacked=True, color=[BLUE, VERMILLION], alpha=0.7)
    if simulated is None:
        axis.axvline(1, color="black", linestyle=":", linewidth=0.9)
    else:
        reference = positive(simulated)
        axis.hist(
            reference,
            bins,
            weights=np.full(len(reference), 1 / max(len(reference), 1)),
            histtype="step",
            color="black",
            linewidth=0.9,
        )
    log_limits(axis, "x", [low, high], pad=0.0)
    axis.set_yticks([])


def _differences(
    axis: Axes,
    shapes: pd.DataFrame,
    single: list[tuple[str, int]],
    names: list[tuple[str, int]],
    labels: list[str],
) -> None:
    """Draw the typical difference between the shapes of each pair of estimators."""
    tables = [_of(shapes, *one).set_index("row") for one in single]
    n = len(single)
    values = np.full((n, n), np.nan)
    for i in range(n):
        for j in range(i):
            both = (tables[i]["flag"] == 0) & (tables[j]["flag"] == 0)
            difference = tables[i].loc[both, ["g1", "g2"]] - tables[j].loc[both, ["g1", "g2"]]
            if len(difference):
                values[i, j] = np.median(np.abs(difference.to_numpy(float))) / 0.6745
    shown = positive(values)
    if n < 2 or not shown.size:
        note(axis, "fewer than two estimators to compare", "upper left")
        axis.set_axis_off()
        return
    low, high = shown.min(), max(shown.max(), 1.01 * shown.min())
    # Not the ends of the map, so that colours can be told from the paper and from the axes.
    norm = LogNorm(low / 3, high * 3)
    axis.imshow(values[1:, :-1], cmap="Blues", norm=norm, aspect="auto")
    for i in range(1, n):
        for j in range(i):
            text = f"{values[i, j]:.1e}" if values[i, j] < 1e-3 else f"{values[i, j]:.2g}"
            if np.isfinite(values[i, j]):
                color = "white" if norm(values[i, j]) > 0.6 else "black"
                shown_as = text.replace("e-0", "e-")
                axis.text(j, i - 1, shown_as, ha="center", va="center", fontsize=5.5, color=color)
    own = [labels[names.index(one)] for one in single]
    axis.set_yticks(range(n - 1), own[1:], fontsize=6.5)
    axis.set_xticks(range(n - 1), own[:-1], fontsize=6.5, rotation=40, ha="right", rotation_mode="anchor")
    axis.tick_params(length=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title("typical difference of shapes", loc="left", fontsize="medium")


def _shears(
    axis: Axes, rows: pd.DataFrame, names: list[tuple[str, int]], found: dict[str, Look], component: str
) -> None:
    """Draw the calibrated shear and the mean shape of each estimator, with their errors."""
    axis.axvline(0, color="0.6", linewidth=0.5, zorder=1)
    for i, (name, seed) in enumerate(names):
        row = _of(rows, name, seed).iloc[0]
        look = found[name]
        for value, shift, filled in ((f"g{component}", 0.14, False), (f"shear{component}", -0.14, True)):
            if not np.isfinite(row[value]) or (not filled and row["calibration"] == _OWN):
                continue
            axis.errorbar(
                row[value],
                i + shift,
                xerr=row[f"{value}_err"],
                color=look.color,
                marker="o",
                markersize=3.5,
                markerfacecolor=look.color if filled else "white",
                linestyle="none",
            )
