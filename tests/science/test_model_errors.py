"""PSF and noise told wrongly: known changes are found, and those of a fit are what they must be."""

from __future__ import annotations

import galsim
import numpy as np
import pandas as pd
import pytest
from simulated import make_split

from shearbench.data.shapes import Flag, Shapes
from shearbench.errors import ContractError
from shearbench.estimators import estimator_presets, make_estimator
from shearbench.evaluation.model_errors import MODEL_ERRORS, model_errors, model_errors_table
from shearbench.measurement.running import measure_stamps
from shearbench.simulation.catalog import sample_catalog
from shearbench.simulation.misjudged import misjudged
from shearbench.simulation.populations import PRESETS, Population

SIZE, SHAPE = 0.01, 0.005
GAUSSIANS = Population(**PRESETS["gauss_gauss"])


@pytest.fixture(scope="module")
def stamps(tmp_path_factory):
    """Return the stamps of a small shear split of Gaussian galaxies under a Gaussian PSF, and its catalog."""
    folder = tmp_path_factory.mktemp("gaussians")
    return make_split(folder, "shear", 12, "gauss_gauss", side=48, scale=0.2)


@pytest.fixture(scope="module")
def catalog():
    return sample_catalog(GAUSSIANS, "gauss_gauss", "shear", 200, 3, 0.2)


def table(catalog, g1, g2, **extra):
    found = pd.DataFrame(
        {"galaxy_id": catalog["galaxy_id"], "g1": g1, "g2": g2, "g1_err": 0.01, "g2_err": 0.01, "flag": 0}
    ).assign(**extra)
    about = {"estimator": "toy", "kind": "toy", "split": "shear", "sigma": 1e-3, "seconds": 1.0, "seed": None}
    found.attrs = {**about, "population": catalog.attrs["population"], "n": len(catalog)}
    return found


def quadrupole(variance, g1, g2):
    """Return the second moments (n, 2, 2) of Gaussians of equal area, sheared by g."""
    g1, g2 = np.broadcast_arrays(g1, g2)
    matrix = np.array([[1 + g1, g2], [g2, 1 - g1]]).transpose(2, 0, 1)
    return (variance / (1 - g1**2 - g2**2))[:, None, None] * (matrix @ matrix)


def shape(moments):
    """Return the shapes g of second moments."""
    trace = np.trace(moments, axis1=1, axis2=2)
    e = (moments[:, 0, 0] - moments[:, 1, 1] + 2j * moments[:, 0, 1]) / trace
    g = e / (1 + np.sqrt(1 - np.abs(e) ** 2))
    return g.real, g.imag


def fitted(catalog, size=0.0, ellipticity=0.0):
    """Return the shapes of the Gaussians that look, under the PSF told, like the galaxies do."""
    galaxy = quadrupole((catalog["hlr"].to_numpy() / 1.17741) ** 2, catalog["g1"], catalog["g2"])
    variance = (catalog["psf_fwhm"].to_numpy() / 2.35482) ** 2
    zero = np.zeros(len(catalog))
    told = quadrupole(variance * (1 + size) ** 2, zero + ellipticity, zero + ellipticity)
    return shape(galaxy + quadrupole(variance, zero, zero) - told)


# Known changes


def test_a_known_change_is_found_and_divided_by_the_error(catalog):
    truth = [catalog["g1"], catalog["g2"]]
    right = table(catalog, *(0.8 * g + 0.01 for g in truth))
    wrong = table(catalog, 0.82 * truth[0] + 0.014, 0.8 * truth[1] + 0.009).sample(frac=1, random_state=1)
    plain, calibrated = model_errors(right, wrong, catalog, "psf_size", 0.01, label="Toy")
    assert list(plain) == MODEL_ERRORS
    assert (plain["calibration"], calibrated["calibration"], plain["label"]) == ("none", "response", "Toy")
    found = [[row[name] for name in ("dm1", "dm2", "dc1", "dc2")] for row in (plain, calibrated)]
    # c is measured on galaxies whose mean shape is zero to second order.
    np.testing.assert_allclose(found[0], [2, 0, 0.4, -0.1], atol=1e-3)
    np.testing.assert_allclose(found[1], [2.5, 0, 0.5, -0.125], atol=1e-3)
    assert max(plain[f"{name}_err"] for name in ("dm1", "dc1")) < 1e-3


def test_no_change_is_exactly_none_whatever_the_noise(catalog):
    noise = 0.1 * np.random.default_rng(1).standard_normal((2, len(catalog)))
    same = table(catalog, catalog["g1"] / 2 + noise[0], catalog["g2"] / 2 + noise[1])
    for row in model_errors(same, same, catalog, "noise_low", -0.1):
        assert [row[name] for name in MODEL_ERRORS[-8:]] == [0.0] * 8


def test_shape_noise_cancels_and_the_error_is_that_of_the_difference(catalog):
    rng = np.random.default_rng(2)
    noise, change = (
        0.1 * rng.standard_normal((2, len(catalog))),
        1e-4 * rng.standard_normal((2, len(catalog))),
    )
    shapes = np.array([catalog["g1"], catalog["g2"]]) / 2 + noise
    row, _ = model_errors(
        table(catalog, *shapes), table(catalog, *(shapes + change)), catalog, "noise_high", 0.1
    )
    # Of each galaxy, four stamps under either shear of 0.02; 0.1 is the error that is told.
    expected = 1e-4 * np.sqrt(2 / 4) / 0.04 / np.sqrt(200) / 0.1
    assert row["dm1_err"] == pytest.approx(expected, rel=0.25)
    assert abs(row["dm1"]) < 5 * row["dm1_err"]


def test_own_responses_are_measured_with_the_error(catalog):
    """The ellipticities change as their responses do, so the shear does not."""
    truth = [catalog["g1"], catalog["g2"]]
    own = {"R11": 0.5, "R22": 0.5}
    right = table(catalog, *(0.5 * g for g in truth), **own)
    wrong = table(catalog, *(0.6 * g for g in truth), R11=0.6, R22=0.6)
    plain, calibrated = model_errors(right, wrong, catalog, "psf_size", 0.01)
    assert plain["dm1"] == pytest.approx(10)
    assert [calibrated[name] for name in ("dm1", "dm2", "dc1")] == pytest.approx([0, 0, 0], abs=1e-10)
    # A response that does not follow leaves the change.
    _, missed = model_errors(
        right, table(catalog, *(0.6 * g for g in truth), **own), catalog, "psf_size", 0.01
    )
    assert missed["dm1"] == pytest.approx(20, rel=0.05)


def test_a_stamp_that_fails_in_either_table_takes_its_galaxy_away(catalog):
    truth = [catalog["g1"], catalog["g2"]]
    right, wrong = table(catalog, *truth), table(catalog, *truth)
    right.loc[5, "flag"], wrong.loc[40, "flag"] = int(Flag.FAILED), int(Flag.FAILED)
    row, _ = model_errors(right, wrong, catalog, "psf_size", 0.01)
    assert (row["n_pairs"], row["n_failed"]) == (198, 2)
    nothing = model_errors(right.assign(flag=4), wrong, catalog, "psf_size", 0.01)
    assert model_errors_table(nothing)[["dm1", "dc2_err"]].isna().all(axis=None)
    with pytest.raises(ContractError):
        model_errors(right.head(16), wrong.head(17), catalog.head(16), "psf_size", 0.01)


def test_moments_of_round_galaxies_change_as_the_formula_says(catalog):
    """Moments without the PSF: dm is 2 T_PSF / T and dc is -T_PSF / T for a small error of size or shape."""
    small = catalog.assign(hlr=0.5)
    small["g1"], small["g2"] = 0.1 * catalog["shear1"], 0.1 * catalog["shear2"]
    ratio = float(((small["psf_fwhm"] / 2.35482) ** 2 / (0.5 / 1.17741) ** 2).mean())
    right = table(small, small["g1"], small["g2"])
    row, _ = model_errors(right, table(small, *fitted(small, size=1e-5)), small, "psf_size", 1e-5)
    assert (row["dm1"], row["dm2"]) == pytest.approx((2 * ratio, 2 * ratio), rel=1e-3)
    assert row["dc1"] == pytest.approx(0, abs=1e-6)
    row, _ = model_errors(right, table(small, *fitted(small, ellipticity=1e-5)), small, "psf_shape", 1e-5)
    assert (row["dc1"], row["dc2"]) == pytest.approx((-ratio, -ratio), rel=1e-3)


# Stamps


def change(stamps, estimator, told, amount, sigma=1e-5):
    """Return the change without calibration that an estimator measures on stamps."""
    split, catalog = stamps
    tables = []
    for given in (split, misjudged(split, catalog, GAUSSIANS, told, amount)):
        tables.append(measure_stamps(estimator, given, sigma, seed=1))
        tables[-1].attrs |= {"estimator": "toy", "seed": None}
    return model_errors(*tables, catalog, told, amount)[0]


@pytest.mark.parametrize(
    ("told", "amount", "how"),
    [("psf_size", SIZE, {"size": SIZE}), ("psf_shape", SHAPE, {"ellipticity": SHAPE})],
)
def test_a_fit_of_the_right_model_changes_as_the_moments_do(stamps, told, amount, how):
    """Gaussians under a Gaussian PSF: moments of the best fit and of the PSF add up to those of the stamp."""
    _, catalog = stamps
    fit = make_estimator({**estimator_presets()["mixture-gauss"], "psf_model": "gauss", "prior": "none"})
    found = change(stamps, fit, told, amount)
    right = table(catalog, catalog["g1"], catalog["g2"])
    expected, _ = model_errors(right, table(catalog, *fitted(catalog, **how)), catalog, told, amount)
    for name in ("dm1", "dm2", "dc1", "dc2"):
        assert found[name] == pytest.approx(expected[name], rel=0.02, abs=0.01), name
    assert abs(expected["dm1" if told == "psf_size" else "dc1"]) > 0.1


class Shrinking:
    """True shapes, shrunk by a known function of the noise level that is told."""

    kind = "shrinking"

    def __init__(self, catalog):
        self.truth = catalog[["g1", "g2"]].to_numpy()

    def measure(self, batch):
        g1, g2 = self.truth[batch.galaxy_id].T * (1 - 100 * batch.sigma)
        nothing = np.full(len(batch), np.nan)
        return Shapes(g1, g2, nothing, nothing, np.zeros(len(batch), int))


@pytest.mark.parametrize(("told", "amount"), [("noise_low", -0.1), ("noise_high", 0.1)])
def test_the_noise_level_told_is_that_of_the_error_and_the_noise_stays(stamps, told, amount):
    split, catalog = stamps
    row = change(stamps, Shrinking(catalog), told, amount, sigma=1e-3)
    assert (row["dm1"], row["dm2"]) == pytest.approx((-0.1, -0.1))  # m is -100 sigma
    given, true = (
        next(misjudged(split, catalog, GAUSSIANS, told, amount).batches(0.1, 1)),
        next(split.batches(0.1, 1)),
    )
    np.testing.assert_array_equal(given.images, true.images)
    np.testing.assert_array_equal(given.psf, true.psf)
    assert (given.sigma, true.sigma) == pytest.approx((0.1 * (1 + amount), 0.1))


def test_psfs_that_vary_are_told_larger_or_of_another_shape_galaxy_by_galaxy(tmp_path):
    split, catalog = make_split(tmp_path, "shear", 3, "sersic_moffat", side=48, scale=0.2)
    population, few = Population(**PRESETS["sersic_moffat"]), catalog.head(32)
    plain, larger, rounder = (
        list(one.batches(1e-3, 1, size=7, stop=32))
        for one in (
            split,
            misjudged(split, few, population, "psf_size", 0.01),
            misjudged(split, few, population, "psf_shape", 0.005),
        )
    )
    assert sum(map(len, larger)) == 32 == len(misjudged(split, few, population, "psf_size", 0.01))

    def moments(batches):
        images = [image for batch in batches for image in batch.psf][::8]
        found = [galsim.hsm.FindAdaptiveMom(galsim.Image(image)) for image in images]
        return np.array([(m.moments_sigma, m.observed_shape.g1, m.observed_shape.g2) for m in found])

    true = moments(plain)
    assert np.ptp(true[:, 0]) > 0  # two galaxies, two PSFs
    # The pixel, which is part of these images, stays as it is.
    ratio = moments(larger)[:, 0] / true[:, 0]
    assert ((1.008 < ratio) & (ratio < 1.01)).all()
    np.testing.assert_allclose((moments(rounder) - true)[:, 1:], 0.005, atol=7e-4)
    with pytest.raises(ContractError, match="those of the catalog"):
        misjudged(split, catalog.iloc[16:], population, "psf_size", 0.01)
