"""Runs without networks, estimators or other parts end with the remaining results."""

from __future__ import annotations

import json

import pytest
import yaml
from checkout import copy_workflow
from conftest import planned, snakemake

SMALL = {
    "galaxies": {"train": 64, "validation": 16, "test": 8, "shear": 2, "leakage": 2},
    "bayes_floor": {"galaxies": 2, "samples": 60},
    "training": {"epochs": 1, "batch_size": 32, "noise": [1e-5, 1e-2]},
    "bootstrap": 20,
}
NO_NETWORKS = {"shearnet": None, "whitened": None, "refined": None}
ALL_ESTIMATORS = (
    "ngmix-exp ngmix-gauss ngmix-metacal mixture-exp mixture-gauss hsm-regauss hsm-ksb anacal-fpfs "
    "metacal-mixture-gauss metacal-shearnet ensemble"
).split()


def only(*names):
    return {name: {} if name in names else None for name in ALL_ESTIMATORS}


CASES = {
    "no shear test, no networks": {
        "shear_test": {"noise_levels": []},
        "estimators": only("hsm-regauss"),
        "variants": NO_NETWORKS,
        "bayes_floor": {"galaxies": 0},
    },
    "estimators of ensembles alone": {
        "estimators": only("metacal-mixture-gauss"),
        "variants": NO_NETWORKS,
    },
    "nothing to judge": {"estimators": only(), "variants": NO_NETWORKS},
    "networks alone, round galaxies in the middle": {
        "estimators": only(),
        "variants": {"shearnet": None, "refined": None},
        "populations": {
            "exp_gauss": {
                "half_light_radius_arcsec": [0.4, 0.8],
                "shape_sigma": 0,
                "centroid_shift_pixels": 0,
            }
        },
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_run_ends_with_what_there_is(tmp_path, case):
    copy_workflow(tmp_path)
    path = tmp_path / "config/tiny.yaml"
    config = yaml.safe_load(path.read_text())
    for section, changes in {**SMALL, **CASES[case]}.items():
        given = config.get(section)
        config[section] = {**given, **changes} if isinstance(given, dict) else changes
    config["noise_levels"], shear = [1e-5, 1e-2], config["shear_test"]["noise_levels"]
    config["shear_test"] = {"noise_levels": [1e-5] if shear else []}
    # Of the tiny configuration alone, and with networks that some of the cases have not.
    for name in ("metacal-shearnet", "ensemble"):
        config["estimators"].pop(name)
    path.write_text(yaml.safe_dump(config))
    snakemake(tmp_path)
    assert planned(tmp_path) == {}
    results = tmp_path / "results/tiny"
    assert (results / "paper/main.tex").read_text()
    assert json.loads((results / "manifest.json").read_text())["outputs"]
