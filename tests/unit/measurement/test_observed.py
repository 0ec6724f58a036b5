"""Stamps of users are measured as those of a run are, and galaxies that networks do not know are found."""

from __future__ import annotations

import galsim
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from astropy.io import fits
from simulated import SCALE, SIDE, make_split, train

from shearbench.data.own_stamps import OTHER_GEOMETRY, UNUSABLE, OwnStamps
from shearbench.data.shapes import Flag
from shearbench.errors import ShearbenchError
from shearbench.estimators import make_estimator
from shearbench.evaluation.own_stamps import Measured, distances, flagged_range, results_of, write_fits
from shearbench.evaluation.shear_bias import SHEAR_BIAS, shear_bias
from shearbench.measurement.own_stamps import (
    PROPERTIES,
    geometry_of,
    measure_own,
    noise_range,
    own_properties,
    predict_own,
    simulated_properties,
)
from shearbench.measurement.running import measure_stamps
from shearbench.simulation.populations import PRESETS, Population
from shearbench.tasks.shear.model_file import load_model, save_model
from shearbench.tasks.shear.packed import load_packed, pack, save_packed
from shearbench.tasks.shear.prediction import predict
from shearbench.training.recipe import Recipe
from shearbench.training.variants import resolve_variant

SIGMA, SEED, N = 1e-3, 3, 40
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Return the stamps of a run, and a user's file with the same noisy pixels."""
    folder = tmp_path_factory.mktemp("stamps")
    stamps, _ = make_split(folder, "test", N)
    (batch,) = stamps.batches(SIGMA, SEED)
    with h5py.File(folder / "mine.h5", "w") as file:
        file["images"], file["psf"], file["sigma"] = batch.images, batch.psf, SIGMA
        file.attrs["pixel_scale_arcsec"] = SCALE
    return stamps, folder / "mine.h5"


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("model"), "shearnet")


def trained(folder, base, **options):
    """Train a network for a moment; return its model file."""
    splits = [make_split(folder, split, 64) for split in ("train", "validation")]
    recipe = {"epochs": 1, "batch_size": 32, "noise": [1e-4, 1e-2]}
    variant = resolve_variant("tiny", {"base": base, "training": recipe, "options": options}, Recipe())
    stamps, catalogs = zip(*splits)
    content, _ = train(
        *stamps, *catalogs, variant, population=Population(**PRESETS["exp_gauss"]), name="tiny", seed=1
    )
    save_model(folder / "model.pt", content)
    return folder / "model.pt"


def copied(path, to, **changes):
    """Copy a user's file with other arrays."""
    with h5py.File(path) as old, h5py.File(to, "w") as new:
        arrays = {name: old[name][()] for name in old} | changes
        for name, values in arrays.items():
            new[name] = values
        new.attrs.update(old.attrs)
    return OwnStamps(to)


@pytest.mark.parametrize("kind", ["hsm-regauss", "mixture-exp"])
def test_an_estimator_measures_a_users_stamps_as_those_of_a_run(simulated, kind):
    from shearbench.estimators import estimator_presets

    estimator = make_estimator(estimator_presets()[kind])
    expected = measure_stamps(estimator, simulated[0], SIGMA, SEED)
    found = measure_own(estimator, OwnStamps(simulated[1]))
    pd.testing.assert_frame_equal(
        found[["g1", "g2", "flag"]], expected[["g1", "g2", "flag"]], rtol=1e-4, check_exact=False
    )


def test_a_network_measures_a_users_stamps_as_those_of_a_run(simulated, model_path):
    model = load_model(model_path)
    shapes, _ = predict(model, simulated[0], SIGMA, SEED, device=CPU)
    found = predict_own(model, OwnStamps(simulated[1]), device=CPU)
    np.testing.assert_allclose(found["g1"], shapes.g1, atol=1e-5)
    np.testing.assert_allclose(found["g2_err"], shapes.g2_err, rtol=1e-3)
    assert (found["s2n"] > 1).all()
    assert found["flag"].tolist() == shapes.flag.tolist()


def test_a_network_knows_the_noise_of_each_stamp(simulated, model_path, tmp_path):
    model = load_model(model_path)
    levels = np.where(np.arange(N) % 2, SIGMA, 5 * SIGMA)
    mixed = predict_own(model, copied(simulated[1], tmp_path / "s.h5", sigma=levels), device=CPU)
    for level in (SIGMA, 5 * SIGMA):
        alone = predict_own(model, OwnStamps(simulated[1], sigma=float(level)), device=CPU)
        same = levels == level
        np.testing.assert_allclose(mixed["g1"][same], alone["g1"][same], atol=1e-5)
        np.testing.assert_allclose(mixed["g1_err"][same], alone["g1_err"][same], rtol=1e-3)


def test_bad_stamps_do_not_change_the_others(simulated, model_path, tmp_path):
    model, estimator = load_model(model_path), make_estimator({"kind": "hsm"})
    with h5py.File(simulated[1]) as file:
        images = file["images"][:]
    images[7, 2, 2] = np.inf
    images[11] = 0
    own = copied(simulated[1], tmp_path / "s.h5", images=images)
    for measure in (
        lambda stamps: predict_own(model, stamps, device=CPU),
        lambda stamps: measure_own(estimator, stamps),
    ):
        before, after = measure(OwnStamps(simulated[1])), measure(own)
        assert after["flag"][7] == UNUSABLE
        assert np.isnan(after["g1"][7])
        others = [k for k in range(N) if k not in (7, 11)]
        np.testing.assert_allclose(after["g1"][others], before["g1"][others], atol=1e-6)
    assert measure_own(estimator, own)["flag"][11] == Flag.FAILED


def test_a_network_flags_stamps_of_another_size_unless_they_are_to_be_resized(
    simulated, model_path, tmp_path
):
    model = load_model(model_path)
    with h5py.File(simulated[1]) as file:
        larger = np.pad(file["images"][:], ((0, 0), (2, 2), (2, 2)))
    own = copied(simulated[1], tmp_path / "s.h5", images=larger)
    assert geometry_of(model) == (SIDE, SCALE)
    flagged = predict_own(model, own, device=CPU)
    assert (flagged["flag"] == OTHER_GEOMETRY).all()
    assert flagged["g1"].isna().all()
    resized = predict_own(model, own, resize=True, device=CPU)
    np.testing.assert_allclose(resized["g1"], predict_own(model, OwnStamps(simulated[1]), device=CPU)["g1"])
    # Fits measure any size.
    assert (measure_own(make_estimator({"kind": "hsm"}), own)["flag"] == 0).any()
    assert (measure_own(make_estimator({"kind": "hsm"}), own, (SIDE, SCALE))["flag"] == OTHER_GEOMETRY).all()


def test_a_network_for_one_psf_gets_the_psf_of_each_stamp(simulated, model_path, tmp_path):
    model = load_model(model_path)
    with h5py.File(simulated[1]) as file:
        psf = np.tile(file["psf"][:], (N, 1, 1))
    own = copied(simulated[1], tmp_path / "s.h5", psf=psf)
    one = predict_own(model, OwnStamps(simulated[1]), device=CPU)
    np.testing.assert_allclose(predict_own(model, own, device=CPU)["g1"], one["g1"], atol=1e-5)


def test_refinement_by_mixtures_is_for_gaussian_psfs_and_that_by_fourier_sums_for_others(simulated, tmp_path):
    model = load_model(trained(tmp_path, "refined"))
    refinement = model.network.refinement
    mixture = refinement.mixture
    assert mixture is not None, "the population has a Gaussian PSF"
    psf = galsim.Moffat(beta=2.5, fwhm=0.6).drawImage(nx=SIDE, ny=SIDE, scale=SCALE, dtype=np.float32).array
    own = copied(simulated[1], tmp_path / "s.h5", psf=psf)
    with torch.inference_mode():
        assert not refinement.draws(torch.from_numpy(psf))
    found = predict_own(model, own, device=CPU)
    assert np.isfinite(found[["g1", "g2"]]).all(axis=None)
    assert refinement.mixture is mixture
    refinement.mixture = None
    pd.testing.assert_frame_equal(predict_own(model, own, device=CPU), found)


def test_galaxies_of_the_population_are_in_range_and_others_are_not(simulated, tmp_path):
    _, path = simulated
    reference, _ = make_split(tmp_path, "train", 300)
    known = simulated_properties(reference, (1e-4, 1e-2), SEED)
    assert list(known) == ["sigma", *PROPERTIES]
    galaxies = own_properties(OwnStamps(path))
    inside = flagged_range(galaxies, known, (1e-4, 1e-2))
    assert (~inside["out_of_range"]).mean() > 0.8
    assert (flagged_range(galaxies, known, (2e-3, 1e-2))["out_of_range"]).all(), "less noise than trained"
    wide = galsim.Gaussian(fwhm=0.7).shear(g1=0.1, g2=0)
    psf = wide.drawImage(nx=SIDE, ny=SIDE, scale=SCALE, dtype=np.float32).array
    bright = own_properties(OwnStamps(path, flux_scale=300))
    sheared = own_properties(copied(path, tmp_path / "s.h5", psf=psf))
    assert (distances(bright, known) > 1).all()
    assert (distances(sheared, known) > 1).all()


def test_the_distance_of_too_few_galaxies_is_not_known():
    few = pd.DataFrame({name: np.ones(3) for name in PROPERTIES})
    assert np.isnan(distances(few, few)).all()


def test_catalogue_and_shear_of_the_ensemble(simulated, model_path, tmp_path):
    own = OwnStamps(simulated[1])
    galaxies = own_properties(own).assign(cause="")
    known = simulated_properties(simulated[0], (1e-4, 1e-2), SEED)
    table = predict_own(load_model(model_path), own, device=CPU)
    table.loc[0, "flag"] = int(Flag.FAILED)
    response = table.assign(R11=0.5, R12=0.0, R21=0.0, R22=0.25)
    bias = pd.DataFrame(
        [
            [
                "exp_gauss",
                noise,
                "tiny",
                "tiny",
                "network",
                1,
                "none",
                9,
                0,
                *[m, 0.01] * 2,
                *[0.001, 0.0] * 2,
                1,
                1,
            ]
            for noise, m in ((1e-4, 0.0), (1e-2, 0.2))
        ],
        columns=SHEAR_BIAS[:-4],
    )
    measured = [
        Measured("tiny", "tiny", "tiny", "network", 1, table),
        Measured("own", "own", "Own", "metacal", -1, response),
        Measured("other", "other", "Other", "network", 1, table),
    ]
    found, shapes, shear = results_of(
        "mine", "exp_gauss", galaxies, known, (1e-4, 1e-2), measured, bias, resamples=50
    )
    assert len(found) == N
    assert {"id", "cause", "distance", "out_of_range", "tiny_g1", "tiny_s2n", "own_R11"} <= set(found)
    assert len(shapes) == 3 * N
    rows = shear.set_index("estimator")
    mean = table["g1"][1:].mean()
    assert rows.loc["tiny", ["n", "n_flagged"]].tolist() == [N - 1, 1]
    # The noise is in the middle of the two levels in its logarithm.
    assert rows.loc["tiny", "shear1"] == pytest.approx((mean - 0.001) / 1.1)
    assert rows.loc["tiny", "shear1_err"] > rows.loc["tiny", "g1_err"] / 1.1
    assert rows.loc["own", "shear1"] == pytest.approx(mean / 0.5)
    assert rows.loc["own", "shear2_err"] > 0
    assert np.isnan(rows.loc["other", "shear1"])
    assert rows.loc["other", "calibration"] == "none: m was not measured on exp_gauss"
    noisy = galaxies.assign(sigma=0.1)
    *_, shear = results_of("mine", "exp_gauss", noisy, known, (1e-4, 1e-2), measured[:1], bias, 50)
    assert shear["calibration"][0] == "none: the noise is 0.1, and m was measured at 0.0001 to 0.01"
    write_fits(tmp_path / "c.fits", found)
    with fits.open(tmp_path / "c.fits") as hdus:
        data = hdus["SHAPES"].data
        np.testing.assert_array_equal(data["tiny_g1"], found["tiny_g1"])
        assert data["out_of_range"].tolist() == found["out_of_range"].tolist()
        assert set(data["cause"]) == {""}


def test_the_calibration_of_the_population_recovers_the_shear(tmp_path):
    """Galaxies of a user with a shear, measured by an estimator whose shapes are 30% too small."""
    estimator = make_estimator({"kind": "hsm"})
    (tmp_path / "population").mkdir()
    split, catalog = make_split(tmp_path / "population", "shear", 20)
    table = measure_stamps(estimator, split, 1e-4, SEED)
    table[["g1", "g2"]] *= 0.7
    table.attrs |= {"estimator": "hsm", "seed": None}
    rows = pd.DataFrame(shear_bias(table, catalog, resamples=50))
    # Other galaxies, under one of the shears, in both orientations.
    own_split, own_catalog = make_split(tmp_path, "shear", 40, seed=8)
    sheared = np.flatnonzero((own_catalog["shear1"] > 0) & (own_catalog["noise_id"] >= 0))
    images, psf = own_split.noiseless()
    with h5py.File(tmp_path / "s.h5", "w") as file:
        noise = np.random.default_rng(1).normal(0, 1e-4, images[sheared].shape)
        file["images"], file["psf"], file["sigma"] = images[sheared] + noise, psf, 1e-4
        file.attrs["pixel_scale_arcsec"] = SCALE
    own = OwnStamps(tmp_path / "s.h5")
    found = measure_own(estimator, own)
    found[["g1", "g2"]] *= 0.7
    galaxies = own_properties(own).assign(cause="")
    known = simulated_properties(split, (1e-5, 1e-2), SEED)
    one = Measured("hsm", "hsm", "hsm", "hsm", -1, found)
    *_, shear = results_of("mine", "exp_gauss", galaxies, known, (1e-5, 1e-2), [one], rows, 50)
    applied = own_catalog["shear1"].max()
    assert shear["g1"][0] == pytest.approx(0.7 * applied, rel=0.1)
    assert shear["shear1"][0] == pytest.approx(applied, rel=0.05)
    assert shear["shear2"][0] == pytest.approx(0, abs=0.05 * applied)


def test_a_packed_network_has_all_that_measures_elsewhere(simulated, model_path, tmp_path):
    bias = pd.DataFrame(
        [["exp_gauss", 1e-3, "tiny", "tiny", "network", 1, "none", *range(12)]], columns=SHEAR_BIAS[:-4]
    )
    known = simulated_properties(simulated[0], (1e-4, 1e-2), SEED)
    options = Population(**PRESETS["exp_gauss"]).model_dump(mode="json")
    content = pack(model_path, options, (1e-4, 1e-2), known, pd.concat([bias, bias.assign(seed=2)]))
    save_packed(tmp_path / "packed.pt", content)
    model, simulated_again, calibration = load_packed(tmp_path / "packed.pt")
    assert noise_range(model) == tuple(model.about["noise"]) == (1e-4, 1e-2)
    assert Population(**model.about["population_options"]) == Population(**PRESETS["exp_gauss"])
    pd.testing.assert_frame_equal(simulated_again, known)
    assert calibration["seed"].tolist() == [1]
    one, other = load_model(model_path), load_model(tmp_path / "packed.pt")
    own = OwnStamps(simulated[1])
    pd.testing.assert_frame_equal(predict_own(one, own, device=CPU), predict_own(other, own, device=CPU))
    with pytest.raises(ShearbenchError, match="without population_options, noise, calibration, simulated"):
        load_packed(model_path)
