"""Augmented stamps are those of galaxies with the changed parameters."""

from __future__ import annotations

import math

import pytest
import torch
from simulated import make_splits, train

from shearbench.errors import ConfigError
from shearbench.networks.modules import dihedral
from shearbench.simulation.populations import PRESETS, Population
from shearbench.tasks.shear.augmentation import AUGMENTATIONS, Stamps, augment, rotated
from shearbench.tasks.shear.data import Examples, Stored, draw_batch
from shearbench.training.recipe import Recipe
from shearbench.training.variants import resolve_variant

TARGETS = ("flux", "x", "y", "hlr", "g1", "g2")
SIDE, SCALE = 32, 0.25


def gaussians(parameters):
    """Return images [..., n, n] of elliptical Gaussians; their widths are small beside the stamp."""
    flux, x, y, size, g1, g2 = (column[..., None, None] for column in parameters.unbind(-1))
    place = (torch.arange(SIDE) - (SIDE - 1) / 2) * SCALE
    dx, dy = place - x, place[:, None] - y
    # The reduced shear maps the galaxy to a round one of the same area.
    norm = (1 - g1**2 - g2**2).sqrt()
    u, v = ((1 - g1) * dx - g2 * dy) / norm, (-g2 * dx + (1 + g1) * dy) / norm
    return flux * (-(u**2 + v**2) / (2 * size**2)).exp()


def stamps_of(n=6):
    generator = torch.Generator().manual_seed(3)
    unit = torch.rand(2, n, 6, generator=generator)
    low = torch.tensor([0.5, -0.3, -0.3, 0.5, -0.3, -0.3])
    high = torch.tensor([2.0, 0.3, 0.3, 0.7, 0.3, 0.3])
    parameters = low + (high - low) * unit
    return Stamps(gaussians(parameters), torch.zeros(SIDE, SIDE), parameters, TARGETS, SCALE)


def numbers(n=6):
    return torch.rand(2, n, 3, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("name", ["rotation", "shift", "brightness"])
def test_images_change_as_their_parameters_do(name):
    before = stamps_of()
    after = AUGMENTATIONS[name](before, numbers())
    assert (after.parameters - before.parameters).abs().amax((0, 1)).max() > 0.1
    torch.testing.assert_close(after.images, gaussians(after.parameters), rtol=0, atol=1e-4)
    # The difference is what the test sees: without the change it is a thousand times larger.
    assert (before.images - after.images).abs().max() > 0.1
    # Targets that a network does not have are left out.
    fewer = before._replace(parameters=before.parameters[..., 4:], targets=("g1", "g2"))
    found = AUGMENTATIONS[name](fewer, numbers()).parameters
    torch.testing.assert_close(found, after.parameters[..., 4:])


def test_a_quarter_turn_is_that_of_the_group():
    images = torch.randn(4, 9, 9)
    for k in range(4):
        turned = rotated(images, torch.full((4,), k * math.pi / 2))
        torch.testing.assert_close(turned, dihedral.transform_images(images, -k % 4), rtol=0, atol=1e-5)


def test_the_psf_of_each_stamp_turns_with_it():
    stamps = stamps_of()
    stamps = stamps._replace(psf=stamps.images)
    turned = AUGMENTATIONS["rotation"](stamps, numbers())
    assert torch.equal(turned.psf, turned.images)


def test_cutout_empties_a_quarter_of_the_side():
    stamps = stamps_of()._replace(images=torch.ones(2, 6, SIDE, SIDE))
    centres = torch.full((2, 6, 3), 0.5)
    empty = AUGMENTATIONS["cutout"](stamps, centres).images == 0
    assert (empty.sum((-2, -1)) == (SIDE // 4) ** 2).all()
    assert empty[0, 0, SIDE // 2, SIDE // 2]
    assert (AUGMENTATIONS["cutout"](stamps, 0 * centres).images == 0).sum((-2, -1)).max() == (SIDE // 8) ** 2


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_parameters_are_mixed_as_the_pixels_are(name):
    stamps = stamps_of()
    # Each image has one value everywhere, so that the mean of its pixels is mixed as the parameters are.
    stamps = stamps._replace(images=stamps.parameters[..., :1, None].expand(2, 6, SIDE, SIDE).clone())
    mixed = AUGMENTATIONS[name](stamps, numbers())
    torch.testing.assert_close(mixed.images.mean((-2, -1)), mixed.parameters[..., 0])
    share = (mixed.parameters - stamps.parameters.roll(-1, 1)) / (
        stamps.parameters - stamps.parameters.roll(-1, 1)
    )
    torch.testing.assert_close(share, share[..., :1].expand_as(share), rtol=1e-3, atol=1e-3)
    assert ((share > -1e-5) & (share < 1 + 1e-5)).all()


def test_one_after_the_other():
    stamps, random = stamps_of(8), {name: numbers(8) for name in AUGMENTATIONS}
    both = augment(stamps, ("rotation", "shift"), random, [1] * 8)
    one = AUGMENTATIONS["shift"](AUGMENTATIONS["rotation"](stamps, random["rotation"]), random["shift"])
    assert torch.equal(both.images, one.images)
    assert augment(stamps, (), {}, [1] * 8) is stamps


def test_noise_is_added_after_the_augmentation():
    examples = Examples(torch.zeros(64, 16, 16), torch.zeros(16, 16), torch.ones(64, 2))
    source = Stored(examples, 64, [1])
    source.start(0)
    drawn = {}
    for names in ((), ("rotation", "shift", "brightness", "cutout", "mixup", "cutmix")):
        recipe = Recipe(noise=(1e-3, 1e-1), augmentation=names)
        drawn[names] = draw_batch(source, slice(0, 64), recipe, ("g1", "g2"), [1], 5, torch.Generator())[:4]
    (image, _, sigma, _), (other, _, level, _) = drawn.values()
    assert torch.equal(image, other)
    assert torch.equal(sigma, level)


def test_stamps_with_their_own_psfs_are_not_mixed(tmp_path):
    splits = make_splits(tmp_path, 32, 16, "sersic_moffat")
    training = {"augmentation": ["cutmix"], "batch_size": 16, "epochs": 1}
    chosen = resolve_variant("tiny", {"base": "baseline", "training": training}, Recipe())
    with pytest.raises(ConfigError, match=r"training\.augmentation: 'cutmix'.*own PSF"):
        train(*splits, chosen, population=Population(**PRESETS["sersic_moffat"]), name="tiny", seed=1)
