"""The summary of all studies: the effect of each value beside the reference of its study."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from shearbench.studies import Study

SUMMARY = (
    "study value reference population noise n_trained n_seeds n_diverged effect effect_err p q outcome "
    "seeds_needed"
).split()
FALSE_DISCOVERIES = 0.05
"""Expected fraction of the differences reported that are none, at most."""

SAME = 0.1
"""Largest effect, as a fraction of the RMSE, of a value that makes no difference."""

HELPS, HURTS, NO_DIFFERENCE = "helps", "hurts", "no difference seen at this precision"
OUTCOMES = (HELPS, HURTS, NO_DIFFERENCE, "diverged", "one seed", "same network", "no result")
"""The outcomes of a comparison, in the column ``outcome``."""


def summary(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Return the effect of each value of all studies at the judged noise levels.

    Parameters
    ----------
    tables : iterable of pandas.DataFrame
        The table of each study (`shearbench.evaluation.study.study_table`).

    Returns
    -------
    pandas.DataFrame
        The columns `SUMMARY`, a row for each value other than the reference of its study and each judged
        noise level, sorted by noise level and effect, rows without an effect last. ``effect`` is the RMSE
        divided by that of the value ``reference``, with its error ``effect_err``: below 1 the value helps.
        ``p`` is the two-sided probability of the difference, ``q`` the same adjusted by Benjamini and
        Hochberg (1995, J. R. Stat. Soc. B 57, 289) for all comparisons in the table, so that of the values
        with q below `FALSE_DISCOVERIES` that fraction at most is expected to make no difference.
        ``outcome`` is one of `OUTCOMES`: without a second seed of both, nothing can be said. ``seeds_needed``
        is the number of seeds at which the same difference would have three sigma, see
        `shearbench.evaluation.study.study_table`.
    """
    rows = pd.concat([table[table["judged"]] for table in tables], ignore_index=True)
    rows = rows[rows["value"] != rows["reference"]].reset_index(drop=True)
    names = {"effect_p": "p", "effect_seeds_needed": "seeds_needed"}
    rows = rows.drop(columns=list(names.values()), errors="ignore").rename(columns=names)
    p = rows["p"].to_numpy(float)
    rows["q"] = np.nan
    usable = np.isfinite(p)
    if usable.any():
        rows.loc[usable, "q"] = stats.false_discovery_control(p[usable])
    rows["outcome"] = [_outcome(row) for row in rows.to_dict("records")]
    return rows.sort_values(["noise", "effect", "study", "value"], kind="stable", ignore_index=True)[SUMMARY]


def _outcome(row: Mapping[Hashable, Any]) -> str:
    if row["effect"] == 1 and math.isnan(row["effect_err"]):
        return "same network"
    if row["n_seeds"] == 0 and row["n_diverged"]:
        return "diverged"
    if not math.isfinite(row["effect"]):
        return "no result"
    if not math.isfinite(row["q"]):
        return "one seed"
    if row["q"] < FALSE_DISCOVERIES:
        return HELPS if row["effect"] < 1 else HURTS
    return NO_DIFFERENCE


def in_words(row: dict[str, object]) -> str:
    """Return the outcome of a row of `summary` in words, with the trainings that diverged."""
    outcome, diverged = str(row["outcome"]), int(str(row["n_diverged"]))
    lost = f"diverged in {diverged} of {row['n_trained']} seeds"
    if outcome == "diverged":
        return lost
    return f"{outcome}, {lost}" if diverged else outcome


def holds(study: Study, effects: pd.DataFrame) -> str:
    """Return whether the belief that a study tests holds at one noise level, in words.

    Parameters
    ----------
    study : Study
        Its ``expects`` says the outcome of each value of which the belief says something.
    effects : pandas.DataFrame
        The rows of `summary` of this study at one noise level.

    Returns
    -------
    str
        "holds" if all these values have the expected outcome, "does not hold" if one or more have the
        opposite and none the expected one, else which have and which have not. A value of which no training
        had a result because all diverged counts as one that hurts. That a value makes no difference holds if
        no difference is seen and its effect is within `SAME` of 1 at 95% confidence.
    """
    if effects.empty:
        return "not judged"
    found = dict(zip(effects["value"], effects["outcome"]))
    most = (effects["effect"] - 1).abs() + 1.96 * effects["effect_err"]
    same = set(effects["value"][(most < SAME) | (effects["outcome"] == "same network")])
    sorted_by: dict[str, list[str]] = {"holds": [], "does not hold": [], "not seen": [], "not judged": []}
    for label, expected in study.expects.items():
        outcome = found.get(label, "no result")
        outcome = HURTS if outcome == "diverged" else outcome
        if outcome == "same network":
            outcome = NO_DIFFERENCE
        if outcome not in (HELPS, HURTS, NO_DIFFERENCE):
            kind = "not judged"
        elif expected == "makes no difference":
            kind = "does not hold" if outcome != NO_DIFFERENCE else "holds" if label in same else "not seen"
        elif outcome == NO_DIFFERENCE:
            kind = "not seen"
        else:
            kind = "holds" if outcome == expected else "does not hold"
        sorted_by[kind].append(label)
    kinds = {kind: labels for kind, labels in sorted_by.items() if labels}
    if not kinds:
        return "not judged"
    if len(kinds) == 1:
        (kind,) = kinds
        return "no difference seen at this precision" if kind == "not seen" else kind
    if "holds" not in kinds and "does not hold" in kinds:
        return "does not hold"
    return "in part: " + "; ".join(
        f"{kind} for {', '.join(map(_quoted, labels))}" for kind, labels in kinds.items()
    )


def _quoted(label: str) -> str:
    return f'"{label}"' if "," in label else label
