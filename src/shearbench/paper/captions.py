"""Captions of the figures: what they show, and on how much data, computed from the metrics."""

from __future__ import annotations

import pandas as pd

from shearbench.rounding import shown


def captions(accuracy: pd.DataFrame, shear_bias: pd.DataFrame) -> dict[str, str]:
    """Return the caption of each kind of figure, in plain text.

    Parameters
    ----------
    accuracy, shear_bias : pandas.DataFrame
        The metrics tables.

    Returns
    -------
    dict
        Keys are the modules of `shearbench.figures`: accuracy, efficiency, truth, residuals, trends,
        decomposition, shear_bias, training, gallery, cost.
    """
    where = _where(accuracy)
    lowest = "at the lowest noise" + (f", sigma = {accuracy['noise'].min():g}" if len(accuracy) else "")
    bounds = (
        "The Cramer-Rao bound is that of an unbiased fit of all parameters of the galaxy; an estimator that "
        "uses a prior may go below it where noise is high, because it is biased, and the prior-limited bound "
        "is drawn beside it."
    )
    return {
        "accuracy": (
            f"RMSE of the measured shape, per component, against noise per pixel; {where}. {bounds} Error "
            "bars: bootstrap over galaxies and, for networks, the scatter of the seeds."
        ),
        "efficiency": (
            "RMSE over the Cramer-Rao bound of the same galaxies, and the robust width (1.4826 times the "
            f"median absolute residual) over the median bound; {where}. {bounds}"
        ),
        "truth": f"Estimated against true shape {lowest}, for the same galaxies.",
        "residuals": (
            f"Residuals, estimate minus truth, {lowest}, in units of their robust width and in size."
        ),
        "trends": (
            f"Mean residual along the true shape (positive: too elongated) and RMSE {lowest}, in bins of "
            "equal numbers of galaxies."
        ),
        "decomposition": (
            "What the error consists of: offset, slope minus one, and the scatter that is left; they have "
            f"different cures. Measured on {where}."
        ),
        "shear_bias": _shear_bias(shear_bias),
        "training": "Loss and validation RMSE against the stamps seen, each seed by itself.",
        "gallery": "The same galaxies at each noise level, with the fitted model and the residual stamp.",
        "cost": f"RMSE over the Cramer-Rao bound against the time a stamp takes on one core; {where}.",
    }


def _where(accuracy: pd.DataFrame) -> str:
    parts = []
    for population, rows in accuracy.groupby("population", sort=False):
        snr = rows.groupby("noise")["snr"].median()
        spans = " to ".join(dict.fromkeys((f"{snr.max():.3g}", f"{snr.min():.3g}")))
        parts.append(f"{rows['n'].max()} test galaxies of {population} (median S/N {spans})")
    return ", ".join(parts) or "no test galaxies"


def _shear_bias(table: pd.DataFrame) -> str:
    text = (
        "Multiplicative bias m and additive bias c, before and after calibration on other galaxies (or by an "
        "estimator's own response), with bootstrap errors over base galaxies; bands: survey requirements. "
    )
    judged = table[table["n_pairs"] > 0]
    if judged.empty:
        return text + "No estimator has a result."
    parts = []
    for (population, noise), rows in judged.groupby(["population", "noise"], sort=True):
        raw = rows[rows["calibration"] == "none"]
        errors = raw[["m1_err", "m2_err"]].to_numpy().ravel()
        if len(errors):
            best = shown(float(min(errors)), digits=2)
            galaxies = raw["n_pairs"].max()
            parts.append(
                f"{galaxies} galaxies of {population} at sigma = {noise:g} (smallest error of m: {best})"
            )
    return (
        f"{text}Each galaxy appears under +-shear in either component with equal noise, and rotated, so that "
        f"shape and noise cancel: {', '.join(parts)}. A galaxy with any flagged member is left out."
    )
