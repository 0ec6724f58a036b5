"""Stamps of the shear split, and the biases that an estimator with a response of its own has on them."""

from __future__ import annotations

import pandas as pd

from shearbench.catalog import sample_catalog
from shearbench.estimators.base import Estimator
from shearbench.evaluation.shear_bias import shear_bias, unbiased
from shearbench.noise import unit_noise
from shearbench.populations import PRESETS, Population
from shearbench.rendering import draw_stamps
from shearbench.stamps import StampBatch

SCALE = 0.2


def assert_unbiased(estimator: Estimator, galaxies: int, sigma: float, population: str = "exp_gauss") -> None:
    """Assert |m| < max(1e-3, 3 sigma) and |c| < max(1e-4, 3 sigma), calibrated with the own response."""
    options = Population(**PRESETS[population])
    catalog = sample_catalog(options, population, "shear", galaxies, 1, SCALE)
    ((images, psf),) = draw_stamps(catalog, options, (48, 48), SCALE, block=len(catalog))
    noise_id = catalog["noise_id"].to_numpy()
    noisy = images + sigma * unit_noise(1, noise_id, (48, 48))
    shapes = estimator.measure(
        StampBatch(noisy, psf, sigma, SCALE, catalog["galaxy_id"].to_numpy(), noise_id)
    )
    table = pd.DataFrame({name: getattr(shapes, name) for name in ("g1", "g2", "g1_err", "g2_err", "flag")})
    table = table.assign(galaxy_id=catalog["galaxy_id"], **shapes.extra)
    table.attrs = {"estimator": estimator.kind, "kind": estimator.kind, "population": population}
    table.attrs |= {"split": "shear", "sigma": sigma, "seed": None, "seconds": 0.0, "n": len(table)}
    _, bias = shear_bias(table, catalog)
    assert bias["n_failed"] <= 0.02 * galaxies
    for name, tolerance in (("m1", 1e-3), ("m2", 1e-3), ("c1", 1e-4), ("c2", 1e-4)):
        assert unbiased(bias[name], bias[f"{name}_err"], tolerance), (name, bias)
