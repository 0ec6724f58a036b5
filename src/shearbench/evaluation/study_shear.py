"""The biases m and c of the values of a study: a table, and a verdict in words."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from shearbench.evaluation.rounding import shown
from shearbench.evaluation.statistics import over_seeds
from shearbench.evaluation.study import SIGNIFICANT
from shearbench.studies import Study

_BIASES = ("m1", "m2", "c1", "c2")
STUDY_SHEAR = [
    *"study value network population noise n_seeds n_pairs n_failed".split(),
    *(column for name in _BIASES for column in (name, f"{name}_err")),
]


def study_shear_table(study: Study, networks: Mapping[str, str], biases: pd.DataFrame) -> pd.DataFrame:
    """Return m and c of each value of a study at each noise level of its verdict.

    Parameters
    ----------
    study : Study
    networks : mapping of str to str
        The trained network of each value, by the value's label.
    biases : pandas.DataFrame
        Table of `shearbench.evaluation.shear_bias.shear_bias_table`, with a row for each seed.

    Returns
    -------
    pandas.DataFrame
        The columns `STUDY_SHEAR`, one row per noise level and value. The biases are those without
        calibration, means over the seeds, with errors as of `over_seeds`; NaN if no seed has a result.
        ``n_pairs`` and ``n_failed`` are sums over the seeds.
    """
    plain = biases[biases["calibration"] == "none"]
    rows = []
    for noise in study.levels:
        level = plain[np.isclose(plain["noise"], noise, rtol=1e-9)]
        for label, network in networks.items():
            found = level[level["estimator"] == network]
            row: dict[str, object] = {
                "study": study.name,
                "value": label,
                "network": network,
                "population": study.population,
                "noise": noise,
                "n_seeds": int(np.isfinite(found["m1"]).sum()),
                "n_pairs": int(found["n_pairs"].sum()),
                "n_failed": int(found["n_failed"].sum()),
            }
            for name in _BIASES:
                row[name], row[f"{name}_err"] = over_seeds(
                    found[name].tolist(), found[f"{name}_err"].tolist()
                )
            rows.append(row)
    return pd.DataFrame(rows, columns=STUDY_SHEAR)


def shear_verdict(study: Study, table: pd.DataFrame) -> str:
    """Return sentences on the biases of a study, computed from the table of `study_shear_table`.

    For each noise level: the values with a bias of `SIGNIFICANT` standard deviations or more, the values
    without one, and the values whose bias differs from that of their reference.
    """
    sentences = []
    for noise in study.levels:
        level = table[np.isclose(table["noise"], noise, rtol=1e-9)]
        biased, clean, missing = [], [], []
        for _, row in level.iterrows():
            clear = [n for n in _BIASES if abs(row[n]) >= SIGNIFICANT * row[f"{n}_err"]]
            if row["n_seeds"] == 0 or not math.isfinite(row["m1_err"]):
                missing.append(str(row["value"]))
            elif clear:
                parts = [f"{n} = {shown(row[n], row[f'{n}_err'])}" for n in clear]
                biased.append(f"{row['value']} ({', '.join(parts)})")
            else:
                clean.append(str(row["value"]))
        where = f"At sigma = {noise:g} on {study.population}, without calibration,"
        if biased:
            sentences.append(
                f"{where} biases of {SIGNIFICANT:g} sigma or more are seen for {'; '.join(biased)}."
            )
        if clean:
            sentences.append(f"{where} no bias is seen for {', '.join(clean)}.")
        if missing:
            sentences.append(f"{where} there is no result for {', '.join(missing)}.")
        if different := _beside_references(study, level):
            sentences.append(
                f"Beside their references, a difference of {SIGNIFICANT:g} sigma or more is seen for "
                f"{'; '.join(different)}."
            )
        elif len(biased) + len(clean) > 1:
            sentences.append("Beside their references, no difference is seen.")
    return " ".join(sentences)


def _beside_references(study: Study, level: pd.DataFrame) -> list[str]:
    """Return the values whose m or c differs from that of their reference, in words.

    The errors of both are added in quadrature, which is too much, because the galaxies are the same.
    """
    rows = {row["value"]: row for row in level.to_dict("records") if math.isfinite(row["m1_err"])}
    parts = []
    for label, row in rows.items():
        other = rows.get(study.reference_of(label))
        if other is None or other["network"] == row["network"]:
            continue
        differences = {
            n: (row[n] - other[n], math.hypot(row[f"{n}_err"], other[f"{n}_err"])) for n in _BIASES
        }
        clear = [
            f"{n} by {shown(difference, error)}"
            for n, (difference, error) in differences.items()
            if abs(difference) > SIGNIFICANT * error
        ]
        if clear:
            parts.append(f"{label} ({', '.join(clear)})")
    return parts
