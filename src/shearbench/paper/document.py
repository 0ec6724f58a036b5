"""A LaTeX document that includes all figures, tables and macros of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from shearbench.paper.latex import escape, power_of_ten
from shearbench.paper.tables import combined_accuracy, combined_shear_bias


def main_tex(
    run: str,
    figures: Iterable[tuple[str, str]],
    tables: Sequence[str],
    accuracy: pd.DataFrame,
    macros: Mapping[tuple[Any, ...], str],
    studies: Iterable[str] = (),
    methods: Sequence[str] = (),
    shear_bias: pd.DataFrame | None = None,
) -> str:
    """Return ``paper/main.tex``, an article that pdflatex compiles in its folder.

    Parameters
    ----------
    run : str
        The run's name.
    figures : iterable of (str, str)
        Path of each figure, relative to the paper's folder, and its caption in plain text.
    tables : sequence of str
        Paths of the tables, relative to the paper's folder.
    accuracy : pandas.DataFrame
        ``metrics/accuracy.csv``; the text quotes its numbers by their macros.
    macros : mapping
        Name of the macro of each number (`shearbench.paper.numbers.macro_names`).
    studies : iterable of str
        Names of the studies whose verdicts the text quotes.
    methods : sequence of str
        Paragraphs in LaTeX on how the run was made (`shearbench.paper.methods.methods_tex`).
    shear_bias : pandas.DataFrame, optional
        ``metrics/shear_bias.csv``; the text quotes m of each estimator by its macro.

    Returns
    -------
    str
    """
    lines = [
        r"\documentclass[a4paper]{article}",
        r"\usepackage[T1]{fontenc}",
        r"\usepackage{textcomp}",
        r"\usepackage[margin=2cm]{geometry}",
        r"\usepackage{amsmath,booktabs,graphicx,longtable}",
        r"\input{macros}",
        rf"\title{{Shear estimators compared: run \texttt{{{escape(run)}}}}}",
        r"\author{}",
        r"\begin{document}",
        r"\maketitle",
        *([r"\section{Methods}"] if methods else []),
        *[line for paragraph in methods for line in (paragraph, "")],
        r"\section{Results}",
        _TERMS,
        *_results(accuracy, macros),
        *([] if shear_bias is None else _bias(accuracy, shear_bias, macros)),
        *[rf"\paragraph{{{escape(name)}.}} \{macros['Verdict', name]}" for name in studies],
        r"\section{Tables}",
        *[rf"\input{{{path}}}" for path in tables],
        r"\clearpage",
        r"\section{Figures}",
    ]
    for path, caption in figures:
        lines += [
            r"\begin{figure}[p]\centering",
            rf"\includegraphics[width=\textwidth,height=0.6\textheight,keepaspectratio]{{{path}}}",
            rf"\caption{{{escape(caption)}}}",
            r"\end{figure}",
            r"\clearpage",
        ]
    return "\n".join([*lines, r"\end{document}", ""])


_TERMS = (
    r"Shapes are reduced shear $g$; $\sigma$ is the noise per pixel. The RMSE is that of a component of $g$, "
    r"over the galaxies that were not flagged; the bound is the Cram\'er--Rao bound. S/N is the matched-"
    r"filter signal-to-noise ratio $\sqrt{\sum I^2}/\sigma$ of the noiseless image $I$. A mismatched fit has "
    r"another model than the galaxies. NGMix is the ngmix package; a mixture fit is this project's own fit "
    r"of the same models."
)


def _results(accuracy: pd.DataFrame, macros: Mapping[tuple[Any, ...], str]) -> list[str]:
    """Return a paragraph per population: RMSE at the highest and the lowest noise, and the change between."""
    lines = []
    for name, rows in combined_accuracy(accuracy).groupby("population", sort=False):
        population = str(name)
        lines.append(rf"\paragraph{{{escape(population)}.}}")
        low, high = float(rows["noise"].min()), float(rows["noise"].max())
        for noise, which in {high: "highest", low: "lowest"}.items():
            lines.append(_level(population, noise, which, rows[rows["noise"] == noise], macros))
        if high > low:
            lines.append(_fall(population, low, high, rows, macros))
    return lines


def _level(
    population: str, noise: float, which: str, rows: pd.DataFrame, macros: Mapping[tuple[Any, ...], str]
) -> str:
    """Return the sentences on one noise level."""
    ordered = rows.sort_values("rmse_over_crb", kind="stable", na_position="last")
    quoted = [
        rf"{escape(label)} \{macros['RmseOverBound', population, estimator, noise]}"
        for estimator, label in ordered[["estimator", "label"]].itertuples(index=False)
    ]
    text = (
        rf"At the {which} noise, $\sigma$ = {power_of_ten(noise)} (median S/N "
        rf"\{macros['Snr', population, noise]}), the bound is \{macros['Bound', population, noise]}. "
        rf"From the smallest to the largest, the RMSE in units of this bound is {'; '.join(quoted)}."
    )
    if (rows["rmse_over_crb"] < 1).any():
        text += (
            " The bound holds for unbiased estimators; those with a ratio below 1 are biased, or within the "
        )
        text += "error of 1."
    if failed := [
        rf"{escape(label)} \{macros['Failed', population, estimator, noise]}"
        for estimator, label, number in rows[["estimator", "label", "n_failed"]].itertuples(index=False)
        if number > 0
    ]:
        text += f" Failed measurements, which are left out: {'; '.join(failed)}."
    return text


def _fall(
    population: str, low: float, high: float, rows: pd.DataFrame, macros: Mapping[tuple[Any, ...], str]
) -> str:
    """Return the sentence on how the RMSE changes from the highest to the lowest noise."""
    at = {noise: set(rows.loc[rows["noise"] == noise, "estimator"]) for noise in (low, high)}
    both = rows.drop_duplicates("estimator")
    both = both[both["estimator"].isin(at[low] & at[high])]
    quoted = [
        rf"from \{macros['Rmse', population, estimator, high]} to "
        rf"\{macros['Rmse', population, estimator, low]} ({escape(label)})"
        for estimator, label in both[["estimator", "label"]].itertuples(index=False)
    ]
    return rf"While the noise falls by a factor of {high / low:g}, the RMSE changes {'; '.join(quoted)}."


def _bias(
    accuracy: pd.DataFrame, shear_bias: pd.DataFrame, macros: Mapping[tuple[Any, ...], str]
) -> list[str]:
    """Return a paragraph on m of each estimator, without and with a calibration on other galaxies."""
    judged = combined_shear_bias(shear_bias)
    judged = judged[judged["n_pairs"] > 0].dropna(subset=["m1"])
    if judged.empty:
        return []
    said = {
        "none": ("Raw", "Without a calibration on other galaxies"),
        "response": ("Calibrated", "With a calibration on other galaxies"),
        "simulated": ("Simulated", "With a calibration on other galaxies instead of their own response"),
    }
    lines = [r"\paragraph{Shear bias.}"]
    keys = ["population", "noise", "calibration"]
    for key in judged[keys].drop_duplicates().itertuples(index=False):
        rows = judged[(judged[keys] == list(key)).all(axis=1)]
        population, noise, calibration = str(key[0]), float(key[1]), str(key[2])
        (prefix, how), at = said[calibration], power_of_ten(noise)
        quoted = [
            rf"\{macros[f'{prefix}MOne', population, estimator, noise]} ({escape(label)})"
            for estimator, label in rows[["estimator", "label"]].itertuples(index=False)
        ]
        lines.append(rf"{how}, $m_1$ in {escape(population)} at $\sigma$ = {at} is {'; '.join(quoted)}.")
    own = judged.loc[~judged["estimator"].isin(accuracy["estimator"]), "label"]
    if len(own):
        names = "; ".join(map(escape, dict.fromkeys(own)))
        lines.append(f"Calibrated in any case, by a response that they measure themselves: {names}.")
    return lines
