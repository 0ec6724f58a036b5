r"""Every number that a paper may quote, as LaTeX macros and as JSON.

The name of a macro has letters only: ``\{Quantity}{Population}{Estimator}{Noise}``. Names are those
of the configuration with a capital for each word, digits are spelled out, and a noise level of 1e-5 is
``SigmaOneEMinusFive``: ``\RmseExpGaussNgmixExpSigmaOneEMinusFive``. If two numbers would have the same name
(``mlp1`` and ``mlp-1`` both give ``MlpOne``), both are spelled character by character. Under the same name,
``numbers.json`` has value, error, unit, and the table, row and column of the number.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pandas as pd

from shearbench.evaluation.rounding import shown
from shearbench.evaluation.study import verdict
from shearbench.paper.latex import escape
from shearbench.paper.tables import combined_accuracy, combined_psf_leakage, combined_shear_bias, level_bounds
from shearbench.studies import Study

_DIGITS = dict(zip("0123456789", "Zero One Two Three Four Five Six Seven Eight Nine".split()))
_CHARACTERS = {**_DIGITS, "-": "Dash", "_": "Underscore", ".": "Point", " ": "Space"}
_ACCURACY = {  # quantity in the macro: column, column of its error, unit
    "Rmse": ("rmse", "rmse_err", "reduced shear"),
    "RmseOverBound": ("rmse_over_crb", "rmse_over_crb_err", ""),
    "Scatter": ("scatter", None, "reduced shear"),
    "MedianAbs": ("median_abs", None, "reduced shear"),
    "Coverage": ("coverage68", None, ""),
    "Failed": ("n_failed", None, "galaxies"),
    "SecondsPerStamp": ("seconds_per_stamp", None, "s"),
}
_LEVEL = {
    "Snr": ("snr", None, ""),
    "Bound": ("crb", None, "reduced shear"),
    "PriorBound": ("prior_bound", None, "reduced shear"),
}
_BIAS = {
    f"{letter.upper()}{digit}": (f"{letter}{i}", f"{letter}{i}_err", "" if letter == "m" else "reduced shear")
    for letter in "mc"
    for i, digit in ((1, "One"), (2, "Two"))
}
_LEAKAGE = {f"Alpha{digit}": (f"alpha{i}", f"alpha{i}_err", "") for i, digit in ((1, "One"), (2, "Two"))}
_SURVEY = {
    "ShapeNoise": ("shape_noise", "shape_noise_err", "reduced shear"),
    "EffectiveNumber": ("n_eff", "n_eff_err", ""),
}
_PREFIXES = {"none": "Raw", "response": "Calibrated", "simulated": "Simulated"}
_COST = {
    "Rate": ("stamps_per_second", None, "1/s"),
    "Seconds": ("seconds", None, "s"),
    "PeakMb": ("peak_mb", None, "MB"),
}
_COUNTS = ("n_failed", "peak_mb")


@dataclass(frozen=True)
class Number:
    """One number that a paper may quote, or the verdict of a study in words.

    Attributes
    ----------
    key : tuple
        Quantity, then names of the configuration and noise levels.
    value : float or str or None
        None if there is no finite value.
    error : float or None
    text : str
        LaTeX text: rounded; in math mode if it is a number.
    unit : str
        Empty for a pure number.
    source : dict
        ``table``, ``column``, and the keys of the row.
    """

    key: tuple[Any, ...]
    value: float | str | None
    error: float | None
    text: str
    unit: str
    source: dict[str, Any] = field(default_factory=dict)


def collect_numbers(
    accuracy: pd.DataFrame,
    shear_bias: pd.DataFrame,
    psf_leakage: pd.DataFrame,
    throughput: pd.DataFrame,
    studies: Iterable[tuple[Study, pd.DataFrame]] = (),
) -> list[Number]:
    """Return every quotable number of a run.

    Parameters
    ----------
    accuracy, shear_bias, psf_leakage, throughput : pandas.DataFrame
        The metrics tables. Seeds of a network are combined.
    studies : iterable of (Study, DataFrame)
        Each study with its table (`shearbench.evaluation.study.study_table`).

    Returns
    -------
    list of Number
        All keys are different.

    Raises
    ------
    ValueError
        A table has two rows for the same number.
    """
    found: list[Number] = []
    for row in level_bounds(accuracy).to_dict("records"):
        found += _numbers(_LEVEL, row, "metrics/accuracy.csv", ("population", "noise"))
    for row in combined_accuracy(accuracy).to_dict("records"):
        found += _numbers(_ACCURACY, row, "metrics/accuracy.csv", ("population", "estimator", "noise"))
    biases = combined_shear_bias(shear_bias)
    for table, quantities, path in (
        (biases, _BIAS, "metrics/shear_bias.csv"),
        (biases[biases["calibration"] == "response"], _SURVEY, "metrics/shear_bias.csv"),
        (combined_psf_leakage(psf_leakage), _LEAKAGE, "metrics/psf_leakage.csv"),
    ):
        for row in table.to_dict("records"):
            prefix = _PREFIXES[row["calibration"]]
            keys = ("population", "estimator", "noise")
            found += _numbers(quantities, row, path, keys, prefix, {"calibration": row["calibration"]})
    for row in throughput.to_dict("records"):
        found += _numbers(_COST, row, "metrics/throughput.csv", ("stage", "population", "name"))
    for study, table in studies:
        found += _study_numbers(study, table)
    twice = [key for key, uses in Counter(item.key for item in found).items() if uses > 1]
    if twice:
        raise ValueError(f"the metrics have {len(twice)} numbers twice, such as {twice[0]}")
    return found


def macro_names(keys: Iterable[tuple[Any, ...]]) -> dict[tuple[Any, ...], str]:
    """Return the name of each number's macro, of letters only; all names are different.

    Parameters
    ----------
    keys : iterable of tuple
        A quantity, then names and noise levels (`Number.key`).

    Returns
    -------
    dict of tuple to str
        A capital for each word, digits spelled out. If two keys, or a key and an exact name, would have the
        same name, each of them gets its exact name.
    """
    keys = list(dict.fromkeys(keys))
    plain = {key: _plain_name(key) for key in keys}
    uses = Counter([*plain.values(), *map(_exact_name, keys)])
    return {key: name if uses[name] == 1 else _exact_name(key) for key, name in plain.items()}


def _plain_name(key: tuple[Any, ...]) -> str:
    """Return a key with a capital for each word; easy to read, but two keys may have the same name."""
    name = ""
    for part in key:
        if isinstance(part, float):
            exact = Decimal(f"{part:.6g}").normalize()
            mantissa = exact.scaleb(-exact.adjusted())
            part = f"sigma {mantissa:f} E {exact.adjusted()}".replace("-", "minus ").replace(".", " point ")
        for word in re.findall(r"[A-Za-z]+|[0-9]", str(part)):
            name += _DIGITS.get(word) or word[0].upper() + word[1:]
    return name


def _exact_name(key: tuple[Any, ...]) -> str:
    """Return a key spelled unambiguously: each character but a small letter is a word with a capital."""
    spelled = []
    for part in key:
        text = repr(part) if isinstance(part, float) else str(part)
        spelled.append("".join(map(_spelled, text)))
    return "Exact" + "Then".join(spelled)


def _spelled(char: str) -> str:
    if "a" <= char <= "z":
        return char
    if "A" <= char <= "Z":
        return f"Capital{char.lower()}"
    if char in _CHARACTERS:
        return _CHARACTERS[char]
    return "".join(["Code", *(_DIGITS[digit] for digit in str(ord(char))), "End"])


def _numbers(
    quantities: Mapping[str, tuple[str, str | None, str]],
    row: dict[Any, Any],
    table: str,
    keys: tuple[str, ...],
    prefix: str = "",
    more: Mapping[str, Any] | None = None,
) -> list[Number]:
    source = {"table": table, **{key: row[key] for key in keys}, **(more or {})}
    if "n_seeds" in row:
        source["seeds"] = int(row["n_seeds"])
    found = []
    for quantity, (column, error_column, unit) in quantities.items():
        value = float(row[column])
        error = float(row[error_column]) if error_column else math.nan
        number = (prefix + quantity, *[row[key] for key in keys])
        text = (
            f"{value:.0f}" if column in _COUNTS and math.isfinite(value) else shown(value, error, latex=True)
        )
        found.append(
            Number(number, _finite(value), _finite(error), text, unit, {**source, "column": column}),
        )
    return found


def _study_numbers(study: Study, table: pd.DataFrame) -> list[Number]:
    path = f"metrics/studies/{study.name}.csv"
    words = verdict(study, table)
    found = [Number(("Verdict", study.name), words, None, escape(words), "", {"table": path})]
    for row in table[table["judged"]].to_dict("records"):
        source = {"table": path, "value": row["value"], "noise": row["noise"]}
        for quantity, column, error_column in (
            ("StudyRatio", "rmse_over_crb", "rmse_over_crb_err"),
            ("StudyFactor", "factor", "factor_err"),
        ):
            value, error = float(row[column]), float(row[error_column])
            text = shown(value, error, latex=True)
            key = (quantity, study.name, row["value"], float(row["noise"]))
            found.append(Number(key, _finite(value), _finite(error), text, "", {**source, "column": column}))
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def numbers_json(numbers: Iterable[Number]) -> str:
    """Return ``paper/numbers.json``: for each macro its value, error, printed text, unit and source."""
    numbers = list(numbers)
    names = macro_names(item.key for item in numbers)
    content = {
        names[item.key]: {
            "value": item.value,
            "error": item.error,
            "text": item.text,
            "unit": item.unit,
            "source": item.source,
        }
        for item in numbers
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def macros_tex(numbers: Iterable[Number]) -> str:
    """Return ``paper/macros.tex``: one macro for each number."""
    lines = [
        "% Made from metrics/*.csv; see numbers.json for the value, error, unit and source of each.",
        r"% \{Quantity}{Population}{Estimator}{Noise}: a capital for each word, digits spelled out;",
        r"% 1e-5 is SigmaOneEMinusFive. Quantities: Rmse, RmseOverBound, Scatter, MedianAbs, Coverage,",
        r"% Failed, SecondsPerStamp; {Raw,Calibrated}{MOne,MTwo,COne,CTwo,AlphaOne,AlphaTwo};",
        r"% Calibrated{ShapeNoise,EffectiveNumber}. Of a population at a noise level: Snr, Bound,",
        r"% PriorBound. Of a stage: {Rate,Seconds,PeakMb}{Stage}{Population}{Name}. Of a study:",
        r"% Verdict{Study}, {StudyRatio,StudyFactor}{Study}{Value}{Noise}. A missing value prints as --.",
        "% If two names would be equal (of mlp1 and mlp-1), both are Exact, then each character spelled out.",
    ]
    numbers = list(numbers)
    names = macro_names(item.key for item in numbers)
    for item in numbers:
        text = item.text if isinstance(item.value, str) else rf"\ensuremath{{{item.text}}}"
        if item.value is None:
            text = "--"
        lines.append(rf"\newcommand{{\{names[item.key]}}}{{{text}}}")
    return "\n".join(lines) + "\n"
