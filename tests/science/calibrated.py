"""Stamps of the shear split, and the biases that an estimator with a response of its own has on them."""

from __future__ import annotations

from pathlib import Path

from shearbench.catalog import sample_catalog
from shearbench.estimators.base import Estimator
from shearbench.evaluation.shear_bias import shear_bias, unbiased
from shearbench.measurement import measure_stamps
from shearbench.populations import PRESETS, Population
from shearbench.rendering import draw_stamps
from shearbench.stamps import StampSet, write_stamps

SCALE, SHAPE = 0.2, (48, 48)


def assert_unbiased(
    folder: Path,
    estimator: Estimator,
    galaxies: int,
    sigma: float,
    population: str = "exp_gauss",
    precision: float = 2e-3,
) -> None:
    """Assert |m| < max(1e-3, 3 sigma) and |c| < max(1e-4, 3 sigma), calibrated with the own response.

    The error of m must be less than `precision`: a test that sees no bias proves nothing where it is blind.
    """
    options = Population(**PRESETS[population])
    catalog = sample_catalog(options, population, "shear", galaxies, 1, SCALE)
    attributes = {"population": population, "split": "shear", "pixel_scale": SCALE}
    write_stamps(
        folder / "0.h5",
        draw_stamps(catalog, options, SHAPE, SCALE),
        catalog["galaxy_id"].to_numpy(),
        catalog["noise_id"].to_numpy(),
        SHAPE,
        not options.psf.constant,
        attributes | {"catalog_digest": catalog.attrs["digest"]},
    )
    table = measure_stamps(estimator, StampSet([folder / "0.h5"]), sigma, seed=1)
    table.attrs |= {"estimator": estimator.kind, "seed": None}
    _, bias = shear_bias(table, catalog)
    assert bias["n_failed"] <= 0.02 * galaxies
    assert max(bias["m1_err"], bias["m2_err"]) < precision, bias
    for name, tolerance in (("m1", 1e-3), ("m2", 1e-3), ("c1", 1e-4), ("c2", 1e-4)):
        assert unbiased(bias[name], bias[f"{name}_err"], tolerance), (name, bias)
