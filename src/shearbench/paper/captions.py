"""Captions of the figures in the paper: the caption of the entry, followed by the data of this run."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from shearbench.evaluation.rounding import shown


def caption(text: str, reads: Sequence[str], accuracy: pd.DataFrame, shear_bias: pd.DataFrame) -> str:
    """Return the caption of a figure, in plain text.

    Parameters
    ----------
    text : str
        The caption of the figure's entry, in reStructuredText.
    reads : sequence of str
        The metrics that the figure reads (`shearbench.figures.catalogue.Entry`). They determine which numbers
        of galaxies, noise levels and errors of this run the caption quotes.
    accuracy, shear_bias : pandas.DataFrame
        The metrics tables.

    Returns
    -------
    str
    """
    parts = [plain(text)]
    ensembles = _ensembles(accuracy, shear_bias)
    if "accuracy.csv" in reads:
        parts.append(f"Measured on {_where(accuracy)}.")
        if ensembles:
            parts.append(f"Not shown, because they measure the shear of ensembles only: {ensembles}.")
    if {"residuals.parquet", "trends.csv"} & {*reads} and len(accuracy):
        parts.append(f"The lowest noise is sigma = {accuracy['noise'].min():g}.")
    if "shear_bias.csv" in reads:
        parts.append(_shear_bias(shear_bias, ensembles))
    return " ".join(parts)


def plain(text: str) -> str:
    """Return a paragraph of reStructuredText without its markup and line breaks."""
    without = re.sub(r"\*\*|``", "", text).replace("\\|", "|")
    return re.sub(r"(?<!\w)\*(\w+)\*(?!\w)", r"\1", " ".join(without.split()))


def _where(accuracy: pd.DataFrame) -> str:
    parts = []
    for population, rows in accuracy.groupby("population", sort=False):
        snr = rows.groupby("noise")["snr"].median()
        spans = " to ".join(dict.fromkeys((f"{snr.max():.3g}", f"{snr.min():.3g}")))
        parts.append(f"{rows['n'].max()} test galaxies of {population} (median S/N {spans})")
    return ", ".join(parts) or "no test galaxies"


def _ensembles(accuracy: pd.DataFrame, shear_bias: pd.DataFrame) -> str:
    """Return the labels of the estimators without shapes of single galaxies."""
    rows = shear_bias[~shear_bias["estimator"].isin(accuracy["estimator"])]
    return ", ".join(dict.fromkeys(rows["label"]))


def _shear_bias(table: pd.DataFrame, ensembles: str) -> str:
    """Return on how many galaxies m was measured, and its errors."""
    text = ""
    if ensembles:
        text = f"Calibrated by a response that they measure themselves: {ensembles}. "
    judged = table[table["n_pairs"] > 0]
    if judged.empty:
        return text + "No estimator has a result."
    parts = []
    for (population, noise), rows in judged.groupby(["population", "noise"], sort=True):
        raw = rows[rows["calibration"] == "none"].dropna(subset=["m1_err", "m2_err"])
        if len(raw):
            errors = raw[["m1_err", "m2_err"]].max(axis=1)
            least, most = (shown(float(error), digits=2) for error in (errors.min(), errors.max()))
            best = raw["label"].iloc[int(errors.to_numpy().argmin())]
            fewest, galaxies = raw["n_pairs"].min(), raw["n_pairs"].max()
            parts.append(
                f"{galaxies} galaxies of {population} at sigma = {noise:g}"
                + (f" ({fewest} for the slowest estimator)" if fewest < galaxies else "")
                + f", with an error of m between {least} ({best}) and {most}"
            )
    return f"{text}Measured on {'; '.join(parts)}. A galaxy is left out if any of its measurements fails."
