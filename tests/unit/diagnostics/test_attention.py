"""Attention maps of networks, the information in each pixel, and how the two are compared."""

import galsim
import numpy as np
import pandas as pd
import pytest
import torch
from simulated import SCALE, SIDE, make_split

from shearbench.bounds.fisher import fisher
from shearbench.diagnostics import attention
from shearbench.evaluation.attention import COST_COLUMNS, EXAMPLES, RANK_COLUMNS, read_maps, write_maps
from shearbench.networks.attention import Attention
from shearbench.networks.convnet import ConvNet
from shearbench.networks.modules.attention import sinusoids
from shearbench.simulation.populations import PRESETS, Population
from shearbench.tasks.shear.model_file import TrainedNetwork
from shearbench.tasks.shear.network import ShearNetwork

POPULATION = Population(**PRESETS["exp_gauss"])
PSF = galsim.Gaussian(fwhm=0.8)
SHAPE = (SIDE, SIDE)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return make_split(tmp_path_factory.mktemp("stamps"), "test", 6)


def network_of(architecture, split, seed=1):
    stamps, catalog = split
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = ShearNetwork(architecture, SHAPE, SCALE, per_galaxy_psf=False)
    images, psf = map(torch.from_numpy, stamps.noiseless(0, len(stamps)))
    network.fit_scaling(images, psf, torch.from_numpy(catalog[["g1", "g2"]].to_numpy(np.float32)))
    return network.eval()


def trained(architecture, split, seed=1, diverged=False):
    about = {"variant": architecture.kind, "seed": seed, "diverged": diverged}
    return TrainedNetwork(network_of(architecture, split, seed), about)


def images_of(split):
    stamps, _ = split
    batch = next(stamps.batches(1e-3, 3, len(stamps)))
    return torch.from_numpy(batch.images), torch.from_numpy(batch.psf)


@pytest.mark.parametrize(
    ("architecture", "shapes"),
    [
        (ConvNet(), []),
        (ConvNet(attention="channel"), []),
        (ConvNet(attention="spatial", stages=2), [(24, 24), (12, 12)]),
        (ConvNet(attention="cbam", stages=1), [(24, 24)]),
        (ConvNet(attention="self", stages=3), [(6, 6)]),
        (Attention(patch=8, depth=2), [(3, 3), (3, 3)]),
    ],
)
def test_maps_are_found_by_the_names_of_methods_alone(architecture, shapes, split):
    network, given = network_of(architecture, split), images_of(split)
    before = network(*given, given[0].new_tensor(1e-3)).shapes
    maps = attention.attention_maps(network, *given, 1e-3)
    assert [weights.shape for weights in maps.values()] == [(6, *shape) for shape in shapes]
    for weights in maps.values():
        assert (weights >= 0).all()
        assert weights.flatten(1).std(1).min() > 0
    # No hook is left, and the answers are the same.
    assert torch.equal(network(*given, given[0].new_tensor(1e-3)).shapes, before)
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_weights_of_self_attention_sum_to_one(split):
    network, given = network_of(Attention(patch=8), split), images_of(split)
    scores = attention.recorded(network, "attention_scores", *given, 1e-3)
    assert len(scores) == 3
    for weights in scores.values():
        torch.testing.assert_close(weights.sum(2), torch.ones(6, 9))
    maps = attention.attention_maps(network, *given, 1e-3)
    for weights in maps.values():  # what all tokens together give
        torch.testing.assert_close(weights.sum((1, 2)), torch.ones(6))


def test_the_information_of_all_pixels_is_that_of_the_fisher_matrix(split):
    _, catalog = split
    row = {"flux": 2.0, "dx": 0.1, "dy": -0.2, "hlr": 0.9, "g1": 0.0, "g2": 0.0, "profile": "exponential"}
    rows = pd.DataFrame([{**catalog.iloc[0].to_dict(), **row}])
    rows.attrs.update(catalog.attrs)
    matrices, names = fisher(rows, 0.2, (48, 48), {"profile": "gaussian"})
    order = [names.index(name) for name in ("g1", "g2")]
    rest = [k for k, name in enumerate(names) if name not in ("g1", "g2")]
    full = matrices[0]
    known = full[np.ix_(order, order)] - full[np.ix_(order, rest)] @ np.linalg.solve(
        full[np.ix_(rest, rest)], full[np.ix_(rest, order)]
    )
    galaxy = galsim.Exponential(half_light_radius=0.9, flux=2.0).shift(0.1, -0.2)
    psf = galsim.Gaussian(fwhm=float(rows["psf_fwhm"].iloc[0]))
    found = attention.information_map(galaxy, psf, (48, 48), 0.2)
    # A shear of a round galaxy is its shape. Differences of images by 0.01 are accurate to 1e-4.
    assert found.sum() == pytest.approx(np.trace(known), rel=2e-3)


def test_the_information_of_a_round_galaxy_is_in_a_ring():
    found = attention.information_map(galsim.Exponential(half_light_radius=0.8), PSF, (31, 31), 0.2)
    assert found[15, 15] < 1e-6 * found.max()
    np.testing.assert_allclose(found, found.T, atol=1e-6 * found.max())
    np.testing.assert_allclose(found, found[::-1], atol=1e-6 * found.max())
    y, x = np.indices(found.shape) - 15
    ring = np.hypot(x, y)[found > 0.5 * found.max()] * 0.2
    assert 0.3 < ring.min() < ring.max() < 2.0


def test_the_spiral_has_arms_that_a_half_turn_leaves_as_they_are():
    galaxy = attention.spiral(2.0, 0.9)
    assert galaxy.flux == pytest.approx(2.0)
    image = galsim.Convolve(galaxy, PSF).drawImage(nx=49, ny=49, scale=0.2, dtype=float).array
    np.testing.assert_allclose(image, image[::-1, ::-1], atol=1e-4 * image.max())
    assert np.abs(image - np.rot90(image)).max() > 0.05 * image.max()


def test_rank_correlations_compare_pixels_of_the_map():
    rng = np.random.default_rng(1)
    fine = rng.random((3, 12, 12))
    coarse = fine.reshape(3, 4, 3, 4, 3).mean((2, 4))
    maps = np.stack([coarse[0] ** 3, -coarse[1], np.full((4, 4), 0.5)])
    found = attention.rank_correlations(maps, fine)
    assert found[:2] == pytest.approx([1, -1])
    assert np.isnan(found[2])


@pytest.fixture(scope="module")
def measured(split):
    stamps, catalog = split
    models = {
        "plain": [trained(ConvNet(stages=1), split)],
        "pixels": [trained(ConvNet(attention="spatial", stages=1), split, seed) for seed in (1, 2)],
        "added": [trained(Attention(patch=8, depth=1, position="sinusoidal"), split)],
        "not told": [trained(Attention(patch=8, depth=1, position="none"), split)],
        "diverged": [trained(Attention(patch=8), split, diverged=True)],
    }
    return attention.measure_attention("mine", models, stamps, catalog, POPULATION, [1e-2, 1e-5], 3, 50)


def test_tables_have_a_row_for_each_layer_network_and_level(measured):
    ranks, costs, _ = measured
    assert list(ranks.columns) == RANK_COLUMNS
    assert ranks.groupby("value").size().to_dict() == {"added": 2, "not told": 2, "pixels": 4}
    numbers = ranks[["information", "light", "other"]].to_numpy()
    assert (np.abs(numbers) <= 1).all()
    assert (ranks[["information_err", "light_err", "other_err"]] > 0).all(axis=None)
    assert list(costs.columns) == COST_COLUMNS
    assert list(costs["value"]) == ["plain", "pixels", "added", "not told"]
    assert (costs[["parameters", "flops", "forward_seconds", "step_seconds"]] > 0).all(axis=None)
    cost = costs.set_index("value")["flops"]
    assert cost["pixels"] - cost["plain"] == 2 * 24**2 * 2 * 49  # a 7x7 kernel over two images


def test_maps_are_read_as_they_were_written(measured, tmp_path):
    _, _, maps = measured
    write_maps(tmp_path / "maps.h5", maps)
    read = read_maps(tmp_path / "maps.h5")
    assert list(read.maps) == ["pixels", "added", "not told"]
    for name in ("maps", "codes", "scores"):
        for value, image in getattr(maps, name).items():
            np.testing.assert_array_equal(getattr(read, name)[value], image)
    assert read.stamp.shape == read.information.shape == (len(EXAMPLES), *SHAPE)
    for image in (read.information, *read.maps.values()):
        np.testing.assert_allclose(image.mean((1, 2)), 1)
    assert list(read.sigma) == [1e-5, 1e-5, 1e-5, 1e-2]
    assert list(read.codes) == ["added"]
    code = sinusoids((3, 3), 48).double().numpy()
    np.testing.assert_allclose(read.codes["added"], code @ code.T / 24, atol=1e-6)
    for scores in read.scores.values():
        np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)
