"""Gradients, dead units, Jacobians and curvature of networks, and shifts by a fraction of a pixel."""

from types import SimpleNamespace

import pytest
import torch
from simulated import make_split
from torch import nn

from shearbench.diagnostics.flow import (
    Batch,
    before_training,
    elementwise,
    largest_curvatures,
    responses,
    stretches,
    table_of_curvature,
    table_of_layers,
)
from shearbench.diagnostics.galaxies import Split
from shearbench.diagnostics.shifts import SHIFTS, Shifted, table_of_shifts
from shearbench.networks.convnet import ConvNet
from shearbench.tasks.shear.model_file import TrainedNetwork
from shearbench.tasks.shear.network import ShearNetwork

SIDE, SCALE = 16, 0.4


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return Split(*make_split(tmp_path_factory.mktemp("split"), "test", 40, side=SIDE, scale=SCALE))


@pytest.fixture(scope="module")
def model(split):
    """A network of which the first convolution is trained by hand."""
    architecture = ConvNet(width=4, stages=2, activation="relu", hidden=[8], normalisation="batch")
    torch.manual_seed(3)
    network = ShearNetwork(architecture, (SIDE, SIDE), SCALE, False)
    images, psf = (torch.from_numpy(part) for part in split.stamps.noiseless())
    network.fit_scaling(images, psf, torch.randn(len(images), 2))
    first, norm = network.body.network.features[:2]
    with torch.no_grad():
        first.weight += 0.1
        norm.running_mean += 0.1
        norm.bias[0] = -1e6
    about = {
        "architecture": "convnet",
        "options": architecture.model_dump(mode="json"),
        "shape": (SIDE, SIDE),
        "per_galaxy_psf": False,
        "pixel_scale": SCALE,
        "population": "exp_gauss",
        "variant": "small",
        "seed": 3,
    }
    return TrainedNetwork(network.eval(), about)


def test_the_weights_before_training_follow_from_the_seed(model):
    start = before_training(model)
    torch.manual_seed(3)
    fresh = ShearNetwork(ConvNet(**model.about["options"]), (SIDE, SIDE), SCALE, False).state_dict()
    for name, value in start.state_dict().items():
        scaling = not name.startswith("body.network.")
        wanted = model.network.state_dict()[name] if scaling else fresh[name]
        assert torch.equal(value, wanted), name
    assert start.mean.any()


def test_the_table_tells_of_dead_units_and_of_both_times(model, split):
    batch = Batch.of(split, 12, [1e-3, 1e-2], 1, model.network.targets)
    assert batch.sigma[:4].tolist() == pytest.approx([1e-3, 1e-2, 1e-3, 1e-2])
    flow, curvature = table_of_layers(model, batch), table_of_curvature(model, batch)
    assert flow["when"].unique().tolist() == ["start", "end"]
    parameters = sum(weight.numel() for weight in model.network.parameters())
    assert (flow.groupby("when")["parameters"].sum() == parameters).all()
    first = flow[(flow["kind"] == "ReLU")].groupby("when").first()
    assert first.loc["end", "dead"] == pytest.approx(1 / 4)
    assert first.loc["start", "dead"] == 0
    assert (flow.loc[flow["parameters"] > 0, "gradient"] > 0).all()
    assert (flow.loc[flow["kind"] == "ReLU", "stretch_largest"] <= 1 + 1e-6).all()
    assert (curvature.groupby("when")["eigenvalue"].max() > 0).all()
    # The network of the model is as it was.
    assert table_of_layers(model, batch).equals(flow)


def test_responses_are_counted():
    given = torch.linspace(-1, 1, 24).reshape(2, 3, 4) + 1e-3
    images = torch.stack([-torch.ones(5, 2, 2), torch.ones(5, 2, 2)], 1)
    assert responses(nn.ReLU(), images) == {"units": 2, "zero": 0.5, "flat": 0.5, "dead": 0.5}
    assert responses(nn.Tanh(), 10 * images) == {"units": 2, "zero": 0.0, "flat": 1.0, "dead": 1.0}
    assert responses(nn.GELU(), given)["units"] == 4  # features of tokens come last


@pytest.mark.parametrize(
    ("module", "found"),
    [
        (nn.ReLU(), True),
        (nn.GELU(), True),
        (nn.PReLU(), True),
        (nn.Tanh(), True),
        (nn.ELU(), True),
        (nn.LeakyReLU(), True),
        (nn.Hardtanh(-1.5, 1.5), True),
        (nn.Identity(), False),
        (nn.Linear(6, 6), False),
        (nn.LayerNorm(6), False),
        (nn.Softmax(-1), False),
        (nn.Dropout(0.5).eval(), False),
    ],
)
def test_activations_are_recognised(module, found):
    given = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    assert elementwise(module, given, module(given)) is found
    given = 1e-3 * given  # small values, for which tanh is nearly linear
    assert elementwise(module, given, module(given)) is found


def test_singular_values_of_a_layer():
    values = torch.tensor([3.0, 1.0, 0.5])
    left, right = (torch.linalg.qr(torch.randn(k, 3))[0] for k in (40, 30))
    matrix = left * values @ right.T
    given = torch.randn(200, 30)
    largest, mean = stretches(lambda x: x @ matrix.T, given)
    assert largest == pytest.approx(3, rel=1e-3)
    assert mean == pytest.approx(float((values.square().sum() / 30).sqrt()), rel=0.2)
    assert stretches(lambda x: 0 * x, given) == (0.0, 0.0)


def test_the_largest_curvatures_are_eigenvalues_of_the_hessian_matrix():
    values = torch.cat([torch.linspace(0, 1, 57), torch.tensor([4.0, 9.0, 7.0])])
    axes = torch.linalg.qr(torch.randn(60, 60))[0]
    matrix = axes * values @ axes.T
    network = nn.Linear(60, 1, bias=False)
    batch = SimpleNamespace(loss=lambda net: (net.weight @ matrix @ net.weight.T).squeeze() / 2 + 1)
    loss, found = largest_curvatures(network, batch)
    assert found == pytest.approx([9, 7, 4], rel=0.03)
    assert loss == pytest.approx(float(batch.loss(network).detach()))


def test_a_shift_is_seen_as_an_offset_and_a_slope(split):
    pixels = torch.arange(SIDE) - (SIDE - 1) / 2

    def measure(images, psf, sigma):
        x = (images * pixels).sum((1, 2)) / images.sum((1, 2))
        return SimpleNamespace(shapes=torch.stack([x, 0 * x], 1))

    model = SimpleNamespace(network=measure, about={"population": "a", "variant": "b", "seed": 1})
    table = table_of_shifts(model, Shifted.of(split, 10), 1e-5)
    assert table["shift"].tolist() == list(SHIFTS)
    # Some light leaves the stamp, so that the centroid moves by a little less.
    assert table["offset_g1"].to_numpy() == pytest.approx(SHIFTS, rel=0.1)
    assert table["offset_g2"].abs().max() < 1e-6
    assert table["slope_g1"].abs().max() < 0.3
    assert (table["change_over_crb"] > 1).all()
