"""Augmentation of images with classes: the names of `Recipe.augmentation`, for images of several bands.

The brightness and the position of a galaxy do not change its class. `mixup` and `cutmix` mix the classes as
they mix the pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from shearbench.networks.modules import dihedral
from shearbench.networks.modules.resampling import moved, rotated, square

_SHIFT = 2.0  # largest shift along an axis [pixels]
_BRIGHTER = 1.25  # largest factor of the brightness, and the inverse of the smallest
_BLUER = 2.0  # largest factor of a band, and the inverse of the smallest
_CUT = 0.25  # side of the square of cutout, as a fraction of the side of the image
_KEPT = 0.5  # smallest fraction of the area that a crop keeps

Pair = tuple[Tensor, Tensor]


def augment(images: Tensor, truth: Tensor, names: Sequence[str], numbers: Tensor) -> Pair:
    """Apply augmentations one after the other.

    Parameters
    ----------
    images : Tensor, shape (n, bands, ny, nx)
    truth : Tensor, shape (n, classes)
        Share of each class.
    names : sequence of str
        As in `Recipe.augmentation`.
    numbers : Tensor, shape (len(names), n, 3)
        Random numbers, uniform in [0, 1).

    Returns
    -------
    images, truth : Tensor
    """
    for name, own in zip(names, numbers):
        images, truth = _AUGMENTATIONS[name](images, truth, own)
    return images, truth


def turned(images: Tensor, angle: Tensor) -> Tensor:
    """Turn images [n, bands, ny, ny] counterclockwise by angles [n] of 0 to 2 pi."""
    return rotated(images, angle[:, None])


def _d4(images: Tensor, truth: Tensor, numbers: Tensor) -> Pair:
    element = (numbers[:, 0] * dihedral.ORDER).long()[:, None, None, None]
    images = torch.where(element >= 4, images.flip(-1), images)
    images = torch.where(element % 2 == 1, images.rot90(1, (-2, -1)), images)
    return torch.where(element % 4 >= 2, images.rot90(2, (-2, -1)), images), truth


def _rotation(images: Tensor, truth: Tensor, numbers: Tensor) -> Pair:
    return turned(images, 2 * math.pi * numbers[:, 0]), truth


def _shift(images: Tensor, truth: Tensor, numbers: Tensor) -> Pair:
    for shift in ((2 * numbers[:, :2] - 1) * _SHIFT).unbind(-1):
        images = moved(images, shift[:, None, None].expand(images.shape[:-1])).mT
    return images, truth


def _brightness(images: Tensor, truth: Tensor, numbers: Tensor) -> Pair:
    return images * (_BRIGHTER ** (2 * numbers[:, 0] - 1))[:, None, None, None], truth


def _colour(images: Tensor, truth: Tensor, numbers: Tensor) -> Pair:
    """Multiply each band by a factor of its own; a fourth band has that of the first, and so on."""
    factor = _BLUER ** (2 * numbers[:, torch.arange(images.shape[1], device=images.device) % 3] - 1)
    return images * factor[:, :, None, None], truth


def _crop(images: Tensor, truth: Tensor, numbers: Tensor) -> Pair:
    """Magnify a square of the image to its size, by linear interpolation between pixels."""
    side = (_KEPT + (1 - _KEPT) * numbers[:, 0]).sqrt()
    centre = (1 - side[:, None]) * (2 * numbers[:, 1:] - 1)
    axes = side[:, None] * torch.eye(2, device=images.device).flatten()
    region = torch.cat([axes.unflatten(1, (2, 2)), centre[..., None]], 2)
    grid = torch.nn.functional.affine_grid(region, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False), truth


def _cutout(images: Tensor, truth: Tensor, numbers: Tensor) -> Pair:
    cut = square(images, numbers[:, :2], torch.full_like(numbers[:, 0], _CUT))
    return images.masked_fill(cut[:, None], 0.0), truth


def _mixup(images: Tensor, truth: Tensor, numbers: Tensor) -> Pair:
    share = numbers[:, 0]
    own = share[:, None, None, None]
    return own * images + (1 - own) * images.roll(-1, 0), _mixed(truth, share)


def _cutmix(images: Tensor, truth: Tensor, numbers: Tensor) -> Pair:
    cut = square(images, numbers[:, 1:], (1 - numbers[:, 0]).sqrt())
    images = torch.where(cut[:, None], images.roll(-1, 0), images)
    return images, _mixed(truth, 1 - cut.float().mean((-2, -1)))


def _mixed(truth: Tensor, share: Tensor) -> Tensor:
    own = share[:, None]
    return own * truth + (1 - own) * truth.roll(-1, 0)


_AUGMENTATIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Pair]] = {
    "d4": _d4,
    "rotation": _rotation,
    "shift": _shift,
    "brightness": _brightness,
    "colour": _colour,
    "crop": _crop,
    "cutout": _cutout,
    "mixup": _mixup,
    "cutmix": _cutmix,
}
