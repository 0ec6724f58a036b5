"""Errors that are right, too small or shifted are told apart; the area under the curve is scikit-learn's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from shearbench.evaluation.uncertainty import (
    CURVES,
    LEVELS,
    RANKS,
    UNCERTAINTY,
    area_under_curve,
    curves_table,
    stated_errors,
    uncertainty,
    uncertainty_table,
)

N = 4000


def tables(factor=1.0, offset=0.0, population="sky", n=N, **columns):
    """Return estimates whose errors are `factor` times those given, beside the catalog and the bounds."""
    rng = np.random.default_rng(1)
    catalog = pd.DataFrame(
        {"galaxy_id": np.arange(n), "g1": rng.normal(0, 0.2, n), "g2": rng.normal(0, 0.2, n)}
    )
    catalog.attrs = {"population": population, "split": "test", "digest": "d"}
    bounds = pd.DataFrame({"galaxy_id": np.arange(n), "crb_g1": 5.0, "crb_g2": 5.0, "snr": 0.1})
    error = rng.uniform(0.005, 0.02, (n, 2))
    shapes = catalog[["g1", "g2"]].to_numpy() + error * (factor * rng.standard_normal((n, 2)) + offset)
    estimates = pd.DataFrame({"galaxy_id": np.arange(n), "g1": shapes[:, 0], "g2": shapes[:, 1]})
    estimates = estimates.assign(g1_err=error[:, 0], g2_err=error[:, 1], flag=0, **columns)
    estimates.attrs = {"estimator": "toy", "kind": "toy", "sigma": 1e-3, "seconds": 1.0, "seed": None, "n": n}
    estimates.attrs |= {"population": population, "split": "test"}
    return estimates, catalog, bounds


def found(*args, home=None, **columns):
    rows, curves = uncertainty(stated_errors(*tables(*args, **columns)), home, resamples=50)
    return rows, curves_table(curves)


def test_right_errors_cover_the_nominal_fractions():
    rows, curves = found()
    assert [list(row) for row in rows] == [UNCERTAINTY] * 2
    assert list(curves) == CURVES
    none, scaled = rows
    assert (none["n_stated"], scaled["n_stated"], none["scale"]) == (N, N // 2, 1.0)
    assert none["out_of_distribution"] == 0
    assert none["trained_on"] == "sky"
    for row in rows:
        for nominal, name in ((0.6827, "coverage68"), (0.95, "coverage95"), (0.0, "z_mean"), (1.0, "z_std")):
            assert abs(row[name] - nominal) < 5 * row[f"{name}_err"]
        assert row["ece"] < 4 * row["ece_expected"]
    assert none["coverage68_err"] == pytest.approx(np.sqrt(0.6827 * 0.3173 / (2 * N)), rel=0.4)
    assert none["sharpness"] == pytest.approx(np.sqrt(7 / 4) * 0.01, rel=0.02)  # of a uniform distribution
    assert none["sharpness_over_crb"] == pytest.approx(none["sharpness"] / 5e-3)
    assert np.isnan(none["epistemic"])
    assert np.isnan(none["auc"])
    ranks = curves[(curves["curve"] == "rank") & (curves["calibration"] == "none")]
    assert len(ranks) == RANKS
    assert (abs(ranks["y"] - 1) < 5 * ranks["y_err"]).all()
    against = curves[curves["curve"] == "error"]
    assert (abs(against["y"] / against["x"] - 1) < 5 * against["y_err"] / against["x"]).all()
    assert against["x"].max() > 1.5 * against["x"].min()


def test_errors_that_are_too_small_are_found_and_scaled():
    (none, scaled), curves = found(3.0)
    assert none["z_std"] == pytest.approx(3, rel=0.05)
    assert none["coverage68"] == pytest.approx(0.26, abs=0.03)  # within a third of a standard deviation
    assert none["ece"] > 0.2
    of_right_errors = np.sqrt(2 / np.pi * LEVELS * (1 - LEVELS) / (2 * N)).mean()
    assert none["ece_expected"] == pytest.approx(of_right_errors)
    assert scaled["scale"] == pytest.approx(3, rel=0.06)
    assert scaled["coverage68"] == pytest.approx(0.6827, abs=5 * scaled["coverage68_err"])
    assert scaled["sharpness"] == pytest.approx(scaled["scale"] * none["sharpness"], rel=0.05)
    ranks = curves[(curves["curve"] == "rank") & (curves["calibration"] == "none")]["y"].to_numpy()
    assert min(ranks[0], ranks[-1]) > 2 > 4 * ranks[1:-1].max() / 2
    covered = curves[(curves["curve"] == "coverage") & (curves["calibration"] == "none")]
    assert (covered["y"] < LEVELS).all()


def test_fractions_and_sharpness_are_those_of_uncertainty_toolbox():
    theirs = pytest.importorskip(
        "uncertainty_toolbox.metrics_calibration", reason="needs the package uncertainty-toolbox"
    )
    given = tables(1.3, 0.2)
    residual, error = (getattr(stated_errors(*given), name).ravel() for name in ("residual", "error"))
    (row, _), curves = uncertainty(stated_errors(*given))
    zero = np.zeros_like(residual)
    covered = [theirs.get_proportion_in_interval(residual, error, zero, level) for level in LEVELS]
    ours = [point["y"] for point in curves if (point["curve"], point["calibration"]) == ("coverage", "none")]
    np.testing.assert_allclose(ours, covered, rtol=0, atol=1e-12)
    assert row["sharpness"] == pytest.approx(theirs.sharpness(error), rel=1e-12)
    assert row["ece"] == pytest.approx(np.abs(np.array(covered) - LEVELS).mean(), rel=1e-12)


def test_an_offset_tilts_the_ranks():
    _, curves = found(1.0, 1.0)  # estimates are too large, so the truth has low ranks
    ranks = curves[(curves["curve"] == "rank") & (curves["calibration"] == "none")]["y"].to_numpy()
    assert ranks[0] > 2 > 0.5 > ranks[-1]


def test_galaxies_of_another_population_are_told_apart_by_the_epistemic_part():
    usual = {f"{g}_{part}": 0.01 for g in ("g1", "g2") for part in ("aleatoric", "epistemic")}
    spread = np.random.default_rng(3).uniform(0.01, 0.03, N)
    home = stated_errors(*tables(2.0, **usual, n=N))
    other = usual | {"g1_epistemic": spread, "g2_epistemic": spread}
    (none, scaled), _ = found(4.0, population="elsewhere", home=home, **other)
    assert (none["trained_on"], none["population"], none["out_of_distribution"]) == ("sky", "elsewhere", 1)
    assert none["auc"] == pytest.approx(0.5, abs=1e-9)  # the same errors, in the same order
    assert none["auc_epistemic"] == 1
    # The errors are scaled as on the population of the training, and all galaxies are judged.
    assert scaled["scale"] == pytest.approx(2, rel=0.06)
    assert scaled["n_stated"] == N
    assert scaled["z_std"] == pytest.approx(2, rel=0.06)
    assert scaled["epistemic"] == pytest.approx(scaled["scale"] * none["epistemic"])


def test_the_area_is_that_of_scikit_learn_and_its_error_the_scatter_of_samples():
    rng = np.random.default_rng(5)

    def area():
        scores = np.round(np.concatenate([rng.normal(0.7, 1, 150), rng.normal(0, 1, 100)]), 1)  # with ties
        return scores, *area_under_curve(scores[:150], scores[150:])

    scores, value, _ = area()
    assert value == pytest.approx(roc_auc_score(np.arange(250) < 150, scores))
    values, errors = np.transpose([area()[1:] for _ in range(200)])
    assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.25)
    assert np.isnan(area_under_curve(np.array([1.0, np.nan]), np.zeros(5))).all()
    assert np.isnan(area_under_curve(np.ones(1), np.zeros(5))).all()


@pytest.mark.parametrize("case", ["no errors", "all failed", "no galaxy", "one galaxy"])
def test_an_estimator_without_errors_has_a_row_without_numbers(case):
    estimates, catalog, bounds = tables(n=8)
    if case == "no errors":
        estimates[["g1_err", "g2_err"]] = np.nan
    elif case == "all failed":
        estimates["flag"] = 1
    else:
        few = int(case == "one galaxy")
        estimates, catalog, bounds = (table.head(few) for table in (estimates, catalog, bounds))
    rows, curves = uncertainty(stated_errors(estimates, catalog, bounds), resamples=20)
    table = uncertainty_table(rows)
    assert list(table) == UNCERTAINTY
    assert len(table) == 2
    if case != "one galaxy":
        assert table["coverage68"].isna().all()
        assert curves == []
    assert (table["n_failed"] == (8 if case == "all failed" else 0)).all()
