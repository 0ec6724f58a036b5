"""Colour, marker and line of each estimator, the same in all figures of a run; means over seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from shearbench.evaluation import statistics
from shearbench.figures.style import BLUE, GREEN, OLIVE, ORANGE, PURPLE, SKY, VERMILLION, WINE, wrapped


@dataclass(frozen=True)
class Look:
    """Colour, marker, line and label of an estimator: the same in all figures of a run."""

    label: str
    color: str
    marker: str
    linestyle: str | tuple[int, tuple[float, ...]] = "-"
    filled: bool = True
    linewidth: float = 1.0
    markersize: float = 4.0
    zorder: float = 3.0

    @property
    def line(self) -> dict[str, Any]:
        """Keyword arguments of ``Axes.plot`` and ``Axes.errorbar`` for a line with markers."""
        return {"linestyle": self.linestyle, "linewidth": self.linewidth, **self.points}

    @property
    def points(self) -> dict[str, Any]:
        """Keyword arguments for markers alone; set ``linestyle`` beside them."""
        return {
            "color": self.color,
            "marker": self.marker,
            "markersize": self.markersize,
            "markerfacecolor": self.color if self.filled else "white",
            "markeredgecolor": self.color,
            "markeredgewidth": 0.8,
            "zorder": self.zorder,
        }

    def handle(self, label: str | None = None) -> Line2D:
        """Return the entry of a legend."""
        return Line2D([], [], label=wrapped(label or self.label), **self.line)


# ngmix and the built-in fit of the same model give nearly the same points. ngmix is drawn large and hollow,
# the built-in fit small and filled, so that both are visible.
_FAMILIES: dict[str, dict[str, Any]] = {
    "ngmix": {"color": "black", "filled": False, "linewidth": 1.8, "markersize": 5.6, "zorder": 2.8},
    "mixture": {"color": BLUE, "linewidth": 0.9, "markersize": 3.0, "zorder": 3.4},
    "hsm": {"color": "0.45", "markersize": 4.2},
}
_FAMILY_MARKERS = {"ngmix": "osDv", "mixture": "osDv", "hsm": "^v<>"}
_NETWORK_COLORS = (VERMILLION, GREEN, PURPLE, ORANGE, SKY, WINE, OLIVE)
_NETWORK_MARKERS = "DvPX<>*hdp8"
_OTHER_COLORS = ("#7F4F24", "#4B5320", "#5D3A9B")
_OTHER_MARKERS = "H1234+x"
_LINES: tuple[str | tuple[int, tuple[float, ...]], ...] = (
    "-",
    (0, (4, 1.5)),
    (0, (1, 1.2)),
    (0, (5, 1.2, 1, 1.2)),
)


def looks(table: pd.DataFrame) -> dict[str, Look]:
    """Return the look of every estimator in a table.

    A family (``kind``) has a fixed colour, and its members get markers and lines in the order of their
    names. Networks (rows with a training seed) get colours and markers in the order of their names. The
    order of the rows has no influence, so all figures of a run agree.

    Parameters
    ----------
    table : pandas.DataFrame
        Column ``estimator``; optional columns ``label``, ``kind``, ``seed``. It must have the rows of all
        panels, not those of one.

    Returns
    -------
    dict of str to Look
        In the order of the legend: ngmix, built-in mixture fits, HSM, others, networks.
    """
    columns = [name for name in ("estimator", "label", "kind", "seed") if name in table]
    rows = table[columns].sort_values(columns).drop_duplicates("estimator", keep="last")
    families: dict[str, list[tuple[str, str]]] = {name: [] for name in (*_FAMILIES, "other", "network")}
    for row in rows.to_dict("records"):
        name, kind = str(row["estimator"]), str(row.get("kind", "network"))
        label = row.get("label")
        label = name if label is None or pd.isna(label) or not str(label).strip() else str(label)
        if kind not in _FAMILIES:
            kind = "network" if kind == "network" or row.get("seed", -1) >= 0 else "other"
        families[kind].append((name, label))
    found: dict[str, Look] = {}
    for family, members in families.items():
        for i, (name, label) in enumerate(members):
            found[name] = _look(family, i, label)
    return found


def _look(family: str, i: int, label: str) -> Look:
    if family in _FAMILIES:
        markers = _FAMILY_MARKERS[family]
        return Look(
            label=label,
            marker=markers[i % len(markers)],
            linestyle=_LINES[i % len(_LINES)],
            **_FAMILIES[family],
        )
    colors = _NETWORK_COLORS if family == "network" else _OTHER_COLORS
    markers = _NETWORK_MARKERS if family == "network" else _OTHER_MARKERS
    cycle = i // len(colors)
    return Look(
        label=label,
        color=colors[i % len(colors)],
        marker=markers[i % len(markers)],
        linestyle=_LINES[cycle % len(_LINES)],
        filled=cycle % 2 == 0,
    )


def over_seeds(table: pd.DataFrame, by: str, value: str, error: str | None = None) -> pd.DataFrame:
    """Average an estimator's rows over its training seeds.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of one estimator.
    by : str
        Column to group the rows by, such as ``"noise"``.
    value : str
        Column to average. Rows where it is not finite are left out.
    error : str, optional
        Column with its standard error (from the finite number of galaxies).

    Returns
    -------
    pandas.DataFrame
        Columns `by`, ``value`` (mean), ``error``, ordered by `by`. The error is that of
        `shearbench.evaluation.statistics.over_seeds`: the scatter of k seeds over sqrt(k), and the error from
        the galaxies, in quadrature.
    """
    good = table[np.isfinite(table[value].astype(float))]
    rows = []
    for key, group in good.groupby(by, sort=True):
        errors = group[error].to_numpy(float) if error is not None else np.zeros(len(group))
        rows.append((key, *statistics.over_seeds(group[value].tolist(), np.nan_to_num(errors).tolist())))
    return pd.DataFrame(rows, columns=[by, "value", "error"])


def populations_of(table: pd.DataFrame) -> list[str]:
    """Return the populations of a table in the order of its rows."""
    return [str(name) for name in table["population"].drop_duplicates()]
