"""Training data on the device: noiseless stamps and true shapes, noise drawn where they lie."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from shearbench import dihedral
from shearbench.errors import ContractError
from shearbench.stamps import RULE, StampSet
from shearbench.training.recipe import Recipe
from shearbench.training.settings import seeded

# First number of the seeds of each use of random numbers.
_ORDER, _STEP, _FIXED = range(3)


@dataclass(frozen=True)
class Examples:
    """Stamps with their true shapes, on one device.

    Attributes
    ----------
    images : Tensor of float32, shape (n, ny, nx)
    psf : Tensor of float32, shape (ny, nx) or (n, ny, nx)
    shapes : Tensor of float32, shape (n, 2)
        True g1, g2.
    """

    images: Tensor
    psf: Tensor
    shapes: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def psf_of(self, index: Tensor | slice) -> Tensor:
        """Return the PSF of some stamps: theirs, or the one of all."""
        return self.psf if self.psf.ndim == 2 else self.psf[index]


def load_examples(stamps: StampSet, catalog: pd.DataFrame, device: torch.device) -> Examples:
    """Put a split on the device, once.

    Parameters
    ----------
    stamps : StampSet
    catalog : pandas.DataFrame
        The catalog the stamps were drawn from: ``galaxy_id, g1, g2``; attribute ``digest``.
    device : torch.device

    Raises
    ------
    ContractError
        The catalog is not the stamps' own, or a stamp has pixels that are no numbers.
    """
    file = stamps.paths[0]
    if catalog.attrs.get("digest") != stamps.catalog_digest:
        raise ContractError.of(
            file,
            "catalog_digest",
            stamps.catalog_digest,
            f"the catalog's {catalog.attrs.get('digest')}",
            RULE,
        )
    if catalog["galaxy_id"].tolist() != stamps.galaxy_id.tolist():
        raise ContractError.of(
            file, "galaxy_id", "other galaxies", "those of the catalog, in its order", RULE
        )
    images, psf = (torch.from_numpy(array) for array in stamps.noiseless())
    for name, pixels in (("images", images), ("psf", psf)):
        if not torch.isfinite(pixels).all():
            raise ContractError.of(file, name, "pixels that are NaN or infinite", "finite fluxes", RULE)
    shapes = torch.from_numpy(catalog[["g1", "g2"]].to_numpy("float32", copy=True))
    return Examples(images.to(device), psf.to(device), shapes.to(device))


def epoch_order(n: int, count: int, seed: int, epoch: int) -> Tensor:
    """Return which of `n` stamps an epoch shows, shape (count,): each once before any comes again."""
    generator = seeded(torch.Generator(), _ORDER, seed, epoch)
    rounds = [torch.randperm(n, generator=generator) for _ in range(-(-count // n))]
    return torch.cat(rounds)[:count]


def draw_batch(
    examples: Examples, index: Tensor, recipe: Recipe, seed: int, step: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Make one step's stamps: turned and mirrored, with fresh noise of fresh levels.

    All random numbers follow from (seed, step) alone, so that training resumes at any step.

    Parameters
    ----------
    examples : Examples
    index : Tensor of int64, shape (n,)
    recipe : Recipe
    seed, step : int
    generator : torch.Generator
        Of the device; seeded here.

    Returns
    -------
    images : Tensor, shape (n, ny, nx)
    psf : Tensor, shape (ny, nx) or (n, ny, nx)
    sigma : Tensor, shape (n,)
    shapes : Tensor, shape (n, 2)
    """
    seeded(generator, _STEP, seed, step)
    images, psf, shapes = examples.images[index], examples.psf_of(index), examples.shapes[index]
    if recipe.d4:
        images, psf, shapes = dihedral.augment(images, psf, shapes)
    low, high = recipe.noise_range
    level = torch.rand(len(index), generator=generator, device=images.device)
    sigma = low * (high / low) ** level
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    return images + sigma[:, None, None] * noise, psf, sigma, shapes


def fixed_noise(shape: torch.Size, level: int, block: int, generator: torch.Generator) -> Tensor:
    """Return unit noise that is the same in all trainings, for block `block` of validation stamps."""
    seeded(generator, _FIXED, level, block)
    return torch.randn(shape, generator=generator, device=generator.device)
