"""Leakage of the PSF's shape: a known one is measured right, and that of estimators is what it must be."""

from __future__ import annotations

import galsim
import numpy as np
import pandas as pd
import pytest
import torch
from simulated import SCALE, SIDE, make_split

from shearbench.data.shapes import Flag, Shapes
from shearbench.errors import ContractError
from shearbench.estimators import estimator_presets, make_estimator
from shearbench.evaluation.psf_leakage import PSF_LEAKAGE, psf_leakage, psf_leakage_table
from shearbench.measurement.running import measure_stamps
from shearbench.networks import architecture_kinds
from shearbench.simulation.catalog import sample_catalog
from shearbench.simulation.galsim_stamps import draw_stamps
from shearbench.simulation.populations import PRESETS, Population
from shearbench.tasks.shear.model_file import TrainedNetwork
from shearbench.tasks.shear.network import ShearNetwork
from shearbench.tasks.shear.prediction import predict

ALPHA = (0.03, -0.02)


@pytest.fixture(scope="module")
def catalog():
    """Return a leakage split of galaxies whose PSFs have shapes of their own."""
    return sample_catalog(Population(**PRESETS["sersic_moffat"]), "toy", "leakage", 200, 3, 0.2)


@pytest.fixture(scope="module")
def stamps(tmp_path_factory):
    """Return the stamps of a small leakage split under Gaussian PSFs, and its catalog."""
    return make_split(tmp_path_factory.mktemp("leakage"), "leakage", 10, side=48, scale=0.2)


def answer(catalog, g1, g2, **extra):
    estimates = pd.DataFrame(
        {"galaxy_id": catalog["galaxy_id"], "g1": g1, "g2": g2, "g1_err": 0.01, "g2_err": 0.01, "flag": 0}
    ).assign(**extra)
    about = {"estimator": "toy", "kind": "toy", "split": "leakage", "sigma": 1e-3, "seconds": 1.0, "seed": 3}
    estimates.attrs = {**about, "population": catalog.attrs["population"], "n": len(catalog)}
    return estimates


def bias(r1=1.0, r2=1.0, error=0.0, **who):
    """Return a table of shear bias with the response of the toy estimator, and of another one."""
    row = {"population": "toy", "noise": 1e-3, "estimator": "toy", "seed": 3, "calibration": "none"}
    row |= {"R1": r1, "R2": r2, "m1_err": error, "m2_err": error} | who
    return pd.DataFrame([{**row, "estimator": "other", "R1": 7.0}, {**row, "calibration": "response"}, row])


def leaking(catalog, response=1.0):
    """Return shapes with a response, a constant bias and a known leakage into the shear."""
    return [
        response * (catalog[f"g{k}"] + alpha * catalog[f"psf_g{k}"]) + 0.01 for k, alpha in zip((1, 2), ALPHA)
    ]


def measured(stamps, name, sigma=1e-5, **options):
    """Return the leakage of an estimator, and that into the shear if it has a response of its own."""
    estimator = make_estimator({**estimator_presets()[name], **options})
    table = measure_stamps(estimator, stamps[0], sigma, seed=1)
    table.attrs |= {"estimator": name, "seed": None}
    return psf_leakage(table, stamps[1], bias())


# A known leakage


def test_the_truth_does_not_leak(catalog):
    for row in psf_leakage(answer(catalog, catalog["g1"], catalog["g2"]), catalog, bias()):
        assert list(row) == PSF_LEAKAGE
        for name in PSF_LEAKAGE[-4:]:
            assert row[name] == pytest.approx(0, abs=1e-14)
        assert (row["n_pairs"], row["n_failed"], row["seed"], row["noise"]) == (200, 0, 3, 1e-3)


def test_a_known_leakage_is_found_with_its_sign_and_divided_by_the_response(catalog):
    scrambled = answer(catalog, *leaking(catalog, 0.8)).sample(frac=1, random_state=1)
    plain, calibrated = psf_leakage(scrambled, catalog, bias(0.8, 0.8), label="Toy")
    assert (plain["calibration"], calibrated["calibration"]) == ("none", "response")
    assert (plain["alpha1"], plain["alpha2"]) == pytest.approx([0.8 * alpha for alpha in ALPHA])
    assert (calibrated["alpha1"], calibrated["alpha2"]) == pytest.approx(ALPHA)
    assert plain["label"] == "Toy"
    # The error of the response counts: 1% of the leakage.
    _, uncertain = psf_leakage(scrambled, catalog, bias(0.8, 0.8, error=0.008))
    assert uncertain["alpha1_err"] == pytest.approx(0.01 * ALPHA[0])


def test_an_estimator_without_a_response_has_no_calibrated_leakage(catalog):
    for table in (bias(population="elsewhere"), bias(0.0, 0.0), bias().iloc[:0]):
        plain, calibrated = psf_leakage(answer(catalog, *leaking(catalog)), catalog, table)
        assert plain["alpha1"] == pytest.approx(ALPHA[0])
        assert np.isnan([calibrated["alpha1"], calibrated["alpha2_err"]]).all()


def test_own_responses_are_those_under_each_psf(catalog):
    """The ellipticities leak only because the response depends on the PSF, so the shear does not leak."""
    estimates = [(0.3 + catalog["psf_g1"]) * (catalog[f"g{k}"] + 0.02) for k in (1, 2)]
    own = {"R11": 0.3 + catalog["psf_g1"], "R22": 0.3 + catalog["psf_g1"]}
    plain, calibrated = psf_leakage(answer(catalog, *estimates, **own), catalog, bias().iloc[:0])
    assert plain["alpha1"] == pytest.approx(0.02, rel=1e-3)
    assert (calibrated["alpha1"], calibrated["alpha2"]) == pytest.approx((0, 0), abs=1e-5)


def test_errors_are_those_of_the_mean_over_galaxies(catalog):
    rng = np.random.default_rng(1)
    noise = 0.001 * rng.standard_normal((len(catalog), 2))
    g1, g2 = leaking(catalog)
    row = psf_leakage(answer(catalog, g1 + noise[:, 0], g2 + noise[:, 1]), catalog, bias())[0]
    # Of each galaxy, four stamps at either PSF: two rotations, two signs of the noise.
    expected = 0.001 * np.sqrt(2 / 4) / 0.1 / np.sqrt(200)
    assert row["alpha1_err"] == pytest.approx(expected, rel=0.25)
    assert abs(row["alpha1"] - ALPHA[0]) < 5 * row["alpha1_err"]


def test_a_galaxy_with_a_failed_stamp_is_left_out(catalog):
    estimates = answer(catalog, *leaking(catalog))
    estimates.loc[5, ["g1", "g2"]] = 0.9, 0.9
    estimates.loc[5, "flag"] = int(Flag.FAILED)
    row = psf_leakage(estimates, catalog, bias())[0]
    assert (row["n_pairs"], row["n_failed"]) == (199, 1)
    assert row["alpha1"] == pytest.approx(ALPHA[0])
    few = catalog.head(16)
    one = psf_leakage_table(psf_leakage(estimates.head(16).assign(flag=4), few, bias()))
    assert one[["alpha1", "alpha1_err"]].isna().all(axis=None)
    with pytest.raises(ContractError, match="psf_shear1, psf_shear2"):
        psf_leakage(answer(catalog.head(17), 0.0, 0.0), catalog.head(17), bias())


# Stamps


class Moments:
    """Adaptive moments of the image, without any correction for the PSF."""

    kind = "moments"

    def measure(self, batch):
        found = [galsim.hsm.FindAdaptiveMom(galsim.Image(image)).observed_shape for image in batch.images]
        nothing = np.full(len(batch), np.nan)
        g1, g2 = ([getattr(shape, name) for shape in found] for name in ("g1", "g2"))
        return Shapes(np.array(g1), np.array(g2), nothing, nothing, np.zeros(len(batch), int))


def test_psfs_have_the_shapes_of_the_catalog(stamps):
    split, catalog = stamps
    assert not split.constant_psf
    _, psf = split.noiseless(0, 8)
    found = [galsim.hsm.FindAdaptiveMom(galsim.Image(image)).observed_shape for image in psf]
    # The pixel makes the PSF rounder, by less than 10%.
    truth = catalog[["psf_g1", "psf_g2"]].to_numpy()[:8]
    np.testing.assert_allclose([(g.g1, g.g2) for g in found], truth, atol=0.005)
    assert truth.max() == -truth.min() == 0.05


def test_moments_without_a_correction_leak_by_the_share_of_the_psf(stamps):
    """The quadrupoles of galaxy and PSF add up, so alpha is the PSF's share of the size squared."""
    split, catalog = stamps
    table = measure_stamps(Moments(), split, 1e-5, seed=1)
    table.attrs |= {"estimator": "moments", "seed": None}
    row = psf_leakage(table, catalog, bias())[0]
    for name in ("alpha1", "alpha2"):
        assert 0.05 < row[name] < 0.6


def test_fits_with_the_right_model_and_metacalibration_do_not_leak(stamps):
    plain, _ = measured(stamps, "mixture-exp")
    own = measured(stamps, "metacal-mixture-gauss")[1]
    for row in (plain, own):
        assert max(abs(row["alpha1"]), abs(row["alpha2"])) < 1e-3
        assert max(row["alpha1_err"], row["alpha2_err"]) < 3e-4
    # A fit with a wrong model leaks: a Gaussian is smaller than an exponential disc with the same core.
    wrong, _ = measured(stamps, "mixture-gauss")
    assert min(wrong["alpha1"], wrong["alpha2"]) > 0.01


def network(kind, stamps, per_galaxy_psf=False, **options):
    """Return an untrained network that was trained, as it says, on the population of the stamps."""
    torch.manual_seed(1)
    architecture = architecture_kinds()[kind](**options)
    architecture = architecture.adapted(Population(**PRESETS["exp_gauss"]))
    made = ShearNetwork(architecture, stamps.shape, stamps.pixel_scale, per_galaxy_psf)
    catalog = sample_catalog(Population(**PRESETS["exp_gauss"]), "exp_gauss", "train", 300, 1, 0.2)
    images, psf = next(draw_stamps(catalog, Population(**PRESETS["exp_gauss"]), stamps.shape, 0.2, 300))
    psf = np.repeat(psf[None], len(images), axis=0) if per_galaxy_psf else psf
    columns = {"x": "dx", "y": "dy"}
    truth = catalog[[columns.get(name, name) for name in architecture.targets]].to_numpy(np.float32)
    made.fit_scaling(torch.from_numpy(images), torch.from_numpy(psf), torch.from_numpy(truth))
    made.calibrate([1e-5], [torch.ones(20, 2)], [torch.arange(1.0, 21.0)])
    about = {"population": "exp_gauss", "shape": stamps.shape, "pixel_scale": stamps.pixel_scale}
    return TrainedNetwork(made.eval(), {**about, "per_galaxy_psf": per_galaxy_psf, "diverged": False})


def leakage_of_network(stamps, model):
    shapes, _ = predict(model, stamps[0], 1e-5, seed=1)
    assert (shapes.flag == 0).all()
    return psf_leakage(answer(stamps[1], shapes.g1, shapes.g2), stamps[1], bias())[0]


def test_a_network_with_a_forward_model_is_told_the_psf_and_does_not_leak(stamps):
    """Untrained, its Gauss-Newton steps alone lead to the shape."""
    row = leakage_of_network(stamps, network("refined", stamps[0], steps=12))
    assert max(abs(row["alpha1"]), abs(row["alpha2"])) < 1e-3


def test_a_network_for_one_psf_measures_the_leakage_split_and_no_other_varying_psfs(stamps, tmp_path):
    model = network("whitened", stamps[0])
    leakage_of_network(stamps, model)
    varying, _ = make_split(tmp_path, "test", 4, "sersic_moffat", side=48, scale=0.2)
    model.about["population"] = "sersic_moffat"
    with pytest.raises(ContractError, match="constant_psf"):
        predict(model, varying, 1e-5, seed=1)


GIVEN = {
    "fork": ("fork", {"width": 2}),
    "branch": ("orbit", {"widths": [2, 2], "tokens": 8}),
    "homogenised": ("orbit", {"widths": [2, 2], "tokens": 8, "psf": "homogenised"}),
    "psf-branch": ("psf-branch", {"width": 2}),
    "whitened": ("whitened", {"components": 16, "psf_components": 8}),
}


@pytest.fixture(scope="module")
def few_stamps(tmp_path_factory):
    return make_split(tmp_path_factory.mktemp("few"), "leakage", 2, side=24, scale=0.4)[0]


@pytest.mark.parametrize("name", GIVEN)
def test_a_network_that_is_given_the_psf_gets_that_of_each_stamp(few_stamps, name):
    split, (kind, options) = few_stamps, GIVEN[name]
    images, psf = (torch.from_numpy(part) for part in split.noiseless())
    torch.manual_seed(1)
    architecture = architecture_kinds()[kind](**options)
    homogenised = options.get("psf") == "homogenised"
    made = ShearNetwork(architecture, split.shape, split.pixel_scale, not homogenised)
    made.fit_scaling(images, psf, torch.rand(len(images), len(architecture.targets)))
    made.calibrate([1e-5], [torch.ones(20, 2)], [torch.arange(1.0, 21.0)])
    about = {"population": split.population, "shape": split.shape, "pixel_scale": split.pixel_scale}
    about |= {"per_galaxy_psf": not homogenised, "diverged": False}
    found, _ = predict(TrainedNetwork(made.eval(), about), split, 1e-5, seed=1, batch=10)
    batch = next(split.batches(1e-5, 1, len(split)))
    with torch.inference_mode():
        # Member 0 and 1 of a galaxy have PSFs of opposite shapes: rows of `shift` are those of the other.
        for shift in (0, 2):
            told = torch.from_numpy(np.roll(batch.psf, shift, axis=0))
            answer = made(torch.from_numpy(batch.images), told, torch.tensor(1e-5)).shapes.numpy()
            differ = np.abs(answer - np.column_stack([found.g1, found.g2])).max(axis=1)
            if shift == 0:
                np.testing.assert_allclose(differ, 0, atol=1e-4 * np.abs(answer).max())
            else:
                assert np.median(differ) > 1e-3 * np.abs(answer).max()


def test_a_psf_image_is_sheared(tmp_path):
    psf = np.zeros((33, 33), np.float32)
    galsim.Gaussian(fwhm=0.9).shear(g1=0.02, g2=0.01).drawImage(galsim.Image(psf, scale=SCALE))
    galsim.fits.write(galsim.Image(psf), str(tmp_path / "psf.fits"))
    options = {"profile": "image", "image_file": str(tmp_path / "psf.fits")}
    population = Population(psf={**options, "image_pixel_scale_arcsec": SCALE})
    rows = sample_catalog(population, "images", "leakage", 2, 1, SCALE)
    ((_, psfs),) = draw_stamps(rows, population, (SIDE, SIDE), SCALE)
    found = [galsim.hsm.FindAdaptiveMom(galsim.Image(image)).observed_shape for image in psfs]
    shapes = np.array([(g.g1, g.g2) for g in found])[:8:2]  # the first galaxy, one sign of the noise
    np.testing.assert_allclose(shapes.mean(axis=0), (0.019, 0.0095), atol=1e-3)  # the pixel is round
    np.testing.assert_allclose(shapes[0] - shapes[1], (0.1, 0), atol=1e-3)
    np.testing.assert_allclose(shapes[2] - shapes[3], (0, 0.1), atol=1e-3)
