"""The example of docs/own-data.md, measured with the networks of a run; nothing is trained."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from simulated import SCALE, SIDE, make_split, train

from shearbench.config.plain_yaml import dump, read_file
from shearbench.config.reading import DEFAULT, resolve
from shearbench.data.own_stamps import OwnStamps
from shearbench.data.stamps import write_index
from shearbench.evaluation.shear_bias import SHEAR_BIAS
from shearbench.files.tables import read_table
from shearbench.files.text import write_csv, write_text
from shearbench.options import merge
from shearbench.tasks.shear.model_file import load, save_model
from shearbench.tasks.shear.packed import pack, save_packed
from shearbench.tools import measure

ROOT = Path(__file__).parents[3]
CHANGES = {
    "run": "small",
    "stamps": {"size_pixels": SIDE, "pixel_scale_arcsec": SCALE},
    "populations": {"exp_gauss": {"half_light_radius_arcsec": [0.4, 0.8]}},
    "estimators": {
        **dict.fromkeys(["ngmix-exp", "ngmix-gauss", "ngmix-metacal", "anacal-fpfs", "mixture-gauss"]),
        "metacal-mixture-gauss": None,
        "mixture-exp": None,
        "metacal-shearnet": {"base": "metacal-network", "network": "shearnet"},
    },
    "variants": {"whitened": None, "refined": None},
    "training": {"epochs": 1, "batch_size": 32, "noise": [1e-4, 1e-2]},
}


def digests(folder):
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a run of one network, and the file that the documentation makes."""
    folder = tmp_path_factory.mktemp("place")
    run = folder / "results/small"
    config = resolve(merge(read_file(ROOT / DEFAULT), CHANGES))
    write_text(run / "config.yaml", dump(config.dump()))
    splits = [make_split(folder, split, n) for split, n in (("train", 64), ("validation", 32), ("test", 100))]
    (stamps, catalogs) = zip(*splits)
    model, _ = train(
        *stamps[:2],
        *catalogs[:2],
        config.variants["shearnet"],
        population=config.populations["exp_gauss"],
        name="shearnet",
        seed=1,
    )
    save_model(run / "models/exp_gauss/shearnet/seed1/model.pt", model)
    chunk = run / "stamps/exp_gauss/test/0.h5"
    chunk.parent.mkdir(parents=True)
    shutil.copy(folder / "test.h5", chunk)
    write_index(chunk.with_name("index.json"), [chunk])
    rows = [
        [
            "exp_gauss",
            noise,
            "shearnet",
            "shearnet",
            "network",
            1,
            "none",
            9,
            0,
            *[-0.5, 0.01] * 2,
            *[0, 0.01] * 2,
            1,
            1,
        ]
        for noise in (1e-4, 1e-2)
    ]
    write_csv(run / "metrics/shear_bias.csv", pd.DataFrame(rows, columns=SHEAR_BIAS[:-4]))
    text = (ROOT / "docs/own-data.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    line = "N, SIDE, SCALE, SIGMA, SHEAR = 200, 48, 0.2, "
    assert line in code
    code = code.replace(line, f"N, SIDE, SCALE, SIGMA, SHEAR = 40, {SIDE}, {SCALE}, ")
    exec(code.replace('"my.h5"', repr(str(folder / "my.h5"))), {})
    return folder


def test_the_example_is_measured_and_nothing_else_changes(place, tmp_path, capsys):
    before = digests(place)
    measure.main([str(place / "my.h5"), "--run", str(place / "results/small"), "--output", str(tmp_path)])
    assert digests(place) == before
    printed = capsys.readouterr().out
    assert re.search(r"shearnet: 40 of 40 stamps measured", printed)
    table = read_table(
        tmp_path / "my.parquet", ["id", "out_of_range", "hsm_regauss_g1", "shearnet_g1_err"], "x"
    )
    assert (table["shearnet_flag"] == 0).all()
    assert table["out_of_range"].mean() < 0.5
    assert {"metacal_shearnet_R11", "snr"} <= set(table)
    with fits.open(tmp_path / "my.fits") as hdus:
        assert hdus["SHAPES"].columns.names == list(table)
    shear = pd.read_csv(tmp_path / "my_shear.csv").set_index("estimator")
    assert shear.loc["shearnet", "calibration"] == "m and c of exp_gauss at noise 0.001"
    assert shear.loc["shearnet", "shear1"] == pytest.approx(2 * table["shearnet_g1"].mean())
    assert shear.loc["hsm-regauss", "calibration"].startswith("none: m was not measured")
    # The mean over pairs of galaxies with opposite shapes is the shear, 0.02, up to HSM's own bias.
    assert shear.loc["hsm-regauss", "g1"] == pytest.approx(0.02, abs=0.01)
    assert (tmp_path / "my.png").stat().st_size > 10000


def test_an_ensemble_is_the_mean_of_its_members(place, tmp_path):
    run = tmp_path / "small"
    shutil.copytree(place / "results/small", run)
    others = dict.fromkeys(["metacal-shearnet", "hsm-regauss", "hsm-ksb"])
    changes = {"seeds": [1, 2], "estimators": {**others, "ensemble": {"networks": ["shearnet"]}}}
    config = resolve(merge(merge(read_file(ROOT / DEFAULT), CHANGES), changes))
    write_text(run / "config.yaml", dump(config.dump()))
    models = run / "models/exp_gauss/shearnet"
    content = load(models / "seed1/model.pt", "train") | {"seed": 2}
    content["state"]["target_spread"] *= 1.2  # a network with larger answers
    save_model(models / "seed2/model.pt", content)
    _, table = measure.measure(OwnStamps(str(place / "my.h5")), run)
    members = [table[f"shearnet_seed{seed}_g1"] for seed in (1, 2)]
    np.testing.assert_allclose(members[1], 1.2 * members[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(table["ensemble_g1"], sum(members) / 2)
    np.testing.assert_allclose(
        table["ensemble_g1_epistemic"], abs(members[1] - members[0]) / np.sqrt(2), atol=1e-9
    )


def test_a_file_of_a_network_measures_without_the_run(place, tmp_path):
    run = place / "results/small"
    stamps, _ = make_split(tmp_path, "test", 60)
    from shearbench.measurement.own_stamps import simulated_properties

    known = simulated_properties(stamps, (1e-4, 1e-2), 1)
    bias = pd.read_csv(run / "metrics/shear_bias.csv")
    content = pack(run / "models/exp_gauss/shearnet/seed1/model.pt", {}, (1e-4, 1e-2), known, bias)
    save_packed(tmp_path / "shearnet.pt", content)
    for output, source in (
        ("a", ["--network", str(tmp_path / "shearnet.pt"), "--run", str(tmp_path / "no run")]),
        ("b", ["--run", str(run)]),
    ):
        measure.main([str(place / "my.h5"), *source, "--output", str(tmp_path / output)])
    one, other = (read_table(tmp_path / name / "my.parquet", [], "x") for name in "ab")
    pd.testing.assert_series_equal(one["shearnet_g1"], other["shearnet_g1"])
    shears = [pd.read_csv(tmp_path / name / "my_shear.csv").set_index("estimator") for name in "ab"]
    assert shears[0].loc["shearnet", "shear2"] == shears[1].loc["shearnet", "shear2"]


@pytest.mark.parametrize(
    ("lacking", "says"),
    [
        (
            "models/exp_gauss/shearnet/seed1/model.pt",
            "1 of 1 trained networks are missing, the first is .*model.pt",
        ),
        ("config.yaml", r"there is no run in this folder \(no config.yaml\)"),
        ("stamps/exp_gauss/test/index.json", "the simulated galaxies are missing"),
    ],
)
def test_it_refuses_an_unfinished_run_and_trains_nothing(place, tmp_path, lacking, says):
    run = tmp_path / "small"
    shutil.copytree(place / "results/small", run)
    (run / lacking).unlink()
    before = digests(tmp_path)
    with pytest.raises(SystemExit, match=rf"error: .*{says}.*Nothing is trained here: finish the run"):
        measure.main([str(place / "my.h5"), "--run", str(run)])
    assert digests(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--population", "other"], "population: found other, expected one of exp_gauss"),
        (["--sigma", "noise"], "found no noise 'noise'"),
        (
            ["--network", "{run}/models/exp_gauss/shearnet/seed1/model.pt"],
            "it is a model without population_opt",
        ),
    ],
)
def test_wrong_arguments_get_one_sentence(place, arguments, says):
    run = str(place / "results/small")
    given = [one.replace("{run}", run) for one in arguments]
    with pytest.raises(SystemExit, match=f"error: .*{says}"):
        measure.main([str(place / "my.h5"), "--run", run, *given])
