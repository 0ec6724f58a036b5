"""The plan of the comparison of frameworks: files, origins, and what a change makes anew."""

from pathlib import Path

import pytest

from shearbench.config.plain_yaml import dump, read_file
from shearbench.config.reading import load, resolve
from shearbench.config.studies import Studies
from shearbench.data.external import checkpoint_files
from shearbench.errors import ConfigError
from shearbench.frameworks import options
from shearbench.options import merge
from shearbench.plan.digests import Digests
from shearbench.plan.run import FRAMEWORKS, Run, unavailable

ROOT = Path(__file__).parents[3]
FILES = [ROOT / "config" / name for name in ("config.yaml", "frameworks.yaml")]
CHECKPOINT = {"frameworks": {"checkpoints": {"shearnet-cnn": {"folder": "a/cnn7"}}}}


def digests_of(changes=None, files=FILES, left_out=()):
    given = {}
    for part in (*map(read_file, files), changes or {}):
        given = merge(given, part)
    run = Run(resolve(given), Studies({}, {}, {}, {}), dict.fromkeys(left_out, "not here"))
    files = [{"path": "a/cnn7/_METADATA", "sha256": "b"}]
    return Digests(run, ROOT / "scripts", lambda name: [], checkpoint=lambda name: files)


def test_each_network_is_an_estimator_of_the_test_split():
    digests = digests_of(CHECKPOINT)
    run = digests.run
    estimates = run.all_estimates("test")
    trained = [f"{name}.seed{seed}" for name in run.config.frameworks.networks for seed in (1, 2)]
    names = [Path(path).stem for path in estimates if "/1e-05/" in path]
    assert names == ["mixture-exp", *trained, "shearnet-cnn"]
    assert len(estimates) == 4 * len(names)
    assert not any("torch" in path for path in run.all_estimates("shear"))
    assert run.labels["jax"] == "JAX (Flax)"
    made = [
        *estimates,
        *(path for suffix in ("csv", "h5") for *_, path in run.of_frameworks(suffix)),
        *(path for path in run.framework_outputs if "/figures/" not in path),
    ]
    origins = [digests.origin(path) for path in made]
    assert None not in origins
    assert len({(one.rule, str(one.names)) for one in origins}) == len(made)
    # All files of one training are made by one job.
    of_one = [one for one in origins if one.names.get("estimator") == "jax" and one.names["seed"] == 2]
    assert len(of_one) == 6
    assert len({digests.job(one) for one in of_one}) == 1
    assert list(run.figures_of_sections) == ["frameworks", "frameworks_precision"]
    assert digests.origin(f"{run.folder}/frameworks/exp_gauss/other.seed1.csv") is None


def test_a_change_makes_anew_what_depends_on_it():
    before, epochs = digests_of(), digests_of({"frameworks": {"epochs": 3}})
    seeds = digests_of({"frameworks": {"seeds": [1]}})
    for name in ("numpy", "keras"):
        assert epochs.train_framework("exp_gauss", name) != before.train_framework("exp_gauss", name)
        assert seeds.train_framework("exp_gauss", name) == before.train_framework("exp_gauss", name)
    assert seeds.evaluate_frameworks() != before.evaluate_frameworks()
    assert seeds.measure_precision() == before.measure_precision()
    assert digests_of(CHECKPOINT).evaluate_frameworks() != before.evaluate_frameworks()


def test_the_section_changes_nothing_of_other_estimators():
    without = digests_of(files=FILES[:1])
    assert without.run.figures_of_sections == {}
    assert without.run.frameworks == []
    assert without.origin(f"{without.run.folder}/metrics/{FRAMEWORKS[0]}") is None
    with_it = digests_of({"frameworks": {}}, files=FILES[:1])
    noise = "1e-05"
    for name in without.run.estimators:
        assert with_it.measure("exp_gauss", "test", noise, name) == without.measure(
            "exp_gauss", "test", noise, name
        )
    assert with_it.evaluate_shear_bias() == without.evaluate_shear_bias()


def test_a_network_whose_packages_are_missing_is_left_out(monkeypatch):
    monkeypatch.setattr(options, "_is_there", lambda package: package not in ("flax", "orbax.checkpoint"))
    reasons = unavailable(digests_of(CHECKPOINT).run.config)
    assert set(reasons) == {"jax", "shearnet-cnn"}
    assert reasons["jax"].startswith("flax cannot be imported. Install ")
    run = digests_of(CHECKPOINT, left_out=reasons).run
    assert "jax" not in dict(run.frameworks)
    assert run.shearnet_checkpoints == {}
    assert not any("jax" in path or "shearnet" in path for path in run.all_estimates("test"))
    # numpy and torch need nothing more.
    assert all(not options.NETWORKS[name].packages for name in ("numpy", "numpy-float64", "torch"))


def test_the_configuration_is_made_again_from_its_dump(tmp_path):
    config = load(*FILES)
    (tmp_path / "again.yaml").write_text(dump(config.dump()))
    assert load(tmp_path / "again.yaml") == config


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"networks": ["jax"]}, r"frameworks.networks: found \['jax'\]; numpy must be one of them"),
        ({"networks": ["numpi"]}, r"frameworks.networks.0: found 'numpi'.*did you mean 'numpy'"),
        ({"galaxies": 10**6}, r"frameworks.galaxies: 1000000 is more than the 5000 galaxies"),
        ({"galaxies": 20}, r"frameworks.batch_size: 32 is more than the 20 galaxies of an epoch"),
        ({"checkpoints": {"jax": {"folder": "a"}}}, r"frameworks.checkpoints: 'jax' is the name of a frame"),
        ({"epoch": 3}, r"frameworks.epoch: there is no such key"),
        ({"checkpoints": {"mixture-exp": {"folder": "a"}}}, r"'mixture-exp' is the name of an estimator"),
    ],
)
def test_faults_of_the_section(section, said):
    with pytest.raises(ConfigError, match=said):
        digests_of({"frameworks": section})


def test_a_folder_that_is_no_checkpoint(tmp_path):
    with pytest.raises(ConfigError, match=r"frameworks.checkpoints.cnn.folder: found .*file _METADATA"):
        checkpoint_files("cnn", str(tmp_path))
    (tmp_path / "d").mkdir()
    for name in ("_METADATA", "d/1"):
        (tmp_path / name).write_text("")
    assert [Path(path).name for path in checkpoint_files("cnn", str(tmp_path))] == ["_METADATA", "1"]
