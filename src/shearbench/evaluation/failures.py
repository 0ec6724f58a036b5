"""Estimators that fail on most galaxies, for a message at the end of a run, in tables and in figures.

This module needs the standard library only: the workflow uses it where other packages are not installed.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Failing(NamedTuple):
    """An estimator that fails on more than half of the galaxies at one noise level."""

    population: str
    noise: float
    estimator: str
    label: str
    n_failed: int
    n: int


def failing(rows: Iterable[Mapping[Any, Any]]) -> list[Failing]:
    """Return the estimators that fail on more than half of the galaxies, for each population and noise level.

    Parameters
    ----------
    rows : iterable of mapping
        Rows of ``metrics/accuracy.csv``, whose ``n_failed`` galaxies of ``n`` are flagged, or of
        ``metrics/shear_bias.csv``, whose ``n_failed`` base galaxies are left out beside ``n_pairs`` used.
        The numbers of all seeds of a network are added. Of rows that differ only in calibration, the first is
        used.

    Returns
    -------
    list of Failing
        In the order of the rows.
    """
    counted: dict[tuple[str, float, str, str], dict[str, tuple[int, int]]] = {}
    for row in rows:
        key = (str(row["population"]), float(row["noise"]), str(row["estimator"]), str(row["label"]))
        n_failed = int(float(row["n_failed"]))
        n = int(float(row["n"])) if "n" in row else n_failed + int(float(row["n_pairs"]))
        counted.setdefault(key, {}).setdefault(str(row["seed"]), (n_failed, n))
    found = []
    for key, seeds in counted.items():
        n_failed, n = (sum(numbers) for numbers in zip(*seeds.values()))
        if 2 * n_failed > n:
            found.append(Failing(*key, n_failed, n))
    return found


def sentences(found: Iterable[Failing], galaxies: str = "galaxies") -> list[str]:
    """Return a sentence for each estimator and population that fail.

    Parameters
    ----------
    found : iterable of Failing
    galaxies : str
        Noun for the counted galaxies in the sentence.
    """
    levels: dict[tuple[str, str], list[str]] = {}
    for one in found:
        counts = f"{one.n_failed} of {one.n} at noise {one.noise:g}"
        levels.setdefault((one.label, one.population), []).append(counts)
    return [
        f"{label} fails on most {galaxies} of {population}: {', '.join(counts)}"
        for (label, population), counts in levels.items()
    ]


def sentences_of_run(metrics: str | os.PathLike[str]) -> list[str]:
    """Return a sentence for each estimator that fails on most galaxies of a run.

    Parameters
    ----------
    metrics : path-like
        The folder ``metrics`` of the run. A table that does not exist is ignored.
    """
    said = []
    for name, galaxies in (("accuracy", "test galaxies"), ("shear_bias", "galaxies of the shear test")):
        path = os.path.join(metrics, f"{name}.csv")
        if os.path.exists(path):
            with open(path, encoding="utf-8", newline="") as file:
                said += sentences(failing(csv.DictReader(file)), galaxies)
    return said
