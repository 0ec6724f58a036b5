"""Cuts in observed quantities: a selection with a known response is found, and calibrated away."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from shearbench.data.shapes import Flag
from shearbench.evaluation.selection import PASSING, QUANTITIES, SELECTION, selection, selection_table
from shearbench.simulation.catalog import sample_catalog
from shearbench.simulation.populations import PRESETS, Population

SHEAR = 0.05
STRENGTH = 0.7


@pytest.fixture(scope="module")
def catalog():
    """Return a shear split whose shapes are e + gamma, without terms of second order."""
    table = sample_catalog(Population(**PRESETS["exp_gauss"]), "toy", "shear", 3000, 3, 0.2, SHEAR)
    for k in "12":
        table[f"g{k}"] = table[f"e{k}"] + table[f"shear{k}"]
    return table


def answer(catalog, response=1.0, offset=0.0, **extra):
    g1, g2 = (response * catalog[f"g{k}"] + offset for k in "12")
    found = pd.DataFrame(
        {"galaxy_id": catalog["galaxy_id"], "g1": g1, "g2": g2, "g1_err": np.nan, "g2_err": np.nan, "flag": 0}
    ).assign(**extra)
    about = {"estimator": "toy", "kind": "toy", "split": "shear", "sigma": 1e-3, "seconds": 1.0, "seed": None}
    found.attrs = {**about, "population": catalog.attrs["population"], "n": len(catalog)}
    return found


def brightness(catalog, strength=0.0):
    """Return a uniform random number for each galaxy and orientation, which grows with |g|^2."""
    orientations = catalog.groupby(["pair_id", "rotation"]).ngroup().to_numpy()
    number = np.random.default_rng(7).random(orientations.max() + 1)[orientations]
    return number + strength * (catalog["g1"] ** 2 + catalog["g2"] ** 2)


def of(rows, quantity):
    return {row["calibration"]: row for row in rows if row["quantity"] == quantity}


def expected_response(catalog):
    """Return the response of the selection for `STRENGTH`, by integrating over the random numbers.

    A stamp passes with the probability 1 - t + a |g|^2. With g = e + gamma, the mean shape of those that pass
    has the derivative 1 + 2 a <e1^2> / (1 - t + a <|g|^2>) by gamma1, in which <|e|^2> is 2 <e1^2>.
    """
    return STRENGTH * float((catalog["e1"] ** 2 + catalog["e2"] ** 2).mean()) / PASSING


def test_a_selection_that_the_shear_does_not_change_has_no_bias(catalog):
    rows = selection(answer(catalog, 0.8, s2n=brightness(catalog)), catalog, label="Toy", resamples=50)
    for quantity, passing in (("none", 1.0), ("s2n", PASSING)):
        found = of(rows, quantity)
        assert found["none"]["passing"] == pytest.approx(passing, abs=0.01)
        assert found["none"]["m1"] == pytest.approx(-0.2)
        for calibration in ("response", "selection"):
            row = found[calibration]
            assert list(row) == SELECTION
            # The shapes of the galaxies that pass do not average to zero.
            assert (row["m1"], row["m2"], row["S1"], row["S2"]) == pytest.approx((0, 0, 0, 0), abs=1e-10)
            assert abs(row["c1"]) < 5 * row["c1_err"] < 0.05
            assert (row["n_pairs"], row["n_failed"], row["label"]) == (1500, 0, "Toy")


def test_a_known_selection_response_is_found_and_calibrated_away(catalog):
    rows = selection(answer(catalog, 0.8, s2n=brightness(catalog, STRENGTH)), catalog, resamples=100)
    found, expected = of(rows, "s2n"), expected_response(catalog)
    assert 0.05 < expected < 0.1
    for k in "12":
        wrong, right = found["response"], found["selection"]
        assert wrong[f"m{k}_err"] < expected / 4
        assert abs(wrong[f"m{k}"] - expected) < 4 * wrong[f"m{k}_err"]
        assert wrong[f"S{k}"] == pytest.approx(wrong[f"m{k}"], rel=1e-6)  # all of m is from the selection
        assert abs(right[f"m{k}"]) < 4 * right[f"m{k}_err"]
        assert right[f"m{k}_err"] < expected / 2
        assert found["none"][f"m{k}"] == pytest.approx(0.8 * (1 + wrong[f"m{k}"]) - 1, rel=1e-6)
    # Galaxies that were not selected are unbiased.
    assert of(rows, "none")["response"]["m1"] == pytest.approx(0, abs=1e-10)


def test_an_own_response_is_that_of_selected_galaxies_and_lacks_the_selection(catalog):
    size = brightness(catalog, STRENGTH)
    bright = size > np.quantile(size, 1 - PASSING)
    response = np.where(bright, 0.6, 0.3)
    shapes = {"g1": response * catalog["g1"], "g2": response * catalog["g2"]}
    rows = selection(answer(catalog, R11=response, R22=response, T=size, **shapes), catalog, resamples=100)
    found, expected = of(rows, "size"), expected_response(catalog)
    assert found["none"]["column"] == "T"
    wrong, right = found["response"], found["selection"]
    assert abs(wrong["m1"] - expected) < 4 * wrong["m1_err"]
    assert abs(right["m1"]) < 4 * right["m1_err"]
    assert wrong["m1_err"] < expected / 4


def test_an_offset_is_divided_by_the_response(catalog):
    rows = selection(answer(catalog, 0.8, 0.04, flux=brightness(catalog)), catalog, resamples=50)
    everything = of(rows, "none")
    assert everything["none"]["c1"] == pytest.approx(0.04, abs=1e-10)
    assert everything["response"]["c1"] == pytest.approx(0.05, abs=1e-10)


def test_a_preference_for_an_orientation_is_an_additive_bias(catalog):
    """With the probability 1 - t + a g1 to pass, the mean of g1 is a <g1^2> / (1 - t)."""
    flux = brightness(catalog) + 0.2 * catalog["g1"]
    row = of(selection(answer(catalog, flux=flux), catalog, resamples=100), "flux")["selection"]
    expected = 0.2 * float((catalog["g1"] ** 2).mean()) / PASSING
    assert abs(row["c1"] - expected) < 4 * row["c1_err"]
    assert row["c1_err"] < expected / 4
    assert abs(row["c2"]) < 4 * row["c2_err"]


def test_quantities_that_an_estimator_does_not_measure_are_said_to_be_missing(catalog):
    few = catalog.head(160)
    errors = {"g1_err": brightness(few), "g2_err": 0.1}
    table = selection_table(selection(answer(few, **errors), few, resamples=20))
    assert list(table) == SELECTION
    columns = dict(zip(table["quantity"], table["column"]))
    assert columns == {**dict.fromkeys(QUANTITIES, "not measured"), "none": "all", "error": "g1_err, g2_err"}
    missing = table[table["column"] == "not measured"]
    assert len(missing) == 3
    assert missing[["n_pairs", "m1", "passing"]].isna().all(axis=None)
    # The ratio of flux and error where there is no S/N; large errors do not pass.
    ratio = {"flux": 2.0 + brightness(few), "flux_err": 0.5}
    table = selection_table(selection(answer(few, **errors, **ratio), few, resamples=20))
    assert dict(zip(table["quantity"], table["column"]))["s2n"] == "flux / flux_err"
    threshold = table.loc[table["quantity"] == "error", "threshold"].iloc[0]
    assert threshold == pytest.approx(-np.quantile(np.hypot(errors["g1_err"], 0.1), PASSING), rel=1e-6)


def test_few_galaxies_and_failures_give_no_numbers_and_no_warning(catalog):
    few = catalog.head(64)
    own = answer(few, s2n=brightness(few), R11=0.9, R22=0.9)
    assert of(selection(own, few, resamples=20), "s2n")["none"]["n_pairs"] == 2
    few = catalog.head(48)
    estimates = answer(few, s2n=brightness(few))
    estimates.loc[3, "flag"] = int(Flag.FAILED)
    assert of(selection(estimates, few, resamples=20), "s2n")["none"]["n_failed"] == 1
    failed = selection_table(selection(estimates.assign(flag=4), few, resamples=20))
    assert failed[["m1", "m1_err"]].isna().all(axis=None)
