"""Shape noise over that of a reference: a known ratio is found, and shapes cancel in its error."""

from __future__ import annotations

import numpy as np
import pytest
from test_selection import answer

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
