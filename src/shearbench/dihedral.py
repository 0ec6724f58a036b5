"""The eight rotations and mirrors of a square stamp, and what they do to its shape.

A spin-2 shape g = g1 + i g2 follows the image (rows grow with +y, columns with +x):

====================  =================
image                 (g1, g2) becomes
====================  =================
turned by 90 degrees  (-g1, -g2)
turned by 180         (g1, g2)
mirrored in x or y    (g1, -g2)
transposed            (-g1, g2)
====================  =================
"""

from __future__ import annotations

import torch
from torch import Tensor

ORDER = 8
"""Elements of the group: ``element % 4`` quarter turns, after a mirror in x when ``element >= 4``."""


def transform_images(images: Tensor, element: int) -> Tensor:
    """Apply an element of the group to images [..., ny, nx], ny = nx; a view where torch can give one."""
    if element >= 4:
        images = images.flip(-1)
    return torch.rot90(images, element % 4, (-2, -1))


def signs(element: int) -> tuple[float, float]:
    """Return what an element of the group multiplies g1 and g2 by (its own inverse)."""
    turn = -1.0 if element % 2 else 1.0
    return turn, -turn if element >= 4 else turn


def transform_shapes(shapes: Tensor, element: int) -> Tensor:
    """Apply an element of the group to shapes [n, 2] = (g1, g2)."""
    return shapes * shapes.new_tensor(signs(element))


def augment(images: Tensor, psf: Tensor, shapes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Turn and mirror a batch: its i-th eighth by the i-th element of the group.

    In a batch in random order that is a random element for each stamp, at the price of a copy.

    Parameters
    ----------
    images : Tensor, shape (n, ny, nx)
    psf : Tensor, shape (ny, nx) or (n, ny, nx)
        One PSF for all stays as it is: it has no part in what the network sees.
    shapes : Tensor, shape (n, 2)

    Returns
    -------
    images, psf, shapes : Tensor
    """

    def turned(stack: Tensor) -> Tensor:
        return torch.cat([transform_images(part, k) for k, part in enumerate(stack.tensor_split(ORDER))])

    parts = shapes.tensor_split(ORDER)
    shapes = torch.cat([transform_shapes(part, k) for k, part in enumerate(parts)])
    return turned(images), turned(psf) if psf.ndim == 3 else psf, shapes
