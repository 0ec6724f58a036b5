"""Principal components of stamps: their space, their scaling and their behaviour under rotations."""

import pytest
import torch
from torch import nn

from shearbench.forward_model.fourier import FLUX, HLR, Grid, Renderer, parameter_names
from shearbench.networks.modules import dihedral
from shearbench.networks.modules.bodies import Components, symmetric
from shearbench.networks.oriented_convnet import OrientedConvNet
from shearbench.networks.whitened import Whitened
from shearbench.tasks.shear.network import ShearNetwork

SCALE = 0.3
NAMES = parameter_names("exponential")
MOFFAT = {"profile": "moffat", "beta": 2.5}


@pytest.fixture(autouse=True)
def _own_random_state():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        yield


def galaxies(n, side, seed=0, psf_shape=0.05):
    """Return float64 images, their PSFs and true parameters; without a shape, PSFs differ in width alone."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.tensor([1.0, -0.15, -0.15, 0.5, -0.4, -0.4], dtype=torch.float64)
    high = torch.tensor([5.0, 0.15, 0.15, 1.0, 0.4, 0.4], dtype=torch.float64)
    truth = low + (high - low) * torch.rand(n, 6, generator=generator, dtype=torch.float64)
    width = 0.7 + 0.3 * torch.rand(n, generator=generator, dtype=torch.float64)
    psf_g = psf_shape * torch.randn(2, n, generator=generator, dtype=torch.float64)
    drawn = [
        Renderer(profile, (side, side), SCALE, Grid(2 * side, 2.0), torch.float64)
        for profile in ("exponential", "gaussian")
    ]
    point = torch.zeros_like(truth)
    point[:, FLUX], point[:, HLR] = 1.0, 1e-4
    with torch.no_grad():
        images, psf = (one(what, one.psf(MOFFAT, width, *psf_g)) for one, what in zip(drawn, (truth, point)))
    return images, psf, truth


def components(images, count=48, without=None):
    found = Components(images.shape[-2:], count).double()
    found.fit(images, without)
    return found


def in_standard_orientation(found, images):
    coefficients = found(images - found.mean)
    return found.oriented(coefficients, found.orientation(coefficients))


@pytest.mark.parametrize("side", [16, 15])
def test_axes_are_orthonormal_and_orthogonal_to_what_is_left_out(side):
    images, *_ = galaxies(300, side)
    mean = images.mean(0)
    without = torch.stack([dihedral.transform_images(mean, k) for k in range(dihedral.ORDER)]).mean(0)
    found = components(images, without=without)
    one = torch.eye(found.total, dtype=torch.float64)
    torch.testing.assert_close(found.basis.T @ found.basis, one, rtol=0, atol=1e-12)
    # Of axes along which images hardly vary, rounding leaves more.
    assert (without.flatten() @ found.basis).abs().max() < 1e-10 * without.norm()
    assert sum(found.counts[:4]) + 2 * found.counts[4] == found.total == found.basis.shape[1]
    assert abs(found.total - 48) <= 4


@pytest.mark.parametrize("side", [16, 15])
def test_axes_are_those_of_the_covariance_of_images_in_all_orientations(side):
    images, *_ = galaxies(200, side)
    found = components(images)
    rest = images - found.mean
    turned = torch.cat([dihedral.transform_images(rest, k) for k in range(dihedral.ORDER)]).flatten(1)
    along = turned.T @ (turned @ found.basis) / len(turned)
    torch.testing.assert_close(
        along, found.basis * found.spread**2, rtol=0, atol=1e-9 * found.spread.max() ** 2
    )


@pytest.mark.parametrize("side", [16, 15])
def test_the_standard_orientation_is_the_same_for_all_eight_of_an_image(side):
    images, *_ = galaxies(60, side)
    found = components(images)
    before = in_standard_orientation(found, images[:20])
    assert before.std(0).min() > 0
    for k in range(dihedral.ORDER):
        after = in_standard_orientation(found, dihedral.transform_images(images[:20], k))
        torch.testing.assert_close(after, before, rtol=0, atol=1e-12)


def test_images_that_vary_in_one_symmetry_alone_have_axes_of_all():
    # Round PSFs of all widths: axes along which they do not vary must still be even or odd as they should.
    _, psf, _ = galaxies(100, 16, psf_shape=0.0)
    found = components(psf, 16)
    one = torch.eye(found.total, dtype=torch.float64)
    torch.testing.assert_close(found.basis.T @ found.basis, one, rtol=0, atol=1e-12)
    images = torch.randn(9, 16, 16, dtype=torch.float64)
    before = in_standard_orientation(found, images)
    for k in range(dihedral.ORDER):
        after = in_standard_orientation(found, dihedral.transform_images(images, k))
        torch.testing.assert_close(after, before, rtol=0, atol=1e-12)


def test_the_first_axes_hold_more_of_the_images_than_any_others():
    images, *_ = galaxies(200, 16)
    found = components(images, 40)
    rest = images - found.mean
    inside = found(rest).square().sum()
    assert inside > 0.99 * rest.square().sum()
    other = torch.linalg.qr(torch.randn(256, found.total, dtype=torch.float64))[0]
    assert (rest.flatten(1) @ other).square().sum() < 0.5 * inside


@pytest.mark.parametrize("noise", [0.0, 1e-4, 1e-2, 1.0])
def test_components_have_unit_variance_at_every_noise_level(noise):
    n = 3000
    images, *_ = galaxies(n, 16)
    found = components(images)
    coefficients = found(images - found.mean + noise * torch.randn(images.shape, dtype=torch.float64))
    white = coefficients * (found.spread.square() + noise**2).rsqrt()
    variance = white.square().mean(0)
    # The partners of E have one spread between them. Five errors of the variance of normal numbers.
    e = found.counts[-1]
    variance[-2 * e :] = (variance[-2 * e : -e] + variance[-e:]).repeat(2) / 2
    torch.testing.assert_close(variance, torch.ones_like(variance), rtol=0, atol=5 * (2 / n) ** 0.5)


@pytest.mark.parametrize("targets", [("g1", "g2"), NAMES])
@pytest.mark.parametrize("extra", [0, 3])
def test_answers_are_turned_back_as_the_group_turns_them(targets, extra):
    images, *_ = galaxies(40, 16)
    found = components(images)
    # Whatever is answered in the standard orientation.
    answer = torch.randn(40, len(targets) + extra, dtype=torch.float64)

    def at(element):
        coefficients = found(dihedral.transform_images(images, element) - found.mean)
        return dihedral.turned_back(answer, found.orientation(coefficients).unbind(1), targets)

    for k in range(dihedral.ORDER):
        torch.testing.assert_close(at(k), dihedral.transform_answer(at(0), k, targets))


def randomised(per_galaxy_psf, psf_shape=0.05, **options):
    """Return an untrained network, no weight of which is zero, and stamps."""
    images, psf, truth = galaxies(200, 16, psf_shape=psf_shape)
    architecture = Whitened(components=40, psf_components=12, width=24, blocks=2, **options)
    network = ShearNetwork(architecture, (16, 16), SCALE, per_galaxy_psf).double()
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.2)
    wanted = truth[:, [NAMES.index(name) for name in network.targets]]
    network.fit_scaling(images, psf if per_galaxy_psf else psf[0], wanted)
    noisy = images[:12] + 0.01 * torch.randn(12, 16, 16, dtype=torch.float64)
    return network.eval(), noisy, psf[:12] if per_galaxy_psf else psf[0]


def entries_of(covariance):
    return torch.stack([covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]], 1)


def covariance_of(precision):
    """Return (L' L)^-1, written out in matrices."""
    first, cross, second = precision.unbind(1)
    lower = torch.zeros(len(precision), 2, 2, dtype=precision.dtype)
    lower[:, 0, 0], lower[:, 1, 0], lower[:, 1, 1] = first, cross, second
    return torch.linalg.inv(lower.mT @ lower)


@pytest.mark.parametrize("psf_shape", [0.05, 0.0])
@pytest.mark.parametrize("per_galaxy_psf", [False, True])
def test_any_network_of_components_follows_the_stamp_exactly(per_galaxy_psf, psf_shape):
    network, images, psf = randomised(per_galaxy_psf, psf_shape, auxiliary=True, head="gaussian")
    sigma = torch.tensor(0.01, dtype=torch.float64)
    with torch.no_grad():
        before = network(images, psf, sigma)
        covariance = covariance_of(before.precision)
        assert before.standard.abs().mean() > 0.1
        assert entries_of(covariance)[:, 1].abs().max() > 1e-6
        torch.testing.assert_close(covariance.diagonal(dim1=1, dim2=2).sqrt(), before.error)
        for k in range(dihedral.ORDER):
            turned_psf = dihedral.transform_images(psf, k) if per_galaxy_psf else psf
            after = network(dihedral.transform_images(images, k), turned_psf, sigma)
            close = {"rtol": 1e-9, "atol": 1e-11}  # rounding, times what the network makes of it
            torch.testing.assert_close(after.shapes, dihedral.transform_shapes(before.shapes, k), **close)
            expected = dihedral.transform_answer(before.standard, k, network.targets)
            torch.testing.assert_close(after.standard, expected, **close)
            sign = torch.tensor(dihedral.signs(k), dtype=torch.float64)
            turned = covariance * torch.outer(sign, sign)
            torch.testing.assert_close(covariance_of(after.precision), turned, **close)


def test_the_additive_bias_of_any_network_of_components_is_zero_by_symmetry():
    network, images, psf = randomised(False)
    network, images, psf = network.float(), images.float(), psf.float()
    sigma = torch.tensor(0.01)
    with torch.no_grad():
        shapes = [network(images.rot90(k, (1, 2)), psf, sigma).shapes for k in range(4)]
    assert torch.stack(shapes).abs().mean() > 1e-3
    assert torch.stack(shapes).mean(0).abs().max() < 1e-5 * torch.stack(shapes).abs().max()


@pytest.mark.parametrize("auxiliary", [False, True])
def test_psfs_that_are_all_alike_do_no_harm(auxiliary):
    images, psf, truth = galaxies(100, 16)
    network = ShearNetwork(
        Whitened(components=32, psf_components=8, auxiliary=auxiliary), (16, 16), SCALE, True
    )
    wanted = truth[:, [NAMES.index(name) for name in network.targets]].float()
    alike = psf[:1].float().expand(100, -1, -1)
    network.fit_scaling(images.float(), alike, wanted)
    assert torch.isfinite(network(images.float(), alike, torch.tensor(1e-3)).shapes).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"components": 100}, "options.components: 100"),
        ({"components": 32, "psf_components": 70}, "psf_components: 70"),
    ],
)
def test_more_components_than_there_can_be_are_refused(options, said):
    assert said in Whitened(**options).objection((16, 16))
    assert Whitened().objection((24, 24)) is None
    assert "not square" in Whitened().objection((24, 32))


@pytest.mark.parametrize("per_galaxy_psf", [True, False])
def test_oriented_convolutions_follow_the_stamp_exactly(per_galaxy_psf):
    images, psf, truth = galaxies(100, 16)
    psf = psf if per_galaxy_psf else symmetric(psf.mean(0))
    network = ShearNetwork(OrientedConvNet(auxiliary=True), (16, 16), SCALE, per_galaxy_psf).double()
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.1)
    network.fit_scaling(images, psf, truth[:, [NAMES.index(name) for name in network.targets]])
    sigma = torch.tensor(1e-3, dtype=torch.float64)
    before = network(images, psf, sigma).shapes
    assert before.std() > 0.01
    for k in range(1, dihedral.ORDER):
        turned = dihedral.transform_images(psf, k) if per_galaxy_psf else psf
        after = network(dihedral.transform_images(images, k), turned, sigma).shapes
        torch.testing.assert_close(after, dihedral.transform_shapes(before, k), rtol=0, atol=1e-9)


def test_options_of_an_oriented_convnet_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="channels has 2"):
        OrientedConvNet(strides=[4])
    with pytest.raises(ValueError, match="even numbers"):
        OrientedConvNet(strides=[3, 2])
    assert OrientedConvNet().objection((48, 48)) is None
    assert "not square" in OrientedConvNet().objection((48, 40))
    assert "stamps of 6 pixels to none" in OrientedConvNet().objection((6, 6))
    assert "psf_components" in OrientedConvNet(psf_components=70).objection((16, 16))
