"""Augmentation: changes of the noiseless stamps of a training step, and of their true parameters.

Noise is added afterwards, so that the noise of a stamp is not rotated, interpolated or mixed.

Stamps are rotated and shifted by phases of their Fourier transform. This is exact for images that the pixels
sample finely enough and that are zero at the edges. Two errors remain. A pixel stays a square while the
galaxy turns, so that a galaxy turned by 45 degrees has the response of a pixel that stands on its corner. And
light outside the stamp is missing in the corners that it would turn into.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from shearbench.networks.modules import dihedral
from shearbench.networks.modules.resampling import moved, rotated, square
from shearbench.training.recipe import MIXING

_SHIFT = 1.0  # largest shift along an axis [pixels]
_BRIGHTER = 2.0  # largest factor of the flux, and the inverse of the smallest
_CUT = 0.25  # side of the square of cutout, as a fraction of the side of the stamp


class Stamps(NamedTuple):
    """Noiseless stamps of a training step.

    Attributes
    ----------
    images : Tensor, shape (trainings, n, ny, nx)
    psf : Tensor, shape (ny, nx) or (trainings, n, ny, nx)
    parameters : Tensor, shape (trainings, n, T)
        The true targets.
    targets : tuple of str
        Their names.
    pixel_scale : float
        Pixel scale [arcsec].
    """

    images: Tensor
    psf: Tensor
    parameters: Tensor
    targets: tuple[str, ...]
    pixel_scale: float

    def with_targets(self, **changes: Tensor) -> Tensor:
        """Return the parameters with some columns [trainings, n] replaced, if they are targets."""
        columns = dict(zip(self.targets, self.parameters.unbind(-1)))
        return torch.stack([changes.get(name, column) for name, column in columns.items()], -1)

    def target(self, name: str) -> Tensor:
        """Return a column of the parameters, or zeros if it is no target, [trainings, n]."""
        if name not in self.targets:
            return torch.zeros_like(self.parameters[..., 0])
        return self.parameters[..., self.targets.index(name)]

    def mixed(self, images: Tensor, share: Tensor) -> Stamps:
        """Return stamps with these images, whose parameters are mixed with those of the next stamp's.

        The share of the own parameters is `share` [trainings, n].
        """
        own = share[..., None]
        parameters = own * self.parameters + (1 - own) * self.parameters.roll(-1, 1)
        return self._replace(images=images, parameters=parameters)


def augment(
    stamps: Stamps, names: Sequence[str], numbers: dict[str, Tensor], counts: Sequence[int]
) -> Stamps:
    """Apply augmentations one after the other.

    Parameters
    ----------
    stamps : Stamps
        For `mixup` and `cutmix`, all stamps of the batch: each is mixed with the next one.
    names : sequence of str
        As in `Recipe.augmentation`.
    numbers : dict of str to Tensor, shape (trainings, n, 3)
        Random numbers, uniform in [0, 1), for each name but ``d4``.
    counts : sequence of int
        Number of stamps for each of the 8 elements of the group, for ``d4``; see `dihedral.augment`.
    """
    for name in names:
        if name == "d4":
            images, psf, parameters = dihedral.augment(
                stamps.images, stamps.psf, stamps.parameters, stamps.targets, counts
            )
            stamps = stamps._replace(images=images, psf=psf, parameters=parameters)
        else:
            stamps = AUGMENTATIONS[name](stamps, numbers[name])
    return stamps


def _rotation(stamps: Stamps, numbers: Tensor) -> Stamps:
    angle = 2 * math.pi * numbers[..., 0]
    cos, sin = angle.cos(), angle.sin()
    g1, g2, x, y = (stamps.target(name) for name in ("g1", "g2", "x", "y"))
    cos2, sin2 = (2 * angle).cos(), (2 * angle).sin()
    return stamps._replace(
        images=rotated(stamps.images, angle),
        # A PSF common to all stamps is round (`Psf.constant`), so that it does not change.
        psf=stamps.psf if stamps.psf.ndim == 2 else rotated(stamps.psf, angle),
        parameters=stamps.with_targets(
            g1=cos2 * g1 - sin2 * g2, g2=sin2 * g1 + cos2 * g2, x=cos * x - sin * y, y=sin * x + cos * y
        ),
    )


def _shift(stamps: Stamps, numbers: Tensor) -> Stamps:
    along_x, along_y = ((2 * numbers[..., :2] - 1) * _SHIFT).unbind(-1)
    images = stamps.images
    for shift in (along_x, along_y):
        images = moved(images, shift[..., None].expand(images.shape[:-1])).mT
    x, y = (
        stamps.target(name) + stamps.pixel_scale * shift for name, shift in (("x", along_x), ("y", along_y))
    )
    return stamps._replace(images=images, parameters=stamps.with_targets(x=x, y=y))


def _brightness(stamps: Stamps, numbers: Tensor) -> Stamps:
    factor = _BRIGHTER ** (2 * numbers[..., 0] - 1)
    parameters = stamps.with_targets(flux=factor * stamps.target("flux"))
    return stamps._replace(images=factor[..., None, None] * stamps.images, parameters=parameters)


def _cutout(stamps: Stamps, numbers: Tensor) -> Stamps:
    """Set a square around any pixel to zero (DeVries & Taylor 2017, arXiv:1708.04552)."""
    side = torch.full_like(numbers[..., 0], _CUT)
    return stamps._replace(
        images=stamps.images.masked_fill(square(stamps.images, numbers[..., :2], side), 0.0)
    )


def _mixup(stamps: Stamps, numbers: Tensor) -> Stamps:
    """Mix pixels and parameters; the share is uniform (Zhang et al. 2018, arXiv:1710.09412, alpha = 1)."""
    share = numbers[..., 0]
    own = share[..., None, None]
    return stamps.mixed(own * stamps.images + (1 - own) * stamps.images.roll(-1, 1), share)


def _cutmix(stamps: Stamps, numbers: Tensor) -> Stamps:
    """Replace a square by another stamp's; mix parameters by area (Yun et al. 2019, arXiv:1905.04899)."""
    cut = square(stamps.images, numbers[..., 1:], (1 - numbers[..., 0]).sqrt())
    images = torch.where(cut, stamps.images.roll(-1, 1), stamps.images)
    return stamps.mixed(images, 1 - cut.float().mean((-2, -1)))


AUGMENTATIONS: dict[str, Callable[[Stamps, Tensor], Stamps]] = {
    "rotation": _rotation,
    "shift": _shift,
    "brightness": _brightness,
    "cutout": _cutout,
    "mixup": _mixup,
    "cutmix": _cutmix,
}
"""The augmentations, by the names of `Recipe.augmentation`, except ``d4``."""


def mixes(names: Sequence[str]) -> bool:
    """Return whether any of these augmentations mixes stamps with each other."""
    return any(name in MIXING for name in names)
