"""Leakage of the PSF's shape into the shear.

The mean estimate under a PSF of shape g_PSF has the additive bias alpha g_PSF. PSFs of random orientation
hide it, because their biases cancel in c. In the split ``leakage``, every base galaxy is drawn without shear
under PSFs whose shape has +s and -s added in each component, with the same noise, so that everything but the
leakage cancels in the difference. It is also drawn with its intrinsic shape rotated, and with noise of both
signs, as in the split ``shear`` (`shearbench.evaluation.shear_bias`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shearbench.evaluation.joining import identity, join
from shearbench.evaluation.shear_pairs import own_response_columns, pairs_of, response_to_shear, shears
from shearbench.evaluation.statistics import RESAMPLES, bootstrapped

PSF_LEAKAGE = (
    "population noise estimator label kind seed calibration n_pairs n_failed "
    "alpha1 alpha1_err alpha2 alpha2_err"
).split()
_KEYS = ("population", "noise", "estimator", "seed")


def psf_leakage(
    estimates: pd.DataFrame,
    catalog: pd.DataFrame,
    shear_bias: pd.DataFrame,
    *,
    label: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    source: str = "estimates",
    rule: str = "measure_shear",
) -> list[dict[str, Any]]:
    """Return the rows of ``metrics/psf_leakage.csv`` of one estimator at one noise level.

    Parameters
    ----------
    estimates, catalog : pandas.DataFrame
        Tables of the ``leakage`` split.
    shear_bias : pandas.DataFrame
        ``metrics/shear_bias.csv``, with the responses R1, R2 of this estimator at this noise level.
    label : str, optional
        Label of the estimator in figures; its name by default.
    resamples, seed : int
        Number of resamples of the bootstrap over base galaxies, and its random seed.
    source, rule : str
        File of the estimates and the rule that makes it, named in errors.

    Returns
    -------
    list of dict
        Two rows with the columns `PSF_LEAKAGE`. ``n_pairs`` and ``n_failed`` are numbers of base galaxies, as
        in `shearbench.evaluation.shear_bias.shear_bias`. The shapes of PSFs are reduced shears (a - b) /
        (a + b), like those of galaxies.

        *none*: alpha is (ghat(+s) - ghat(-s)) / 2s, averaged over rotations and galaxies.

        *response*: the leakage into the calibrated shear, alpha / R, with the response of the uncalibrated
        estimator to shear, measured on the split ``shear``. An estimator that measures its own response gives
        the shear gamma under each PSF from <e> = R gamma, and alpha is (gamma(+s) - gamma(-s)) / 2s.

    Raises
    ------
    ContractError
        The tables have different galaxies, or the catalog does not have each base galaxy under all shapes of
        the PSF.
    """
    pairs = pairs_of(join(estimates, catalog, source=source, rule=rule), ("psf_shear1", "psf_shear2"))
    who = identity(estimates, label)
    plain = response_to_shear(pairs.estimate.mean(axis=1), pairs.shear)
    value, error = bootstrapped(plain, lambda means: means, resamples, seed)
    results = {"none": (value, error)}
    if pairs.response is not None:
        own = own_response_columns(pairs)
        results["response"] = bootstrapped(
            own, lambda means: response_to_shear(shears(means)[0], pairs.shear), resamples, seed
        )
    else:
        response, response_error = _response(shear_bias, who)
        calibrated = value / response
        results["response"] = calibrated, np.hypot(error, calibrated * response_error) / np.abs(response)
    rows = []
    for calibration, (alpha, alpha_error) in results.items():
        row = who | {"calibration": calibration, "n_pairs": len(plain), "n_failed": pairs.n_failed}
        for i, name in enumerate(("alpha1", "alpha2")):
            row[name], row[f"{name}_err"] = float(alpha[i]), float(alpha_error[i])
        rows.append(row)
    return rows


def psf_leakage_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of `psf_leakage` as the table ``metrics/psf_leakage.csv``."""
    return pd.DataFrame(list(rows), columns=PSF_LEAKAGE)


def _response(shear_bias: pd.DataFrame, who: Mapping[str, Any]) -> tuple[NDArray[np.float64], ...]:
    """Return the response of an uncalibrated estimator to shear, and its error; NaN if it has none."""
    chosen = shear_bias[shear_bias["calibration"] == "none"]
    for name in _KEYS:
        chosen = chosen[chosen[name] == who[name]]
    values = chosen[["R1", "R2", "m1_err", "m2_err"]].to_numpy(float)
    response, error = values[0].reshape(2, 2) if len(values) else np.full((2, 2), np.nan)
    return np.where(response == 0, np.nan, response), error
