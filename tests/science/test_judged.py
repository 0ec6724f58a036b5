"""Networks on other populations: known errors and biases are found, and other stamps are refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from simulated import make_split
from test_psf_leakage import network

from shearbench.errors import ContractError
from shearbench.evaluation.judged import JUDGED, at_home, judged, judged_table
from shearbench.evaluation.shear_bias import shear_bias, shear_bias_table
from shearbench.simulation.catalog import sample_catalog
from shearbench.simulation.populations import PRESETS, Population
from shearbench.tasks.shear.prediction import predict

POPULATION = Population(**PRESETS["exp_gauss"])
TEST, SHEAR = (sample_catalog(POPULATION, "sky", split, 200, 3, 0.2) for split in ("test", "shear"))
BOUNDS = pd.DataFrame({"galaxy_id": TEST["galaxy_id"], "crb_g1": 10.0, "crb_g2": 10.0, "snr": 0.1})
RESIDUAL = np.random.default_rng(1).standard_normal((2, len(TEST)))


def table(catalog, g, trained_on="simulation", seed=1):
    found = pd.DataFrame(
        {"galaxy_id": catalog["galaxy_id"], "g1": g[0], "g2": g[1], "g1_err": 0.1, "g2_err": 0.1, "flag": 0}
    )
    about = {"estimator": "toy", "kind": "network", "sigma": 1e-3, "seconds": 1.0, "seed": seed}
    about |= {"split": catalog.attrs["split"], "population": "sky", "n": len(catalog)}
    found.attrs = about | ({"trained_on": trained_on} if trained_on else {})
    return found


def shapes(catalog, error=0.0, response=1.0, offset=0.0):
    """Return true shapes with residuals, a response and an offset."""
    truth = catalog[["g1", "g2"]].to_numpy().T
    return response * truth + offset + (error * RESIDUAL if catalog is TEST else 0)


def biases(response, error):
    """Return a table of shear bias in which the network has a response on the population of its training."""
    (row, calibrated) = shear_bias(table(SHEAR, shapes(SHEAR, response=0.5), None), SHEAR, resamples=20)
    row |= {"population": "simulation", "R1": response, "R2": response, "m1_err": error, "m2_err": error}
    return shear_bias_table([{**row, "seed": 2, "R1": 9.0}, row, calibrated])


def test_errors_are_compared_with_those_of_a_network_trained_on_the_same_galaxies():
    own = table(TEST, shapes(TEST, error=0.01), None)
    estimates = table(TEST, shapes(TEST, error=0.02))
    estimates.loc[3, "flag"] = 4
    found = judged(
        estimates, table(SHEAR, shapes(SHEAR)), own, TEST, SHEAR, BOUNDS, biases(1.0, 0.0), resamples=20
    )
    assert list(found) == JUDGED
    who = [found[name] for name in ("trained_on", "population", "out_of_distribution", "seed", "n_failed")]
    assert who == ["simulation", "sky", 1, 1, 1]
    assert found["over_own"] == pytest.approx(2)
    assert found["over_own_err"] == pytest.approx(0, abs=1e-12)  # the residuals are the same but for a factor
    expected = 0.02 * np.sqrt((np.delete(RESIDUAL, 3, axis=1) ** 2).mean())
    assert (found["rmse"], found["rmse_over_crb"]) == pytest.approx((expected, expected / 0.01))


def test_the_shear_is_calibrated_by_the_response_on_the_population_of_the_training():
    sheared = table(SHEAR, shapes(SHEAR, response=0.9, offset=0.004))
    given = (table(TEST, shapes(TEST)), sheared, table(TEST, shapes(TEST, 0.1), None), TEST, SHEAR, BOUNDS)
    found = judged(*given, biases(0.8, 0.0), resamples=20)
    assert (found["m1"], found["m2"]) == pytest.approx((0.125, 0.125))
    assert (found["c1"], found["c2"]) == pytest.approx((0.005, 0.005), rel=1e-2)
    assert found["n_pairs"] == 200
    # The error of that response counts.
    found = judged(*given, biases(0.8, 0.008), resamples=20)
    assert found["m1_err"] == pytest.approx(1.125 * 0.01)
    # Without a measurement of it there is no m.
    found = judged(*given, biases(0.8, 0.0).iloc[:0], resamples=20)
    assert np.isnan(found["m1"])
    assert found["rmse"] == 0


def test_the_network_trained_on_the_population_is_beside_it_and_labelled_so():
    own = table(TEST, shapes(TEST, error=0.01), None)
    row = at_home(own, TEST, BOUNDS, biases(0.8, 0.0), resamples=20)
    assert (row["trained_on"], row["population"], row["out_of_distribution"]) == ("sky", "sky", 0)
    assert (row["over_own"], row["n_pairs"]) == (1, 100)  # half of the galaxies calibrate
    assert row["m1"] == pytest.approx(0, abs=1e-12)
    assert list(judged_table([row])) == JUDGED


def test_the_label_of_a_network_is_that_of_its_shear_bias():
    own, estimates = (table(TEST, shapes(TEST, error=0.01), on) for on in (None, "simulation"))
    named = biases(0.8, 0.0).assign(label="toy (searched: 40 trials)")
    found = judged(estimates, table(SHEAR, shapes(SHEAR)), own, TEST, SHEAR, BOUNDS, named, resamples=20)
    home = at_home(own, TEST, BOUNDS, named, resamples=20)
    assert found["label"] == home["label"] == "toy (searched: 40 trials)"


def test_a_network_measures_another_population_only_where_that_is_asked_for(tmp_path):
    stamps, _ = make_split(tmp_path, "test", 4, "sersic_moffat", side=48, scale=0.2)
    model = network("whitened", stamps)
    with pytest.raises(ContractError, match="population"):
        predict(model, stamps, 1e-3, seed=1)
    shapes, _ = predict(model, stamps, 1e-3, seed=1, elsewhere=True)
    assert (shapes.flag == 0).all()
    for field, value in (("shape", (24, 24)), ("pixel_scale", 0.3)):
        model.about[field], before = value, model.about[field]
        with pytest.raises(ContractError, match=f"{field}.*as the model was trained on"):
            predict(model, stamps, 1e-3, seed=1, elsewhere=True)
        model.about[field] = before


def test_a_network_that_takes_the_psf_of_each_galaxy_takes_the_one_psf_of_all(tmp_path):
    stamps, _ = make_split(tmp_path, "test", 6, side=48, scale=0.2)
    assert stamps.constant_psf
    model = network("shearnet", stamps, per_galaxy_psf=True)
    # As it is told for each stamp: the same answers.
    images, psf = stamps.noiseless()
    varying = torch.from_numpy(np.repeat(psf[None], len(images), axis=0))
    found, _ = predict(model, stamps, 1e-9, seed=1, elsewhere=True)
    answer = model.network(torch.from_numpy(images), varying, torch.tensor(1e-9))
    np.testing.assert_allclose(found.g1, answer.shapes[:, 0].detach(), atol=1e-5)
