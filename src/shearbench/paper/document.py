"""A LaTeX document that includes all figures, tables and macros of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from shearbench.paper.latex import escape, power_of_ten


def main_tex(
    run: str,
    figures: Iterable[tuple[str, str]],
    tables: Sequence[str],
    accuracy: pd.DataFrame,
    macros: Mapping[tuple[Any, ...], str],
    studies: Iterable[str] = (),
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
        r"\section{Results}",
        _TERMS,
        *_results(accuracy, macros),
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
    r"Shapes are reduced shear $g$; $\sigma$ is the noise per pixel. S/N is the matched-filter signal-to-"
    r"noise ratio $\sqrt{\sum I^2}/\sigma$ of the noiseless image $I$. A mismatched fit has another model "
    r"than the galaxies. NGMix is the ngmix package; a mixture fit is this project's own fit of the same "
    r"models."
)


def _results(accuracy: pd.DataFrame, macros: Mapping[tuple[Any, ...], str]) -> list[str]:
    """Return a paragraph per population: RMSE over bound of each estimator at lowest and highest noise."""
    lines = []
    for population, rows in accuracy.groupby("population", sort=False):
        lines.append(rf"\paragraph{{{escape(population)}.}}")
        for noise in dict.fromkeys((float(rows["noise"].min()), float(rows["noise"].max()))):
            names = rows.loc[rows["noise"] == noise, ["estimator", "label"]].drop_duplicates("estimator")
            quoted = [
                rf"{escape(label)} \{macros['RmseOverBound', population, estimator, noise]}"
                for estimator, label in names.itertuples(index=False)
            ]
            lines.append(
                rf"At $\sigma$ = {power_of_ten(noise)} (median S/N \{macros['Snr', population, noise]}) "
                rf"the bound is \{macros['Bound', population, noise]}; RMSE over the bound: "
                rf"{', '.join(quoted)}."
            )
    return lines
