"""Biases of the values of a study."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from shearbench.evaluation.study_shear import STUDY_SHEAR, shear_verdict, study_shear_table
from shearbench.studies import Study

STUDY = Study(
    name="mixing",
    question="Does mixing bias?",
    base="baseline",
    axis="training.augmentation",
    values={"none": [], "mixup": ["mixup"], "diverged": ["cutmix"]},
    noise=1e-3,
    shear=True,
)


def biases(m1_of):
    rows = []
    for network, values in m1_of.items():
        for seed, m1 in enumerate(values, 1):
            row = dict.fromkeys(("m2", "c1", "c2"), 0.0 * m1) | {"m1": m1}
            row |= {f"{name}_err": 1e-3 + 0 * m1 for name in ("m1", "m2", "c1", "c2")}
            about = {"estimator": network, "seed": seed, "noise": 1e-3, "n_pairs": 50, "n_failed": 0}
            rows += [
                about | row | {"calibration": "none"},
                about | row | {"calibration": "response", "m1": 9.0},
            ]
    return pd.DataFrame(rows)


def test_biases_are_means_over_seeds_without_calibration():
    found = biases({"a": [0.001, 0.0], "b": [-0.1, -0.104], "c": [math.nan, math.nan]})
    networks = {"none": "a", "mixup": "b", "diverged": "c"}
    table = study_shear_table(STUDY, networks, found)
    assert list(table) == STUDY_SHEAR
    assert table["m1"].tolist()[:2] == pytest.approx([0.0005, -0.102])
    assert table["m1_err"].tolist()[1] == pytest.approx(math.hypot(1e-3, 2e-3))
    assert table["n_seeds"].tolist() == [2, 2, 0]
    said = shear_verdict(STUDY, table)
    assert "3 sigma or more are seen for mixup (m1 = -0.1020 +- 0.0022)" in said.replace("±", "+-")
    assert "no bias is seen for none." in said
    assert "there is no result for diverged." in said
    assert "a difference of 3 sigma or more is seen for mixup (m1 by -0.1025 +- 0.0025)." in said.replace(
        "±", "+-"
    )


def test_a_bias_that_the_reference_has_too_is_no_difference():
    table = study_shear_table(
        STUDY, {"none": "a", "mixup": "b"}, biases({"a": [0.1, 0.1], "b": [0.1, 0.101]})
    )
    said = shear_verdict(STUDY, table)
    assert "are seen for none" in said
    assert said.endswith("Beside their references, no difference is seen.")
