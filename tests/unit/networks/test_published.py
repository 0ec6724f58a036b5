"""Published networks: their sizes, symmetry, and that they learn."""

from __future__ import annotations

from pathlib import Path

import galsim
import numpy as np
import pytest
import torch

from shearbench.config.reading import load
from shearbench.networks.modules import dihedral
from shearbench.networks.modules.bodies import Normalised
from shearbench.networks.modules.published import HomogenisedBody
from shearbench.networks.orbit import Orbit
from shearbench.networks.terms import LEVELS
from shearbench.training.recipe import Recipe
from shearbench.training.variants import architecture_for, resolve_variant

ROOT = Path(__file__).parents[3]

# Numbers of parameters that the published code makes for stamps of 53 by 53 pixels (of galaxy and PSF for the
# networks with two branches), two outputs and no noise level.
PUBLISHED = {
    "mlp": 368066,
    "shearnet-resnet": 46318786,
    "research-backed": 94908,
    "fork-like": 9213692,
    "fork-like-attention": 456060,
    "d4-fork-like": 139396,
}
NAMES = [*PUBLISHED, "d4cnn", "forklens"]


@pytest.fixture(autouse=True)
def _own_random_state():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        yield


def network(name, channels, side, **options):
    architecture = resolve_variant(name, {"options": options}, Recipe()).make()
    return architecture.build(channels, (side, side), 2)


def size(module):
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_has_the_published_number_of_parameters(name):
    channels = 2 if "fork" in name else 1
    found = size(network(name, channels, 53))
    # The noise level is added to each, and CBAM has one perceptron where ShearNet's code has two.
    assert found == pytest.approx(PUBLISHED[name], rel=0.035)


def test_forklens_is_that_of_its_code():
    forklens = network("forklens", 2, 48)
    # Convolutions and normalisations of the published branches; a shortcut here has a bias before its
    # normalisation, which changes nothing, as have the first and second convolution of a block.
    weights = sum(w.numel() for w in forklens.features.parameters() if w.ndim > 1)
    stages = [(64, 64, 3), (64, 128, 4), (128, 256, 6), (256, 512, 3)]
    expected = 9 * 64 + 9 * (32 + 32 * 64 + 64 * 32 + 32 * 16)
    for incoming, width, blocks in stages:
        expected += 9 * incoming * width + 9 * width**2 * (2 * blocks - 1)
        expected += (incoming != width) * incoming * width + width**2  # shortcuts of the first and last block
    assert weights == expected
    assert [layer.out_features for layer in forklens.head] == [512, 128, 2]
    assert forklens.head[0].in_features == 512 + 784 + LEVELS


@pytest.mark.parametrize("name", ["d4-fork-like", "d4cnn"])
@pytest.mark.parametrize("fusion", ["attention", "none"])
def test_an_orbit_follows_the_stamp_exactly(name, fusion):
    module = network(name, 2, 33, widths=[4, 6], tokens=8, hidden=5, fusion=fusion).double().eval()
    x, level = torch.randn(3, 2, 33, 33).double(), torch.randn(3, LEVELS).double()
    with torch.no_grad():
        before = module(x, level)
        assert before.abs().min() > 1e-6
        for k in range(dihedral.ORDER):
            expected = dihedral.transform_answer(before, k, ("g1", "g2"))
            after = module(dihedral.transform_images(x, k), level)
            # Rounding of float64, and nothing else.
            torch.testing.assert_close(after, expected, rtol=0, atol=1e-13)


def test_a_classifier_of_an_orbit_does_not_change_with_the_orientation():
    module = Orbit(widths=[4], tokens=8).classifier(1, (12, 12), 5).double().eval()
    x, level = torch.randn(2, 1, 12, 12).double(), torch.zeros(2, LEVELS).double()
    assert module(x, level).shape == (2, 5)
    for k in range(dihedral.ORDER):
        after = module(dihedral.transform_images(x, k), level)
        torch.testing.assert_close(after, module(x, level), rtol=0, atol=1e-13)


@pytest.mark.parametrize("beta", [(0.0, 0.0), (0.15, -0.1)])
def test_stamps_under_any_psf_become_those_under_one_gaussian(beta):
    """They are compared with GalSim's images of the same galaxy under the Gaussian."""
    side, scale, width = 48, 0.2, 2.5
    galaxy = galsim.Exponential(half_light_radius=0.5).shear(g1=0.2, g2=0.1)
    psf = galsim.Moffat(beta=3, fwhm=0.7).shear(g1=beta[0], g2=beta[1])

    def drawn(what):
        return torch.from_numpy(what.drawImage(nx=side, ny=side, scale=scale, dtype=np.float64).array)

    stamp, image = drawn(galsim.Convolve(galaxy, psf)), drawn(psf)
    # The image of the PSF includes the pixel; dividing by it leaves the galaxy without the pixel.
    goal = galsim.Convolve(galaxy, galsim.Gaussian(sigma=width * scale))
    expected = goal.drawImage(nx=side, ny=side, scale=scale, method="no_pixel", dtype=np.float64).array
    body = HomogenisedBody(torch.nn.Identity(), (side, side), False, width).double()
    one = torch.ones(1).double()
    stamps = Normalised(stamp[None], image[None], stamp, one, one, one, one)
    found, gain = body.homogenised(stamps)
    assert np.abs(found[0].numpy() - expected).max() < 5e-3 * expected.max()
    # White noise has the predicted variance afterwards.
    noise = torch.randn(200, side, side).double()
    after = body.homogenised(stamps._replace(images=noise))[0]
    assert after.std() == pytest.approx(float(gain), rel=0.05)


SMALL: dict[str, dict[str, object]] = {
    "mlp": {"hidden": [16]},
    "shearnet-resnet": {"stem": 4, "width": 4, "hidden": [16]},
    "research-backed": {"width": 8},
    "fork-like-attention": {"width": 8, "tokens": 16},
    "d4-fork-like": {"widths": [8, 8], "tokens": 16, "hidden": 16},
    "d4cnn": {"widths": [8, 8], "hidden": 16},
    "forklens": {"width": 4, "hidden": [16]},
}


@pytest.mark.trains
@pytest.mark.parametrize("name", SMALL)
def test_a_few_steps_fit_a_few_stamps(name):
    module = network(name, 2, 12, **SMALL[name]).train()
    target = torch.randn(8, 2)
    level = torch.zeros(8, LEVELS)
    y, at = torch.meshgrid(*[torch.linspace(-1.5, 1.5, 12)] * 2, indexing="ij")
    # Blobs that are longer along the direction of the shape.
    e1, e2 = (0.3 * target[:, k, None, None] for k in (0, 1))
    squares = at**2 + y**2 - e1 * (at**2 - y**2) - 2 * e2 * at * y
    x = torch.stack([3 * torch.exp(-squares) - 1, torch.randn(8, 12, 12)], 1)
    optimiser = torch.optim.Adam(module.parameters(), 5e-3)
    losses = []
    for _ in range(20):
        loss = (module(x, level) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("shearnet-resnet", {"stem": 65}, "stem: 65 is more than width, which is 64"),
        ("fork-like", {"sizes": [3, 8]}, "sizes: found 8; use multiples of 3"),
        ("forklens", {"width": 9999}, "width: 9999 gives"),
    ],
)
def test_impossible_options_are_refused(name, options, says):
    with pytest.raises(Exception, match=says):
        network(name, 1, 24, **options)


def test_one_configuration_has_all_of_them():
    config = load(ROOT / "config/rivals.yaml")
    assert {*NAMES, "shearnet", "whitened", "oriented-convnet", "refined"} == set(config.variants)
    recipes = {name: variant.training for name, variant in config.variants.items()}
    budget = {(r.data, r.batch_size, r.epochs, r.optimiser) for r in recipes.values()}
    assert len(budget) == 1
    shape = (config.stamps.size_pixels,) * 2
    for population in config.populations.values():
        for name, variant in config.variants.items():
            architecture_for(name, variant, population, shape, config.galaxies.train)
