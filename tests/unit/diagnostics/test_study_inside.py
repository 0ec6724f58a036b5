"""Measurements inside the networks of a study: batches, shifts, costs and gradients, by value and seed."""

import numpy as np
import pytest
import torch
from simulated import make_split
from torch import nn

from shearbench.diagnostics.batches import EQUAL, MIXED, RUNNING, Judged, batch_statistics, table_of_batches
from shearbench.diagnostics.flow import Batch, layers
from shearbench.diagnostics.galaxies import Split
from shearbench.diagnostics.shifts import SHIFTS
from shearbench.diagnostics.study import measure_inside
from shearbench.networks.convnet import ConvNet
from shearbench.networks.modules.convolution import FROZEN_AFTER
from shearbench.studies import INSIDE_KINDS
from shearbench.tasks.shear.model_file import TrainedNetwork
from shearbench.tasks.shear.network import ShearNetwork

SIDE, SCALE = 16, 0.4


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return Split(*make_split(tmp_path_factory.mktemp("split"), "test", 40, side=SIDE, scale=SCALE))


def model_of(split, seed=1, diverged=False, steps=20, **options):
    """Return a network whose running averages are those of noiseless stamps, over a number of steps."""
    architecture = ConvNet(width=4, stages=2, hidden=[8], **options)
    torch.manual_seed(seed)
    network = ShearNetwork(architecture, (SIDE, SIDE), SCALE, False)
    images, psf = (torch.from_numpy(part) for part in split.stamps.noiseless())
    network.fit_scaling(images, psf, torch.randn(len(images), 2))
    network.train()
    with torch.no_grad():
        for _ in range(steps):
            network(images, psf, torch.tensor(1e-3))
    about = {
        "architecture": "convnet",
        "options": architecture.model_dump(mode="json"),
        "training": {"batch_size": 16},
        "shape": (SIDE, SIDE),
        "per_galaxy_psf": False,
        "pixel_scale": SCALE,
        "population": "exp_gauss",
        "variant": f"convnet.{options}",
        "seed": seed,
        "diverged": diverged,
    }
    return TrainedNetwork(network.eval(), about)


def test_batch_statistics_are_those_of_the_batch_and_leave_no_trace():
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(3).eval()
    network = nn.Sequential(norm, nn.Dropout(0.9)).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    given = 5 + 3 * torch.randn(8, 3, 4, 4)
    with batch_statistics(network):
        found = network(given).detach()
    assert found.mean((0, 2, 3)).abs().max() < 1e-5
    assert found.std((0, 2, 3)).tolist() == pytest.approx([1, 1, 1], rel=0.01)
    assert (found != 0).all()  # dropout is not of the batch
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert (norm.momentum, norm.training) == (0.1, False)


@pytest.mark.parametrize("normalisation", ["none", "group", "layer", "batch_frozen"])
def test_without_batch_normalisation_an_answer_does_not_depend_on_the_batch(split, normalisation):
    model = model_of(split, normalisation=normalisation, steps=FROZEN_AFTER)
    table = table_of_batches(model, Judged.of(split, 40, [1e-3], 1)).set_index("statistics")
    # Sums over a batch are of another order, so that the last bits may differ.
    assert table["rmse_over_crb"].to_numpy() == pytest.approx(table.loc[RUNNING, "rmse_over_crb"], rel=1e-4)
    assert (table["change_over_crb"] < 1e-3 * table["rmse_over_crb"]).all()


def test_with_batch_normalisation_it_does_and_the_galaxies_are_the_same(split):
    model = model_of(split, normalisation="batch")
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    table = table_of_batches(model, Judged.of(split, 40, [1e-3, 1e-2], 1))
    assert table["statistics"].tolist() == 2 * [RUNNING, MIXED, EQUAL]
    assert set(table["stamps"]) == {16}
    assert set(table["galaxies"]) == {32}
    changed = table[table["statistics"] != RUNNING]
    assert (changed["change_over_crb"] > 1e-2 * changed["rmse_over_crb"]).all()
    assert (table.loc[table["statistics"] == RUNNING, "change_over_crb"] == 0).all()
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())


def test_batches_of_equal_brightness_are_of_neighbours_in_flux(split):
    judged = Judged.of(split, 40, [1e-3], 1)
    flux = split.catalog["flux"].to_numpy()[judged.by_brightness]
    assert (np.diff(flux) >= 0).all()
    assert judged.images[1e-3].shape == (40, SIDE, SIDE)


def test_gradients_before_the_training_are_those_of_a_step(split):
    """With running averages that have seen nothing, a network with batch normalisation is another one."""
    network = model_of(split, normalisation="batch", steps=0).network
    batch = Batch.of(split, 12, [1e-3], 1, network.targets)
    found = {row["layer"]: row for row in layers(network, batch, jacobians=False)}
    network.train()
    weights = dict(network.body.named_parameters())
    slopes = torch.autograd.grad(batch.loss(network), list(weights.values()))
    for name, slope in zip(weights, slopes, strict=True):
        if name.endswith("weight"):
            layer = name.removesuffix(".weight")
            bias = slopes[list(weights).index(f"{layer}.bias")]
            wanted = float((slope.square().sum() + bias.square().sum()).sqrt())
            assert found[layer]["gradient"] == pytest.approx(wanted, rel=1e-3), layer
    assert not any("stretch_mean" in row for row in found.values())


@pytest.mark.parametrize("kind", [kind for kind in INSIDE_KINDS if kind != "attention"])
def test_a_table_has_all_networks_that_did_not_diverge(split, kind):
    models = {
        "ReLU": [model_of(split, seed, activation="relu") for seed in (1, 2)],
        "tanh": [model_of(split, 1, activation="tanh"), model_of(split, 2, True, activation="tanh")],
        "lost": [model_of(split, 1, True)],
    }
    table = measure_inside(kind, "mine", models, split, [1e-3, 1e-2], 1)
    assert table.columns[:2].tolist() == ["study", "value"]
    assert table["value"].unique().tolist() == ["ReLU", "tanh"]
    if kind == "cost":
        assert len(table) == 2
        assert (table[["flops", "step_seconds", "forward_seconds"]] > 0).all(axis=None)
        return
    if kind == "curves":
        assert table.groupby("value")["seed"].unique().map(list).to_dict() == {"ReLU": [1], "tanh": [1]}
        for value, function in {"ReLU": lambda x: np.maximum(x, 0), "tanh": np.tanh}.items():
            own = table[table["value"] == value]
            assert own["response"].to_numpy() == pytest.approx(function(own["given"].to_numpy()), abs=1e-6)
        tanh = table[table["value"] == "tanh"]
        assert tanh["slope"].to_numpy() == pytest.approx(1 - tanh["response"].to_numpy() ** 2, abs=1e-5)
        row = tanh[tanh["part"] == "row"]
        assert row["given"].abs().max() == pytest.approx(2)
        assert row["x"].tolist() == [k - 7.5 for k in range(SIDE)]
        # The light rises at the left of a galaxy and falls at its right.
        assert row["given"].to_numpy().argmax() < row["given"].to_numpy().argmin()
        return
    assert table.groupby("value")["seed"].unique().map(list).to_dict() == {"ReLU": [1, 2], "tanh": [1]}
    if kind == "flow":
        active = table[table["units"].notna()]
        assert (active.loc[active["value"] == "tanh", "zero"] == 0).all()
        assert active.loc[active["value"] == "ReLU", "zero"].between(0.01, 1).all()
        assert set(table["when"]) == {"start", "end"}
    elif kind == "shifts":
        assert len(table) == 3 * 2 * len(SHIFTS)
        assert (table["change"] > 0).all()
    else:
        assert len(table) == 3 * 2 * 3
        assert (table["rmse_over_crb"] > 0).all()
    lost = measure_inside(kind, "mine", {"lost": models["lost"]}, split, [1e-3], 1)
    assert list(lost.columns) == list(table.columns)
    assert lost.empty
