"""m against true properties: a known dependence of the response is found."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import make_split
from test_selection import answer

from shearbench.evaluation.shear_trends import SHEAR_TRENDS, shear_trends, shear_trends_table
from shearbench.simulation.catalog import sample_catalog
from shearbench.simulation.populations import PRESETS, Population

CATALOG = sample_catalog(Population(**PRESETS["exp_gauss"]), "toy", "shear", 400, 3, 0.2)
SIGNAL = CATALOG["flux"].to_numpy() / 10


def response():
    """Return a response that is 0.8 for large galaxies and 0.6 for small ones."""
    return np.where(CATALOG["hlr"] > CATALOG["hlr"].median(), 0.8, 0.6)


def of(rows, name, calibration):
    return [row for row in rows if (row["property"], row["calibration"]) == (name, calibration)]


def test_a_response_that_depends_on_size_is_a_bias_that_does():
    scale = response()
    rows = shear_trends(answer(CATALOG, scale), CATALOG, SIGNAL, label="Toy", resamples=50)
    assert list(rows[0]) == SHEAR_TRENDS
    assert rows[0]["label"] == "Toy"
    assert [row["m1"] for row in of(rows, "size", "none")] == pytest.approx(
        [-0.4, -0.4, -0.2, -0.2], abs=1e-3
    )
    calibrated = of(rows, "size", "response")
    np.testing.assert_allclose([row["m2"] for row in calibrated], [-1 / 7] * 2 + [1 / 7] * 2, atol=0.03)
    centres = [row["centre"] for row in calibrated]
    assert centres == sorted(centres)
    assert centres[0] == pytest.approx(np.quantile(CATALOG["hlr"] / CATALOG["psf_fwhm"], 1 / 8), rel=0.05)
    assert sum(row["n_pairs"] for row in calibrated) == 200
    # Flux says nothing about this response.
    for row in of(rows, "s2n", "response"):
        assert abs(row["m1"]) < 4 * row["m1_err"] < 0.2
    assert of(rows, "s2n", "none")[0]["centre"] == pytest.approx(np.quantile(SIGNAL, 1 / 8) / 1e-3, rel=0.05)


def test_an_own_response_calibrates_each_bin():
    """True shapes have a response of about 1 - e^2, which the own response here leaves out."""
    scale = response()
    rows = shear_trends(answer(CATALOG, scale, R11=scale, R22=scale), CATALOG, SIGNAL, resamples=50)
    for row in of(rows, "size", "response"):
        assert abs(row["m1"]) < 4 * row["m1_err"] + 0.01
        assert row["m1_err"] < 0.02
    wrong = shear_trends(answer(CATALOG, scale, R11=0.8, R22=0.8), CATALOG, SIGNAL, resamples=50)
    assert of(wrong, "size", "response")[0]["m1"] == pytest.approx(-0.25, abs=0.03)


def test_a_property_that_is_the_same_for_all_has_no_rows():
    few = CATALOG.head(16 * 20).assign(hlr=0.5)
    rows = shear_trends(answer(few), few, SIGNAL[: len(few)], resamples=20)
    assert {row["property"] for row in rows} == {"s2n"}
    failed = answer(few).assign(flag=4)
    failed.attrs = answer(few).attrs
    assert shear_trends_table(shear_trends(failed, few, SIGNAL[: len(few)], resamples=20)).empty


def test_the_signal_is_that_of_the_noiseless_stamps(tmp_path):
    stamps, _ = make_split(tmp_path, "test", 3)
    images, _ = stamps.noiseless()
    np.testing.assert_allclose(stamps.signal(), [np.linalg.norm(image) for image in images], rtol=1e-6)
