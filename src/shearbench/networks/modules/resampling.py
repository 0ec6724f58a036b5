"""Images turned, shifted and cut, as augmentations need it.

Images are turned and shifted by phases of their Fourier transform, which is exact for images that the pixels
sample finely enough and that are equal at opposite edges.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def rotated(images: Tensor, angle: Tensor) -> Tensor:
    """Turn images [..., n, n] counterclockwise (from x to y) by angles [...] of 0 to 2 pi.

    By quarter turns, and three shears for the rest (Unser, Thevenaz & Yaroslavsky 1995, IEEE Trans. Image
    Process. 4, 1371); each shear shifts the rows or the columns by phases.
    """
    quarters = (angle / (math.pi / 2)).round()
    rest = angle - quarters * (math.pi / 2)
    turns = (quarters % 4)[..., None, None]
    images = torch.where(turns % 2 == 1, images.rot90(-1, (-2, -1)), images)
    images = torch.where(turns >= 2, images.rot90(2, (-2, -1)), images)
    slope = (rest / 2).tan()
    images = _sheared(images, slope)
    images = _sheared(images.mT, -rest.sin()).mT
    return _sheared(images, slope)


def _sheared(images: Tensor, slope: Tensor) -> Tensor:
    """Return images whose value at (x, y) is that of the argument at (x + slope y, y)."""
    rows = images.shape[-2]
    y = torch.arange(rows, device=images.device) - (rows - 1) / 2
    return moved(images, -slope[..., None] * y)


def moved(images: Tensor, shifts: Tensor) -> Tensor:
    """Shift each row of images [..., ny, nx] along x by `shifts` [..., ny] pixels."""
    columns = images.shape[-1]
    phase = -2 * math.pi * shifts[..., None] * torch.fft.rfftfreq(columns, device=images.device)
    spectrum = torch.fft.rfft(images) * torch.polar(torch.ones_like(phase), phase)
    return torch.fft.irfft(spectrum, columns)


def square(images: Tensor, centre: Tensor, side: Tensor) -> Tensor:
    """Return which pixels of images [..., ny, nx] are in a square, which the edges of the stamp may cut.

    Parameters
    ----------
    images : Tensor
    centre : Tensor, shape (..., 2)
    side : Tensor, shape (...)
        Both as fractions of the side of the stamp.
    """
    inside = []
    for pixels, middle in zip(images.shape[-2:], centre.unbind(-1)):
        place = (torch.arange(pixels, device=images.device) + 0.5) / pixels
        inside.append((place - middle[..., None]).abs() < side[..., None] / 2)
    return inside[0][..., :, None] & inside[1][..., None, :]
