"""The scripts of the rules, one after the other on a few galaxies: from stamps to tables and figures."""

import runpy
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from simulated import SIDE, make_split

from shearbench.bounds.cramer_rao import cramer_rao
from shearbench.data.estimates import read_estimates
from shearbench.data.stamps import write_index
from shearbench.evaluation.metrics import read_metrics
from shearbench.files.tables import write_table
from shearbench.frameworks.options import Frameworks

SCRIPTS = Path(__file__).parents[3] / "scripts"
NOISE = (1e-5, 1e-2)


class Files(list):
    """Paths by number and, for some, by name, as Snakemake has them."""

    def __init__(self, *paths, **named):
        super().__init__([*paths, *named.values()])
        self.__dict__.update(named)


def run(name, log, given, output, wildcards=None, **params):
    snakemake = SimpleNamespace(
        input=given,
        output=output,
        wildcards=SimpleNamespace(**wildcards or {}),
        params=SimpleNamespace(origins=defaultdict(lambda: None), **params),
        log=[str(log)],
    )
    runpy.run_path(str(SCRIPTS / f"{name}.py"), {"snakemake": snakemake})


def test_from_stamps_to_tables(tmp_path):
    paths = {}
    for split, galaxies in (("train", 64), ("test", 40)):
        stamps, catalog = make_split(tmp_path, split, galaxies)
        paths[split] = str(tmp_path / f"{split}.json")
        write_index(paths[split], stamps.paths)
        paths[f"{split} catalog"] = str(tmp_path / f"{split}.parquet")
        write_table(paths[f"{split} catalog"], catalog, catalog.attrs)
    bounds = cramer_rao(catalog, stamps.pixel_scale, stamps.shape)
    paths["bounds"] = str(tmp_path / "bounds.parquet")
    write_table(paths["bounds"], bounds, bounds.attrs)

    section = Frameworks(width=2, hidden=8, epochs=2, batch_size=32)
    options = section.model_dump(mode="json") | {"noise": list(NOISE)}
    log, common = tmp_path / "log.txt", {"options": options, "sigmas": list(NOISE), "seed": 3}
    histories, estimates = [], []
    for name in ("numpy", "numpy-float64"):
        made = Files(
            weights=str(tmp_path / f"{name}.h5"),
            history=str(tmp_path / f"{name}.csv"),
            estimates=[str(tmp_path / f"{name}.{sigma}.parquet") for sigma in NOISE],
        )
        given = Files(train=paths["train"], test=paths["test"], catalog=paths["train catalog"])
        run("train_framework", log, given, made, {"framework": name, "seed": "4"}, **common)
        histories.append(made.history)
        estimates += made.estimates
    table = read_estimates(estimates[0])
    assert table.attrs["estimator"] == "numpy"
    assert table.attrs["seed"] == 4
    assert len(table) == 40

    given = Files(estimates=estimates, catalogs=[paths["test catalog"]], bounds=[paths["bounds"]])
    accuracy = str(tmp_path / "accuracy.csv")
    run("evaluate_accuracy", log, given, [accuracy], labels={"numpy": "NumPy"}, resamples=20)
    networks = [["exp_gauss", "numpy", 4], ["exp_gauss", "numpy-float64", 4]]
    made = [str(tmp_path / "frameworks.csv")]
    given = Files(accuracy=accuracy, histories=histories)
    run("evaluate_frameworks", log, given, made, networks=networks, checkpoints=[])
    found = read_metrics(made[0]).set_index(["estimator", "noise"])
    assert len(found) == 4
    assert found["batches"].nunique() == 1
    assert (found["train_seconds"] > 0).all()
    for sigma in NOISE:
        # After four steps, rounding has changed nothing that matters.
        rmse = found["rmse"].xs(sigma, level="noise")
        assert rmse["numpy"] == pytest.approx(rmse["numpy-float64"], rel=1e-3)

    given = Files(
        weights=[str(tmp_path / "numpy.h5")],
        test=[paths["test"]],
        catalogs=[paths["test catalog"]],
        bounds=[paths["bounds"]],
    )
    made = [str(tmp_path / "precision.csv")]
    run("measure_precision", log, given, made, resamples=20, **common)
    precision = read_metrics(made[0])
    assert list(precision["precision"]) == 2 * ["float64", "float32", "float16", "bfloat16"]
    # The same weights and stamps as those of the estimates.
    float32 = precision.set_index(["precision", "noise"])["rmse"].loc["float32"]
    assert float32.to_dict() == pytest.approx(found["rmse"].loc["numpy"].to_dict(), rel=1e-6)


def test_a_checkpoint_measures_the_test_split(tmp_path, monkeypatch):
    from shearbench.frameworks import shearnet_checkpoint

    stamps, _catalog = make_split(tmp_path, "test", 10)
    index, made = str(tmp_path / "test.json"), [str(tmp_path / f"{sigma}.parquet") for sigma in NOISE]
    write_index(index, stamps.paths)
    pixels = SIDE**2
    shapes = {"Dense_0": (pixels, 3), "Dense_1": (3, 3), "Dense_2": (3, 2)}
    layers = {
        name: {"kernel": np.full((n, m), 0.1, "f4"), "bias": np.zeros(m, "f4")}
        for name, (n, m) in shapes.items()
    }
    monkeypatch.setattr(shearnet_checkpoint, "read_checkpoint", lambda folder: layers)
    run(
        "measure_checkpoint",
        tmp_path / "log.txt",
        Files(test=index),
        made,
        {"checkpoint": "shearnet-mlp"},
        folder=str(tmp_path),
        sigmas=list(NOISE),
        seed=3,
    )
    table = read_estimates(made[0])
    assert table.attrs["estimator"] == "shearnet-mlp"
    # All weights are equal: the answer is the flux in the stamp times 0.1 * 0.3 * 0.3.
    images, _ = stamps.noiseless()
    assert table["g1"].to_numpy() == pytest.approx(0.009 * images.sum((1, 2)), abs=1e-4)
