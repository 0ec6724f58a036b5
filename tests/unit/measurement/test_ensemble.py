"""Ensembles: mean and variances of members; thinned networks do not depend on batches."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from shearbench.config.plain_yaml import read_file
from shearbench.config.reading import DEFAULT, resolve
from shearbench.data.estimates import estimates_table, read_estimates, write_estimates
from shearbench.data.shapes import Flag, Shapes
from shearbench.data.stamps import StampBatch
from shearbench.errors import ConfigError, ShearbenchError
from shearbench.measurement import mc_dropout
from shearbench.measurement.ensemble import combine, combined
from shearbench.measurement.mc_dropout import measure_thinned, thinned
from shearbench.measurement.trained_network import NetworkMeasurer
from shearbench.networks import architecture_kinds
from shearbench.options import merge
from shearbench.tasks.shear.network import ShearNetwork

ROOT = Path(__file__).parents[3]


def shapes(g1, error, flag=0):
    g1, error = np.asarray(g1, float), np.full(np.shape(g1), error)
    return Shapes(g1, -g1, error, 2 * error, np.full(g1.shape, flag))


def test_the_variance_is_that_of_the_members_and_between_them():
    members = [shapes([0.1, 0.2], 0.03), shapes([0.3, 0.2], 0.04), shapes([0.2, 0.2], 0.05)]
    found = combine(members)
    np.testing.assert_allclose(found.g1, [0.2, 0.2])
    np.testing.assert_allclose(found.g2, [-0.2, -0.2])
    noise = np.mean(np.square([0.03, 0.04, 0.05]))
    np.testing.assert_allclose(found.extra["g1_aleatoric"] ** 2, noise)
    np.testing.assert_allclose(found.extra["g2_aleatoric"] ** 2, 4 * noise)
    np.testing.assert_allclose(found.extra["g1_epistemic"], [0.1, 0], atol=1e-12)  # unbiased: over two
    np.testing.assert_allclose(found.g1_err**2, [noise + 0.01, noise])
    assert found.flag.tolist() == [0, 0]


def test_the_variance_of_a_few_members_is_right_on_average():
    rng = np.random.default_rng(2)
    truth, spread, noise = rng.normal(0, 0.1, 20000), 0.02, 0.01
    common = truth + noise * rng.standard_normal(20000)  # the noise of the pixels is the same for all members
    found = combine([shapes(common + spread * rng.standard_normal(20000), noise) for _ in range(2)])
    assert np.sqrt(np.mean(found.extra["g1_epistemic"] ** 2)) == pytest.approx(spread, rel=0.03)
    assert np.std(found.g1 - truth) == pytest.approx(np.sqrt(noise**2 + spread**2 / 2), rel=0.03)


def test_a_stamp_needs_two_members_that_measured_it():
    nothing = np.nan
    members = [
        shapes([0.1, 0.1, nothing], 0.02),
        shapes([0.3, nothing, nothing], 0.02),
        shapes([nothing] * 3, 0.02),
    ]
    for one in members:
        one.flag = np.where(np.isfinite(one.g1), 0, int(Flag.FAILED))
    members[2].flag[:] = int(Flag.DIVERGED)
    found = combine(members)
    np.testing.assert_allclose(found.g1, [0.2, np.nan, np.nan])
    assert found.flag.tolist() == [0, Flag.FAILED | Flag.DIVERGED, Flag.FAILED | Flag.DIVERGED]
    assert found.extra["members"].tolist() == [2, 1, 0]
    # Members without errors leave those of the others.
    without = shapes([0.2] * 3, np.nan)
    np.testing.assert_allclose(combine([members[0], without]).extra["g1_aleatoric"], [0.02, 0.02, np.nan])


class Stamps:
    galaxy_id = np.arange(3)
    population, split, catalog_digest = "sky", "test", "d"

    def __len__(self):
        return 3


def test_estimates_of_an_ensemble_are_estimates(tmp_path):
    measured = [shapes([0.1, 0.2, 0.3], error) for error in (0.1, 0.2)]
    tables = [estimates_table(one, Stamps(), 1e-3, "network", 2.0) for one in measured]
    for table in tables:
        table.attrs |= {"trained_on": "simulation"}
    write_estimates(tmp_path / "e.parquet", combined(tables), "ensemble")
    found = read_estimates(tmp_path / "e.parquet")
    about = [found.attrs[name] for name in ("kind", "seconds", "seed", "estimator", "trained_on", "sigma")]
    assert about == ["ensemble", 4.0, None, "ensemble", "simulation", 1e-3]
    assert {"g1_aleatoric", "g2_epistemic", "members"} <= set(found)
    tables[1]["galaxy_id"] = [1, 2, 0]
    with pytest.raises(ShearbenchError, match="another order"):
        combined(tables)
    tables[1].attrs["sigma"] = 1e-2
    with pytest.raises(ShearbenchError, match="different stamps"):
        combined(tables)


RUN = {"populations": {"exp_gauss": {}}, "variants": {"pooled": {}, "shearnet": {}}}


@pytest.mark.parametrize(
    ("estimators", "seeds", "says"),
    [
        ({"ensemble": {"networks": ["pooledd"]}}, [1, 2], "did you mean 'pooled'"),
        ({"ensemble": {"networks": ["pooled"]}}, [1], "two members or more"),
        ({"ensemble": {}}, [1, 2], "networks: found 0 networks"),
        ({"ensemble": {"networks": ["pooled", "shearnet"], "shear_galaxies": 9}}, [1], "leave this out"),
        ({"metacal": {"estimator": "ensemble"}}, [1], "has no network of the run"),
        ({"mc-dropout": {"network": "pooled"}}, [1], "it has no dropout"),
    ],
)
def test_an_impossible_ensemble_is_refused(estimators, seeds, says):
    with pytest.raises(ConfigError, match=says):
        resolve({**RUN, "seeds": seeds, "estimators": estimators})


def test_an_ensemble_of_seeds_or_of_variants_is_possible():
    resolve({**RUN, "seeds": [1, 2], "estimators": {"ensemble": {"networks": ["pooled"]}}})
    resolve({**RUN, "estimators": {"ensemble": {"networks": ["pooled", "shearnet"]}}})
    variants = {"p": {"base": "pooled", "options": {"dropout": 0.2}}}
    resolve({**RUN, "variants": variants, "estimators": {"mc-dropout": {"network": "p"}}})


def test_the_configurations_of_the_page_are_possible():
    page = (ROOT / "docs/uncertainty.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    changes = [yaml.safe_load(block) for block in blocks]
    # The page ends with the result of a file in place of a block.
    changes += [read_file(ROOT / name) for name in re.findall(r"`(config/\w+\.yaml)`", page)]
    configs = [resolve(merge(read_file(ROOT / DEFAULT), change)) for change in changes]
    assert all("ensemble" in config.estimators for config in configs)
    assert configs[-1].judge_on


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    architecture = architecture_kinds()["convnet"](dropout=0.3, spatial_dropout=0.2, width=4)
    found = ShearNetwork(architecture, (24, 24), 0.3, False)
    images = torch.rand(32, 24, 24) + 0.1
    parameters = torch.randn(32, len(found.targets)) * 0.1
    found.fit_scaling(images, torch.rand(24, 24), parameters)
    found.calibrate([1e-3], [torch.randn(32, 2)], [torch.linspace(5, 50, 32)])
    return found.eval()


def batch_of(n):
    images = np.random.default_rng(4).random((n, 24, 24), np.float32) + np.float32(0.1)
    return StampBatch(images, np.ones((24, 24), np.float32), 1e-3, 0.3, np.arange(n), np.arange(n))


def test_thinned_networks_are_the_same_for_all_stamps_and_batches(network, monkeypatch):
    monkeypatch.setattr(mc_dropout, "load_network", lambda path, variant: NetworkMeasurer(network))
    whole = measure_thinned("model.pt", "p", batch_of(70), 3)
    part = measure_thinned("model.pt", "p", batch_of(70).select(slice(60, 70)), 3)
    np.testing.assert_array_equal(whole.g1[60:], part.g1)
    np.testing.assert_array_equal(whole.g2_err[60:], part.g2_err)
    assert (whole.extra["g1_epistemic"] > 0).all()
    assert (whole.g1_err > whole.extra["g1_aleatoric"]).all()
    plain = NetworkMeasurer(network, errors=True).measure(batch_of(70))
    np.testing.assert_allclose(whole.extra["g1_aleatoric"], plain.g1_err, rtol=1e-5)
    again = NetworkMeasurer(network, errors=True).measure(batch_of(70))
    np.testing.assert_array_equal(plain.g1, again.g1, "no unit is left out after the measurement")


def test_units_are_left_out_with_their_probability_and_the_mean_stays():
    layer = nn.Sequential(nn.Dropout(0.25), nn.Dropout2d(0.5)).eval()
    kept, values = [], []
    for k in range(200):
        with thinned(layer, k):
            answer = layer(torch.ones(2, 6, 3, 3))
        assert torch.equal(answer[0], answer[1])
        channels = answer[0].flatten(1)
        kept.append(float((channels.sum(1) > 0).float().mean()))
        values.append(float(answer.mean()))
    assert np.mean(kept) == pytest.approx(0.5, abs=0.06)
    assert np.mean(values) == pytest.approx(1, abs=0.12)
    assert torch.equal(layer(torch.ones(1, 6, 3, 3)), torch.ones(1, 6, 3, 3))
