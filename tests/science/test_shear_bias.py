"""Shear bias: the injected m and c are recovered, with correct errors."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from shearbench.errors import ContractError
from shearbench.evaluation.shear_bias import SHEAR_BIAS, shear_bias, shear_bias_table, unbiased
from shearbench.evaluation.shear_bias_bins import (
    BINS,
    SHEAR_BIAS_BINS,
    shear_bias_bins,
    shear_bias_bins_table,
)

SHEAR = 0.02


def shear_split(n, rotations=2, seed=0, width=0.2):
    """Catalog of a shear split, rows in a scrambled order; shapes sheared as complex numbers."""
    rng = np.random.default_rng(seed)
    e = np.clip(width * rng.standard_normal(n), -0.6, 0.6) * np.exp(2j * np.pi * rng.random(n))
    turn = np.exp(2j * np.pi * np.arange(rotations) / rotations)
    applied = SHEAR * np.array([1, -1, 1j, -1j])
    pair, rotation, member = (a.ravel() for a in np.indices((n, rotations, 4)))
    intrinsic, s = e[pair] * turn[rotation], applied[member]
    g = (intrinsic + s) / (1 + np.conj(s) * intrinsic)
    catalog = pd.DataFrame(
        {
            "galaxy_id": np.arange(pair.size),
            "pair_id": pair,
            "rotation": rotation,
            "shear1": s.real,
            "shear2": s.imag,
            "e1": intrinsic.real,
            "e2": intrinsic.imag,
            "g1": g.real,
            "g2": g.imag,
        }
    ).sample(frac=1, random_state=seed, ignore_index=True)
    catalog.attrs = {"population": "toy", "split": "shear"}
    return catalog


def answer(catalog, g1=None, g2=None, **extra):
    estimates = pd.DataFrame(
        {
            "galaxy_id": catalog["galaxy_id"],
            "g1": catalog["g1"] if g1 is None else g1,
            "g2": catalog["g2"] if g2 is None else g2,
            "g1_err": 0.01,
            "g2_err": 0.01,
            "flag": 0,
        }
    ).assign(**extra)
    estimates.attrs = {
        "seconds": 1.0,
        "n": len(catalog),
        "estimator": "toy-fit",
        "kind": "toy",
        "population": "toy",
        "split": "shear",
        "sigma": 1e-3,
        "seed": 3,
    }
    return estimates


def paired_noise(catalog, rng, size):
    """Return noise that is nearly the same for the four shears of a rotation, as for equal pixel noise."""
    group = catalog["pair_id"].to_numpy() * 4 + catalog["rotation"].to_numpy()
    shared = rng.standard_normal((group.max() + 1, 2))[group]
    return size * (shared + 0.1 * rng.standard_normal((len(catalog), 2)))


@pytest.mark.parametrize("rotations", [1, 2, 4])
def test_truth_has_no_bias_at_all(rotations):
    catalog = shear_split(50, rotations)
    rows = shear_bias(answer(catalog), catalog)
    assert [row["calibration"] for row in rows] == ["none", "response"]
    for row in rows:
        assert list(row) == SHEAR_BIAS
        for name in ("m1", "m2", "c1", "c2", "m1_err", "c1_err"):
            assert row[name] == pytest.approx(0, abs=1e-13)
        assert row["R1"] == pytest.approx(1, abs=1e-13)
    assert [row["n_pairs"] for row in rows] == [50, 25]


def test_two_rotations_leave_a_response_error_that_the_truth_takes_out():
    """Not divided by the response of the true shapes, m would be off by <e1^2 - e2^2>, here 1e-3 or more."""
    catalog = shear_split(200)
    sign = np.sign(catalog["shear1"])
    raw = (sign * catalog["g1"])[sign != 0].mean() / SHEAR - 1
    assert abs(raw) > 1e-3
    intrinsic = catalog[["e1", "e2"]].to_numpy()
    assert raw == pytest.approx(-(intrinsic[:, 0] ** 2 - intrinsic[:, 1] ** 2).mean(), abs=2e-4)
    four = shear_split(200, rotations=4)
    sign = np.sign(four["shear1"])
    assert abs((sign * four["g1"])[sign != 0].mean() / SHEAR - 1) < 1e-4


def test_injected_bias_is_found_exactly_without_noise():
    catalog = shear_split(40)
    estimates = answer(catalog, 1.03 * catalog["g1"] + 2e-3, 0.9 * catalog["g2"] - 1e-4)
    before, after = shear_bias(estimates, catalog, label="Toy")
    assert (before["m1"], before["m2"]) == pytest.approx((0.03, -0.1), abs=1e-12)
    # <g> is zero only to second order in the shear, so m leaks into c at that order
    assert (before["c1"], before["c2"]) == pytest.approx((2e-3, -1e-4), abs=1e-6)
    assert (after["m1"], after["m2"], after["c1"], after["c2"]) == pytest.approx((0, 0, 0, 0), abs=1e-12)
    assert (after["R1"], after["R2"]) == pytest.approx((1.03, 0.9))
    assert (before["label"], before["seed"], before["noise"]) == ("Toy", 3, 1e-3)


def test_shape_noise_is_the_scatter_over_the_response_and_lost_stamps_count():
    """The shape noise is the same for any response; noise adds its variance, and shear adds nothing."""
    catalog = shear_split(3000, seed=2)
    intrinsic = float(np.sqrt((catalog[["e1", "e2"]] ** 2).to_numpy().mean()))
    raw, plain = shear_bias(answer(catalog), catalog)
    assert math.isnan(raw["shape_noise"])
    assert plain["shape_noise"] == pytest.approx(intrinsic, rel=2e-3)
    assert plain["n_eff"] == pytest.approx(1, abs=1e-12)
    assert plain["n_eff_err"] == pytest.approx(0, abs=1e-12)
    # In 3000 galaxies, the scatter of a component is known to about 1/sqrt(2 * 2 * 3000).
    assert plain["shape_noise_err"] == pytest.approx(intrinsic / math.sqrt(4 * 3000), rel=0.6)
    weaker = shear_bias(answer(catalog, 0.7 * catalog["g1"], 0.6 * catalog["g2"]), catalog)[1]
    assert weaker["shape_noise"] == pytest.approx(plain["shape_noise"], rel=1e-3)
    # The same noise under all shears, as from the same pixels.
    noise = paired_noise(catalog, np.random.default_rng(4), 0.1)
    noisy = answer(catalog, 0.7 * (catalog["g1"] + noise[:, 0]), 0.7 * (catalog["g2"] + noise[:, 1]))
    row = shear_bias(noisy, catalog)[1]
    expected = math.hypot(intrinsic, 0.1 * math.hypot(1, 0.1))
    assert row["shape_noise"] == pytest.approx(expected, rel=0.02)
    assert row["n_eff"] == pytest.approx((intrinsic / expected) ** 2, rel=0.04)
    # A tenth of the galaxies is lost.
    noisy["flag"] = np.where(catalog["pair_id"] % 10 == 0, 4, 0)
    assert shear_bias(noisy, catalog)[1]["n_eff"] == pytest.approx(0.9 * row["n_eff"], rel=0.05)
    # An estimator with a response of its own, of ellipticities three times as small.
    own = answer(catalog, catalog["g1"] / 3, catalog["g2"] / 3, R11=1 / 3, R22=1 / 3)
    assert shear_bias(own, catalog)[1]["shape_noise"] == pytest.approx(plain["shape_noise"], rel=2e-3)


def test_noise_of_the_pairs_cancels():
    catalog = shear_split(2000)
    noise = paired_noise(catalog, np.random.default_rng(5), 0.05)
    row = shear_bias(answer(catalog, catalog["g1"] + noise[:, 0], catalog["g2"] + noise[:, 1]), catalog)[0]
    # 2 rotations x 2 members each of noise 0.1 * 0.05
    expected = 0.1 * 0.05 / math.sqrt(2000 * 2 * 2) / SHEAR
    assert row["m1_err"] == pytest.approx(expected, rel=0.15)
    assert abs(row["m1"]) < 4 * row["m1_err"]


def test_quoted_errors_cover_the_bias_before_and_after_calibration():
    """Over 120 samples of 80 galaxies the injected m and c lie within one quoted error in 68 per cent."""
    inside = np.zeros((2, 4))
    truth = {"none": (0.03, 0.03, 1e-3, 1e-3), "response": (0, 0, 0, 0)}
    for seed in range(120):
        catalog = shear_split(80, seed=seed)
        noise = paired_noise(catalog, np.random.default_rng(1000 + seed), 0.02)
        shapes = [1.03 * catalog[name] + 1e-3 + noise[:, i] for i, name in enumerate(("g1", "g2"))]
        for i, row in enumerate(shear_bias(answer(catalog, *shapes), catalog, resamples=100)):
            for j, name in enumerate(("m1", "m2", "c1", "c2")):
                inside[i, j] += abs(row[name] - truth[row["calibration"]][j]) < row[f"{name}_err"]
    # two components together are 240 trials; 4 standard deviations
    fraction = inside.reshape(2, 2, 2).sum(axis=2) / 240
    assert (np.abs(fraction - 0.6827) < 4 * math.sqrt(0.68 * 0.32 / 240)).all(), fraction


def test_calibration_uses_other_galaxies_than_those_judged():
    """A response that differs between the halves shows as a bias after calibration."""
    catalog = shear_split(100)
    odd = catalog["pair_id"] % 2 == 1
    estimates = answer(catalog, np.where(odd, 1.1, 1.0) * catalog["g1"])
    after = shear_bias(estimates, catalog)[1]
    assert after["m1"] == pytest.approx(0.1, abs=1e-12)
    assert after["R1"] == pytest.approx(1.0)


def test_flagged_members_take_their_base_galaxy_along():
    catalog = shear_split(30)
    estimates = answer(catalog)
    bad = (catalog["pair_id"] == 7) & (catalog["rotation"] == 1) & (catalog["shear1"] > 0)
    estimates.loc[bad, "flag"] = 2
    estimates.loc[bad, ["g1", "g2"]] = np.nan
    before, after = shear_bias(estimates, catalog)
    assert (before["n_pairs"], before["n_failed"], after["n_failed"]) == (29, 1, 1)
    assert before["m1"] == pytest.approx(0, abs=1e-13)
    estimates["flag"] = 1
    for row in shear_bias(estimates, catalog):
        assert (row["n_pairs"], row["n_failed"]) == (0, 30)
        assert math.isnan(row["m1"])
        assert not unbiased(row["m1"], row["m1_err"], 1e-3)


def test_estimator_with_a_response_of_its_own():
    """Shapes scaled by 0.8 with R = 0.8 times the true response: <e>/<R> is the applied shear."""
    catalog = shear_split(3000)
    intrinsic = catalog["e1"] + 1j * catalog["e2"]
    # d g / d s of (e + s) / (1 + s* e) at s = 0, by components
    square = (intrinsic**2).to_numpy()
    responses = {
        "R11": 0.8 * (1 - square.real),
        "R22": 0.8 * (1 + square.real),
        "R12": -0.8 * square.imag,
        "R21": -0.8 * square.imag,
    }
    shapes = [0.8 * catalog["g1"] + 1.6e-3, 0.8 * catalog["g2"]]
    before, after, simulated = shear_bias(answer(catalog, *shapes, **responses), catalog)
    assert before["m1"] == pytest.approx(-0.2, abs=1e-12)
    # third order in the shear is left: s^2
    assert (after["m1"], after["m2"]) == pytest.approx((0, 0), abs=SHEAR**2)
    assert after["c1"] == pytest.approx(2e-3, abs=1e-5)
    assert after["c2"] == pytest.approx(0, abs=1e-5)
    assert after["R1"] == pytest.approx(0.8, rel=0.01)
    assert after["n_pairs"] == 3000
    # Both protocols agree, but where the own response is wrong.
    assert (simulated["calibration"], simulated["n_pairs"]) == ("simulated", 1500)
    assert (simulated["m1"], simulated["m2"]) == pytest.approx((0, 0), abs=1e-12)
    assert simulated["R1"] == pytest.approx(0.8, abs=1e-12)
    wrong = {name: 1.25 * value for name, value in responses.items()}
    _, misled, same = shear_bias(answer(catalog, *shapes, **wrong), catalog)
    assert misled["m1"] == pytest.approx(-0.2, abs=1e-3)
    assert same == simulated | {"m1": same["m1"]}
    diagonal = shear_bias(answer(catalog, *shapes, R11=responses["R11"], R22=responses["R22"]), catalog)[1]
    assert diagonal["m1"] == pytest.approx(after["m1"], abs=1e-3)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c.iloc[:-1],
        lambda c: c.assign(shear1=c["shear1"].abs()),
        lambda c: c.assign(pair_id=0),
        lambda c: c.assign(rotation=0),
        lambda c: c.assign(shear1=c["shear1"] * np.where(c["pair_id"] == 3, 2, 1)),
        lambda c: c.assign(shear2=0.02),
        lambda c: c.iloc[:0],
    ],
)
def test_incomplete_sets_are_refused(spoil):
    catalog = spoil(shear_split(10))
    catalog.attrs = {"population": "toy", "split": "shear"}
    with pytest.raises(ContractError, match="sample_catalog"):
        shear_bias(answer(catalog), catalog)


def test_table_and_acceptance():
    catalog = shear_split(10)
    table = shear_bias_table(shear_bias(answer(catalog), catalog))
    assert list(table) == SHEAR_BIAS
    assert unbiased(9e-4, 0.0, 1e-3)
    assert unbiased(-5e-3, 2e-3, 1e-3)
    assert not unbiased(-5e-3, 1e-3, 1e-3)
    assert not unbiased(math.nan, 1.0, 1e-3)


def test_images_of_sheared_galaxies_measured_by_their_moments():
    """From the catalog and GalSim images to m and c: signs, axes and layout agree.

    Adaptive moments of an unconvolved Gaussian are its shape, to the 1e-6 at which HSM stops iterating.
    """
    galsim = pytest.importorskip("galsim")
    from shearbench.simulation.catalog import sample_catalog
    from shearbench.simulation.populations import PRESETS, Population

    population = Population(**PRESETS["gauss_gauss"])
    catalog = sample_catalog(population, "gauss_gauss", "shear", 12, seed=4, pixel_scale=0.2)
    shapes = []
    for row in catalog.itertuples():
        galaxy = galsim.Gaussian(half_light_radius=row.hlr, flux=row.flux).shear(g1=row.e1, g2=row.e2)
        galaxy = galaxy.shear(g1=row.shear1, g2=row.shear2).shift(row.dx, row.dy)
        image = galaxy.drawImage(nx=64, ny=64, scale=0.15, method="no_pixel", dtype=float)
        found = galsim.hsm.FindAdaptiveMom(image).observed_shape
        shapes.append((found.g1, found.g2))
    estimates = answer(catalog, *np.transpose(shapes))
    estimates.attrs["population"] = "gauss_gauss"
    row = shear_bias(estimates, catalog)[0]
    for name in ("m1", "m2"):
        assert row[name] == pytest.approx(0, abs=1e-4)  # 2e-6 / (2 * 0.02)
    for name in ("c1", "c2"):
        assert row[name] == pytest.approx(0, abs=2e-6)


def with_flux(catalog, seed, decades=None):
    """Give each base galaxy a flux, on which a response may depend: 0.5 to 5, or decades around 1."""
    rng, count = np.random.default_rng(seed), catalog["pair_id"].max() + 1
    flux = rng.uniform(0.5, 5, count) if decades is None else 10 ** (decades * rng.uniform(-0.5, 0.5, count))
    found = catalog.assign(flux=flux[catalog["pair_id"]])
    found.attrs = catalog.attrs
    return found


def responds(catalog, rng, noise=0.02):
    """Return shapes whose response rises with the flux from 0.4 to 0.8."""
    response = 1 - 0.6 / (0.5 + catalog["flux"].to_numpy())
    return [
        response * catalog[name].to_numpy() + part
        for name, part in zip(("g1", "g2"), paired_noise(catalog, rng, noise).T)
    ]


def test_regression_brings_both_halves_to_one_composition_and_quotes_honest_errors():
    """Errors are a third of those without the flux, and |m| is below its error 68 times in 100."""
    inside, errors, plain = [], [], []
    for seed in range(60):
        catalog = with_flux(shear_split(240, seed=seed), seed)
        estimates = answer(catalog, *responds(catalog, np.random.default_rng(seed), 0.001))
        row = shear_bias(estimates, catalog, resamples=100)[1]
        inside += [abs(row[name]) < row[f"{name}_err"] for name in ("m1", "m2")]
        errors.append(row["m1_err"])
        if seed < 5:
            plain.append(shear_bias(estimates, catalog.drop(columns="flux"), resamples=100)[1]["m1_err"])
    assert np.mean(plain) > 3 * np.mean(errors)
    assert abs(np.mean(inside) - 0.6827) < 4 * math.sqrt(0.68 * 0.32 / 120)


def test_regression_follows_a_response_that_falls_towards_the_faint_galaxies_of_a_catalogue():
    """The fluxes of a catalogue cover two decades, and noise lowers the response of the faintest few."""
    known, unknown = [], []
    for seed in range(5):
        catalog = shear_split(800, seed=seed)
        listed = with_flux(catalog, seed, decades=2)
        response = 1 / (1 + (0.1 / listed["flux"].to_numpy()) ** 2)
        shapes = [response * catalog[name].to_numpy() for name in ("g1", "g2")]
        known.append(shear_bias(answer(listed, *shapes), listed, resamples=100)[1]["m1_err"])
        unknown.append(shear_bias(answer(catalog, *shapes), catalog, resamples=100)[1]["m1_err"])
    assert np.mean(unknown) > 6 * np.mean(known)


def observed(catalog, rng):
    """Return estimates whose error depends on the flux and, weakly, on the observed elongation."""
    g1, g2 = responds(catalog, rng, 0.005)
    error = 0.1 / catalog["flux"] * (1 + 0.5 * (catalog["g1"] ** 2 + catalog["g2"] ** 2))
    return answer(catalog, g1, g2).assign(g1_err=error, g2_err=error)


def test_response_at_the_observed_error_calibrates_every_bin():
    catalog = with_flux(shear_split(1500, rotations=4), 1)
    estimates = observed(catalog, np.random.default_rng(2))
    estimates.attrs = answer(catalog).attrs
    table = shear_bias_bins_table(shear_bias_bins(estimates, catalog))
    assert list(table) == SHEAR_BIAS_BINS
    assert len(table) == 3 * (BINS + 1)
    m = table.set_index(["calibration", "bin"])
    faint, bright = m.loc[("none", 1)], m.loc[("none", BINS)]
    assert faint["error"] > bright["error"]
    assert bright["m1"] - faint["m1"] > 0.2
    # Elongated galaxies look fainter: the shear moves what it elongates out of the brightest bin.
    assert bright["S1"] < -3 * bright["m1_err"] / 10
    assert m.loc[("none", 0)]["share"] == pytest.approx(1)
    assert m.loc["none"].loc[1:, "share"].sum() == pytest.approx(1)
    mean = m.loc[("response", 0)]
    assert unbiased(mean["m1"], mean["m1_err"], 0)
    assert not unbiased(m.loc[("response", 1)]["m1"], m.loc[("response", 1)]["m1_err"], 0)
    for k in range(BINS + 1):
        row = m.loc[("binned", k)]
        for name in ("m1", "m2"):
            assert unbiased(row[name], row[f"{name}_err"], 0, 3.5), (k, name)
            assert row[f"{name}_err"] < 0.05


def test_selection_response_is_that_of_finite_differences():
    """All shapes have the full response, so m of a bin comes from the weights only."""
    catalog = with_flux(shear_split(400, rotations=4), 3)
    estimates = answer(catalog).assign(g1_err=1 + catalog["g1"] ** 2, g2_err=1 + catalog["g1"] ** 2)
    estimates.attrs = answer(catalog).attrs
    table = shear_bias_bins_table(shear_bias_bins(estimates, catalog))
    raw = table[table["calibration"] == "none"]
    assert raw["m1"].to_numpy() == pytest.approx(raw["S1"].to_numpy(), abs=1e-12)
    bins = raw[raw["bin"] > 0]
    # a positive shear elongates those along the first axis: they leave the bin of small errors
    assert bins["S1"].iloc[-1] < 0 < bins["S1"].iloc[0]
    assert (bins["share"] * 1).sum() == pytest.approx(1)
    assert raw["m1"].iloc[0] == pytest.approx(0, abs=1e-12)


def test_no_bins_without_errors_of_single_stamps():
    catalog = shear_split(40)
    assert shear_bias_bins(answer(catalog), catalog) == []  # one error for all
    nothing = answer(catalog).assign(g1_err=np.nan)
    nothing.attrs = answer(catalog).attrs
    assert shear_bias_bins(nothing, catalog) == []
    assert shear_bias_bins(answer(catalog, R11=1.0, R22=1.0), catalog) == []


def test_bins_are_drawn_for_every_noise_level_and_calibration():
    from shearbench.figures.shear_bias_bins import draw

    catalog = with_flux(shear_split(100), 1)
    estimates = observed(catalog, np.random.default_rng(2))
    tables = []
    for sigma in (1e-5, 1e-3):
        estimates.attrs = answer(catalog).attrs | {"sigma": sigma}
        tables += shear_bias_bins(estimates, catalog)
    figure = draw(shear_bias_bins_table(tables), "toy")
    assert len(figure.axes) == 6
    assert [text.get_text() for text in figure.axes[-1].get_xticklabels()] == ["1", "2", "3", "4", "all"]
