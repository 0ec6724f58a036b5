"""Shape noise, and scatter over pairs, beside those of a reference: known ones are found."""

from __future__ import annotations

import numpy as np
import pytest
from test_selection import answer

from shearbench.evaluation.pair_scatter import PAIR_SCATTER, pair_scatter
from shearbench.evaluation.shape_noise import SHAPE_NOISE, shape_noise
from shearbench.simulation.catalog import sample_catalog
from shearbench.simulation.populations import PRESETS, Population

CATALOG = sample_catalog(Population(**PRESETS["exp_gauss"]), "toy", "shear", 1500, 3, 0.2)
# The noise is the same under all shears.
STAMPS = CATALOG.groupby(["pair_id", "rotation"]).ngroup().to_numpy()
NUMBERS = np.random.default_rng(4).standard_normal((2, STAMPS.max() + 1))[:, STAMPS]


def estimates(noise, response=1.0, **extra):
    """Return shapes with noise, all times a response, which the estimator may measure itself."""
    found = answer(CATALOG, response, **extra)
    for k in range(2):
        found[f"g{k + 1}"] += response * noise * NUMBERS[k]
    return found


@pytest.mark.parametrize("own", [False, True])
def test_a_known_ratio_is_found_whatever_the_responses(own):
    extra = {"R11": 0.5, "R22": 0.5} if own else {}
    row = shape_noise(estimates(0.1), estimates(0.3, 0.5, **extra), CATALOG, label="Toy", resamples=100)
    assert list(row) == SHAPE_NOISE
    assert (row["reference"], row["n_pairs"], row["n_failed"]) == ("toy", 1500, 0)
    squares = CATALOG[["g1", "g2"]].to_numpy() ** 2
    expected = np.sqrt((squares.mean() + 0.1**2) / (squares.mean() + 0.3**2))
    assert row["shape_noise"] == pytest.approx(np.sqrt(squares.mean() + 0.1**2), rel=0.01)
    assert row["ratio"] == pytest.approx(row["shape_noise"] / row["shape_noise_reference"])
    # <g^2> makes the response of the true shapes 1 - <g^2>; an own response is told as 1.
    bias = 1 - squares.mean() if own else 1.0
    assert row["ratio"] == pytest.approx(expected / bias, rel=0.05 if own else 0.02)


def test_intrinsic_shapes_cancel_in_the_error():
    same = shape_noise(estimates(0.01), estimates(0.01, 0.5), CATALOG, resamples=100)
    assert same["ratio"] == pytest.approx(1, abs=1e-10)
    assert same["ratio_err"] == pytest.approx(0, abs=1e-10)
    near = shape_noise(estimates(0.02), estimates(0.0), CATALOG, resamples=100)
    assert 0 < near["ratio_err"] < 0.002  # that of either shape noise is a hundredth or more


def test_galaxies_that_either_fails_on_or_has_not_measured_are_left_out():
    first, second = estimates(0.1), estimates(0.2).head(160)
    second.attrs["n"] = 160
    first.loc[20, "flag"] = 4
    second.loc[40, "flag"] = 4
    row = shape_noise(first, second, CATALOG, resamples=20)
    assert (row["n_pairs"], row["n_failed"]) == (8, 2)


# Scatter of the shear of pairs


def opposite(noise, response=1.0, **extra):
    """Return shapes whose noise has both signs, as in the split, and is the same under all shears."""
    found = answer(CATALOG, response, **extra)
    realisation = CATALOG.groupby(["pair_id", CATALOG["rotation"] // 2]).ngroup().to_numpy()
    sign = 1 - 2 * (CATALOG["rotation"].to_numpy() % 2)
    for k in range(2):
        found[f"g{k + 1}"] += response * noise * sign * NUMBERS[k][realisation]
    return found


@pytest.mark.parametrize("own", [False, True])
def test_pairs_scatter_by_the_noise_alone_whatever_the_responses(own):
    extra = {"R11": 0.5, "R22": 0.5} if own else {}
    row = pair_scatter(opposite(0.1), opposite(0.3, 0.5, **extra), CATALOG, label="Toy", resamples=100)
    assert list(row) == PAIR_SCATTER
    assert (row["reference"], row["n_pairs"], row["n_failed"], row["label"]) == ("toy", 1500, 0, "Toy")
    # Two stamps with independent noise: 0.1 / sqrt(2). The shear itself and the shapes do not count.
    assert row["scatter"] == pytest.approx(0.1 / np.sqrt(2), rel=0.05)
    bias = 1 - (CATALOG[["g1", "g2"]].to_numpy() ** 2).mean() if own else 1.0
    assert row["ratio"] == pytest.approx(1 / 3 / bias, rel=0.05 if own else 0.01)
    assert row["ratio"] == pytest.approx(row["scatter"] / row["scatter_reference"])
    assert 0 < row["scatter_err"] < 0.01


def test_the_noise_that_two_estimators_share_cancels_in_the_error_of_their_ratio():
    row = pair_scatter(opposite(0.1), opposite(0.1, 0.7), CATALOG, resamples=100)
    assert row["ratio"] == pytest.approx(1, abs=1e-3)
    assert row["ratio_err"] < 0.05 * row["scatter_err"] / row["scatter"]
