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
        decomposition, shear_bias, shear_bias_bins, networks, training, gallery, cost.
    """
    where = _where(accuracy)
    lowest = "at the lowest noise" + (f", sigma = {accuracy['noise'].min():g}" if len(accuracy) else "")
    fair = "Compared are estimates of g of single galaxies."
    if ensembles := _ensembles(accuracy, shear_bias):
        fair += f" What answers for ensembles only ({ensembles}) is in the figure of m and c alone."
    bounds = (
        "The Cramer-Rao bound is that of an unbiased fit of all parameters of the galaxy; an estimator that "
        "uses a prior may go below it where noise is high, because it is biased, and the prior-limited bound "
        "is drawn beside it. Dashed, where it was computed: the Bayes floor, the error of the posterior "
        "mean, which no estimator undercuts on average over the population."
    )
    return {
        "accuracy": (
            f"RMSE of the measured shape, per component, against noise per pixel; {where}. {fair} {bounds} "
            "Error bars: bootstrap over galaxies and, for networks, the scatter of the seeds."
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
        "shear_bias": _shear_bias(shear_bias, ensembles),
        "shear_bias_bins": (
            "Multiplicative bias, mean of both components, of galaxies weighted by what was observed of "
            "them: the estimator's own error of each stamp, in four overlapping bins of equal numbers, and "
            "of all galaxies. Uncalibrated; divided by the response of all galaxies; divided by the response "
            "at that observed error. Responses are those of other galaxies than are judged, and hold what "
            "the shear does to the weights."
        ),
        "networks": (
            "The networks, layer by layer: the height of a layer is the side of its image, its width and "
            "number are its channels. Parameters; floating-point operations of convolutions and matrix "
            "products for a stamp whose shape is measured; and the pixels across that one feature before the "
            "dense layers depends on, measured by its gradient, which ends at the stamp's edges (dotted)."
        ),
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


def _ensembles(accuracy: pd.DataFrame, shear_bias: pd.DataFrame) -> str:
    """Return the labels of the estimators without shapes of single galaxies."""
    rows = shear_bias[~shear_bias["estimator"].isin(accuracy["estimator"])]
    return ", ".join(dict.fromkeys(rows["label"]))


def _shear_bias(table: pd.DataFrame, ensembles: str) -> str:
    text = (
        "Multiplicative bias m and additive bias c, before and after calibration on other galaxies (or by an "
        "estimator's own response), with bootstrap errors over base galaxies; bands: survey requirements. "
    )
    if ensembles:
        text += (
            f"{ensembles}: calibrated by a response of their own, measured on the galaxies that are judged; "
            "before that they are ellipticities of arbitrary scale, whose m means nothing. "
        )
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
    return (
        f"{text}Each galaxy appears under +-shear in either component with equal noise, rotated, and with "
        "the negative of its noise, so that shape cancels, and noise to first order: "
        f"{'; '.join(parts)}. A galaxy with any flagged member is left out."
    )
