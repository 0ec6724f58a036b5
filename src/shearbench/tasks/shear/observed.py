"""Training stamps observed as those of a population: correlated noise, and masked pixels that are filled."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from shearbench.data.observing import WINDOW, Observing, interpolated, kernel


def draw_masks(observing: Observing, shape: torch.Size, generator: torch.Generator) -> Tensor | None:
    """Return random masks of a shape (..., ny, nx), True where a pixel is masked; None if there are none."""
    if not (observing.masked_fraction or observing.bad_columns):
        return None
    device = generator.device
    masks = torch.rand(shape, generator=generator, device=device) < observing.masked_fraction
    order = torch.rand(*shape[:-2], shape[-1], generator=generator, device=device).argsort(-1)
    bad = order < observing.bad_columns  # a random permutation: as many columns as there shall be
    return masks | bad[..., None, :]


def observed(
    images: Tensor, sigma: Tensor | float, noise: Tensor, observing: Observing, masks: Tensor | None
) -> Tensor:
    """Return images with noise, whose masked pixels are filled as those of `StampSet.batches`.

    Parameters
    ----------
    images : Tensor, shape (n, ny, nx)
    sigma : Tensor or float
        Standard deviation of the noise, of a shape that fits that of the images.
    noise : Tensor, shape (n, ny, nx)
        White noise of unit variance. Correlated noise is made of it, periodic at the edges of the stamp.
    observing : Observing
    masks : Tensor of bool, shape (n, ny, nx), optional
        From `draw_masks`.
    """
    if observing.correlation:
        taps = kernel(observing.correlation)
        reach = len(taps) // 2
        for axis in (1, 2):
            noise = sum(float(tap) * noise.roll(k - reach, axis) for k, tap in enumerate(taps))  # type: ignore
    images = images + sigma * noise
    return images if masks is None else _filled(images, masks)


def _filled(images: Tensor, masks: Tensor) -> Tensor:
    """Return images with masked pixels interpolated; zero where no good pixel is around."""
    margin = (WINDOW,) * 4
    values = functional.pad(images.masked_fill(masks, 0.0), margin).double()
    good = functional.pad((~masks).double(), margin)
    stamp, row, column = (at[:, None] for at in masks.nonzero(as_tuple=True))
    side = 2 * WINDOW + 1
    dy, dx = (
        torch.from_numpy(offset.ravel().copy()).to(images.device) for offset in np.indices((side, side))
    )
    around = (stamp, row + dy, column + dx)

    def as_tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(images.device)

    found = interpolated(torch, values[around], good[around], as_tensor)
    return images.masked_scatter(masks, found.to(images.dtype))
