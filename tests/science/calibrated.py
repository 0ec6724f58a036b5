"""Shear bias, on simulated stamps, of an estimator that measures its own response."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from simulated import make_split

from shearbench.estimators.base import Estimator
from shearbench.evaluation.shear_bias import shear_bias, unbiased
from shearbench.measurement.running import measure_stamps


def assert_unbiased(
    folder: Path,
    estimator: Estimator,
    galaxies: int,
    sigma: float,
    population: str = "exp_gauss",
    precision: float = 2e-3,
) -> None:
    """Assert |m| < max(1e-3, 3 sigma) and |c| < max(1e-4, 3 sigma), calibrated with its own response.

    The error of m must be less than `precision`: a test that sees no bias proves nothing where it is blind.
    """
    stamps, catalog = make_split(folder, "shear", galaxies, population, side=48, scale=0.2, seed=1)
    table = measure_stamps(estimator, stamps, sigma, seed=1)
    table.attrs |= {"estimator": estimator.kind, "seed": None}
    _, bias, simulated = shear_bias(table, catalog)
    assert bias["n_failed"] <= 0.02 * galaxies
    assert max(bias["m1_err"], bias["m2_err"]) < precision, bias
    for name, tolerance in (("m1", 1e-3), ("m2", 1e-3), ("c1", 1e-4), ("c2", 1e-4)):
        assert unbiased(bias[name], bias[f"{name}_err"], tolerance), (name, bias)
    # The protocol of all other estimators, with scenes drawn under opposite shears, gives the same m.
    for name in ("m1", "m2"):
        error = np.hypot(bias[f"{name}_err"], simulated[f"{name}_err"])
        assert unbiased(simulated[name] - bias[name], error, 1e-3), (name, bias, simulated)
