"""The information about the shape that the stages of networks hold."""

import numpy as np
import pytest
import torch
from simulated import make_split
from torch import nn

from shearbench.bounds.fisher import fisher, jacobians
from shearbench.data.catalogs import PARAMETER_COLUMNS
from shearbench.diagnostics import information
from shearbench.diagnostics.information import (
    about_shape,
    from_realisations,
    held,
    rounding_error,
    share_of,
)
from shearbench.diagnostics.stages import ANSWER, activations, exact_copy, find_stages
from shearbench.networks.attention import Attention
from shearbench.networks.convnet import ConvNet
from shearbench.networks.shearnet import ShearNet
from shearbench.networks.whitened import Whitened
from shearbench.tasks.shear.network import ShearNetwork

SIDE, SCALE, SIGMA = 16, 0.4, 1e-3
PIXELS = SIDE**2
GALAXIES = 2
FREE = torch.zeros(6, dtype=torch.float64)  # no prior
NETWORKS = {
    "shearnet": ShearNet(width=4, hidden=16),
    "pooled": ConvNet(width=2, hidden=[16], projection=2),
    "dilated": ConvNet(downsampling="dilated", fold=4, width=8, growth=1, skip=True, hidden=[16]),
    "attention": Attention(patch=4, width=8, depth=1, heads=2, hidden=[16]),
    "whitened": Whitened(components=32, width=16, blocks=2, auxiliary=True),
}


@pytest.fixture(scope="module")
def galaxies(tmp_path_factory):
    stamps, catalog = make_split(tmp_path_factory.mktemp("split"), "test", 100, side=SIDE, scale=SCALE)
    _, slopes, names = jacobians(catalog.iloc[:GALAXIES], SCALE, (SIDE, SIDE))
    images, psf = stamps.noiseless()
    return torch.from_numpy(images), torch.from_numpy(psf), torch.from_numpy(slopes), names, catalog


def share(galaxies, function, sigma=SIGMA, dtype=None, prior=FREE):
    """Return the share of the information about the shape that a function of flattened stamps keeps."""
    images, _, slopes, names, _ = galaxies
    flat = slopes.flatten(2)
    whole = about_shape(flat @ flat.mT / sigma**2, names, prior)
    found = held(
        lambda stamps, member: function(stamps.flatten(1)),
        images[:GALAXIES].double(),
        slopes,
        sigma,
        dtype,
        steps=60,
    )
    return share_of(about_shape(found.matrices, names, prior), whole), found


def test_derivatives_are_those_of_the_fisher_matrix(galaxies):
    _, _, slopes, names, catalog = galaxies
    matrices, same = fisher(catalog.iloc[:GALAXIES], SCALE, (SIDE, SIDE))
    assert names == same
    flat = slopes.flatten(2).numpy()
    assert flat @ np.swapaxes(flat, 1, 2) == pytest.approx(matrices, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("narrow", [10, 10**4])
def test_an_invertible_layer_keeps_everything(galaxies, narrow, monkeypatch):
    monkeypatch.setattr(information, "NARROW", narrow)
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(PIXELS, PIXELS, generator=generator, dtype=torch.float64)
    mixing = torch.linalg.qr(mixing)[0] * torch.linspace(0.3, 3, PIXELS, dtype=torch.float64)
    kept, found = share(galaxies, lambda x: torch.sinh(x) @ mixing)
    assert found.exact
    assert kept.numpy() == pytest.approx(1, abs=6e-3 if narrow == 10 else 1e-9)


def test_average_pooling_keeps_the_information_of_binned_pixels(galaxies):
    _, _, _, names, catalog = galaxies
    kept, _ = share(
        galaxies, lambda x: nn.functional.avg_pool2d(x.unflatten(1, (1, SIDE, SIDE)), 2).flatten(1)
    )
    chosen = catalog.iloc[:GALAXIES]
    fine, coarse = (
        about_shape(torch.from_numpy(fisher(chosen, SCALE * k, (SIDE // k,) * 2)[0]), names, FREE)
        for k in (1, 2)
    )
    # The sum of four pixels has twice the noise of one.
    assert kept.numpy() == pytest.approx(share_of(coarse / 4, fine).numpy(), rel=1e-3)
    assert (kept < 0.999).all()


def test_a_random_projection_keeps_its_share(galaxies):
    numbers, draws = 100, 12
    generator = torch.Generator().manual_seed(2)
    kept = []
    for _ in range(draws):
        matrix = torch.randn(PIXELS, numbers, generator=generator, dtype=torch.float64)
        kept.append(share(galaxies, lambda x, matrix=matrix: x @ matrix)[0])
    kept = torch.stack(kept)
    # A share of a random subspace has a beta distribution; each of the four other parameters takes a number.
    a, b = (numbers - 4) / 2, (PIXELS - numbers) / 2
    error = (a * b / ((a + b) ** 2 * (a + b + 1)) / draws) ** 0.5
    assert kept.mean(0).numpy() == pytest.approx(a / (a + b), abs=5 * error)


def test_numbers_that_do_not_depend_on_the_stamp_keep_nothing(galaxies):
    for numbers in (7, PIXELS):
        kept, _ = share(galaxies, lambda x, numbers=numbers: 0 * x[:, :1].expand(-1, numbers))
        assert kept.abs().max() == 0


def test_a_prior_makes_few_numbers_informative(galaxies):
    _, _, slopes, names, catalog = galaxies
    variance = catalog[[PARAMETER_COLUMNS[name] for name in names]].var().to_numpy(copy=True)
    weights = slopes[0].flatten(1)[names.index("g1") : names.index("g1") + 2]
    free, known = (
        share(galaxies, lambda x: x @ weights.T, prior=prior)[0]
        for prior in (FREE, 1 / torch.from_numpy(variance))
    )
    assert free.max() < 1e-6  # two numbers cannot tell six parameters apart
    assert 0 < known.max() < 1


def test_the_space_of_rows_and_the_whole_jacobian_agree(galaxies, monkeypatch):
    generator = torch.Generator().manual_seed(3)
    first = torch.randn(PIXELS, 320, generator=generator, dtype=torch.float64)
    for dtype in (None, torch.bfloat16, torch.float16):

        def function(x):
            return torch.tanh(x @ first)

        products, found = share(galaxies, function, dtype=dtype)
        monkeypatch.setattr(information, "NARROW", 1000)
        whole, _ = share(galaxies, function, dtype=dtype)
        monkeypatch.undo()
        assert products.numpy() == pytest.approx(whole.numpy(), abs=1e-2)
        assert (products < whole + 1e-6).all()
        assert found.exact


@pytest.mark.parametrize("narrow", [10, 10**4])
def test_rounding_to_the_size_of_the_noise_halves_the_information(galaxies, narrow, monkeypatch):
    monkeypatch.setattr(information, "NARROW", narrow)
    error = 2**-7 / 12**0.5
    kept, _ = share(galaxies, lambda x: 1.5 + 1e-3 * error / SIGMA * x, 1e-6, torch.bfloat16)
    assert kept.numpy() == pytest.approx(1 / (1 + (SIGMA / 1e-9) ** 2), rel=1e-6)
    kept, _ = share(galaxies, lambda x: 1.5 + error / 1e-6 * (x - x.detach()), 1e-6, torch.bfloat16)
    assert kept.numpy() == pytest.approx(0.5, abs=1e-6)


def test_errors_of_rounding_are_those_of_torch():
    numbers = torch.randn(200_000, generator=torch.Generator().manual_seed(4), dtype=torch.float64).exp()
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        made = (numbers.to(dtype).double() - numbers) / rounding_error(numbers, dtype)
        assert made.square().mean() == pytest.approx(1, abs=0.02)


def fitted(architecture, galaxies):
    images, psf, _, _, catalog = galaxies
    torch.manual_seed(1)
    network = ShearNetwork(architecture, (SIDE, SIDE), SCALE, False)
    columns = [PARAMETER_COLUMNS[name] for name in network.targets]
    network.fit_scaling(images, psf, torch.from_numpy(catalog[columns].to_numpy("float32", copy=True)))
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_information_never_rises_and_starts_with_everything(name, galaxies, monkeypatch):
    monkeypatch.setattr(information, "NARROW", 10**4)
    images, psf, slopes, names, _ = galaxies
    network = fitted(NETWORKS[name], galaxies)
    sigma = torch.tensor(SIGMA, dtype=torch.float64)
    stages = find_stages(network, images[:4], psf, sigma)
    exact = exact_copy(network)
    flat = slopes.flatten(2)
    whole = about_shape(flat @ flat.mT / SIGMA**2, names, FREE)
    shares = []
    for stage in stages:

        def function(stamps, _, stage=stage):
            return activations(exact, [stage], stamps, psf.double(), sigma)[0]

        found = held(function, images[:GALAXIES].double(), slopes, SIGMA)
        shares.append(share_of(about_shape(found.matrices, names, FREE), whole))
        assert function(images[:2].double(), None).shape == (2, stage.numbers + stage.beside)
    shares = torch.stack(shares)
    assert (shares.diff(dim=0) < 1e-6).all()
    assert (shares <= 1 + 1e-9).all()
    if name == "dilated":  # its first layer rearranges the pixels
        assert shares[0].min() > 1 - 1e-6
    assert stages[-1].layer == ANSWER or stages[-1].numbers == 2
    turned = [stage.layer for stage in stages if stage.turned]
    assert turned == [stage.layer for stage in stages if name == "whitened" and "network" in stage.layer]


def test_noise_realisations_agree_where_the_numbers_are_linear_and_not_elsewhere(galaxies):
    images, _, slopes, names, _ = galaxies
    images = images[:GALAXIES].double()
    weights = slopes[0].flatten(1).T
    weights = weights / weights.norm(dim=0)

    def share_of_sigma(function, sigma):
        (noisy,) = from_realisations(
            lambda stamps, _: [function(stamps.flatten(1))],
            images,
            slopes,
            sigma,
            torch.Generator().manual_seed(5),
        )
        of = held(lambda stamps, _: function(stamps.flatten(1)), images, slopes, sigma)
        return share_of(*(about_shape(matrices, names, FREE) for matrices in (noisy, of.matrices)))

    # 400 realisations give the inverse of a variance to 7 per cent.
    assert share_of_sigma(lambda x: x @ weights, SIGMA).numpy() == pytest.approx(1, abs=0.35)
    assert share_of_sigma(lambda x: (x @ weights / SIGMA).sin(), 0.01 * SIGMA).min() > 0.7
    assert share_of_sigma(lambda x: (x @ weights / SIGMA).sin(), 3 * SIGMA).max() < 0.5
