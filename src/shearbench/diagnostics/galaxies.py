"""The galaxies on which networks are examined: a few with derivatives, and noisy samples with bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from shearbench.bounds.cramer_rao import marginal_variance
from shearbench.bounds.fisher import fisher, jacobians
from shearbench.data.catalogs import PARAMETER_COLUMNS
from shearbench.data.stamps import StampSet
from shearbench.diagnostics.information import about_shape
from shearbench.forward_model.fourier import FLUX
from shearbench.tasks.shear.network import ShearNetwork

_READ = {"shape": ("g1", "g2"), "flux": ("flux",), "size": ("hlr",), "position": ("x", "y")}
_BATCH = 250  # stamps read at once


class Split(NamedTuple):
    """Stamps of a split and their catalog."""

    stamps: StampSet
    catalog: pd.DataFrame


@dataclass(frozen=True)
class Galaxies:
    """A few galaxies with the derivatives of their images.

    Attributes
    ----------
    images : Tensor of float64, shape (n, ny, nx)
    psf : Tensor of float64, shape (ny, nx) or (n, ny, nx)
    slopes : Tensor of float64, shape (n, P, ny, nx)
    names : tuple of str
        Names of the P parameters.
    prior : Tensor of float64, shape (P,)
        Inverse variances of the parameters in the population.
    """

    images: Tensor
    psf: Tensor
    slopes: Tensor
    names: tuple[str, ...]
    prior: Tensor

    @classmethod
    def of(cls, split: Split, count: int) -> Galaxies:
        """Return the first galaxies of a split."""
        stamps, catalog = split
        count = min(count, len(stamps))
        images, psf = (torch.from_numpy(part).double() for part in stamps.noiseless(0, count))
        rows = catalog.iloc[:count]
        _, slopes, names = jacobians(rows, stamps.pixel_scale, stamps.shape, psf.numpy())
        variance = catalog[[PARAMETER_COLUMNS[name] for name in names]].var(ddof=0).to_numpy(np.float64)
        with np.errstate(divide="ignore"):
            prior = torch.from_numpy(1 / variance)
        return cls(images, psf, torch.from_numpy(slopes), names, prior)

    def __len__(self) -> int:
        return len(self.images)

    def psf_of(self, member: Tensor) -> Tensor:
        """Return the PSF of the stamps of some galaxies, or the one of all."""
        return self.psf if self.psf.ndim == 2 else self.psf[member]

    def about_shape(self, matrices: Tensor) -> Tensor:
        """Return the information about the shape in Fisher matrices, see `about_shape`."""
        return about_shape(matrices, self.names, self.prior)

    def pixels(self, sigma: float) -> Tensor:
        """Return the Fisher matrices of the pixels, [n, P, P]."""
        flat = self.slopes.flatten(2)
        return flat @ flat.mT / sigma**2


@dataclass(frozen=True)
class Noisy:
    """Noisy stamps with the true parameters to predict.

    Attributes
    ----------
    images : Tensor of float32, shape (n, ny, nx)
    psf : Tensor of float32, shape (ny, nx) or (n, ny, nx)
    targets : Tensor of float64, shape (n, P)
        The true parameters; the flux is divided by `scale`.
    scale : Tensor of float64, shape (n,)
        The flux estimate by which a network divides the stamp.
    bound : Tensor of float64, shape (n, P)
        Cramer-Rao bounds of the parameters.
    names : tuple of str
        Names of the P parameters.
    """

    images: Tensor
    psf: Tensor
    targets: Tensor
    scale: Tensor
    bound: Tensor
    names: tuple[str, ...]

    @classmethod
    def of(cls, split: Split, count: int, sigma: float, seed: int, network: ShearNetwork) -> Noisy:
        """Return the first stamps of a split, with the noise that all estimators are given."""
        stamps, rows = split.stamps, split.catalog.iloc[:count]
        batches = list(stamps.batches(sigma, seed, _BATCH, 0, count))
        images = torch.from_numpy(np.concatenate([batch.images for batch in batches]))
        psfs = batches[0].psf if stamps.constant_psf else np.concatenate([batch.psf for batch in batches])
        psf = torch.from_numpy(psfs)
        matrices, names = fisher(rows, stamps.pixel_scale, stamps.shape, psf_images=psfs)
        with torch.no_grad():
            scale = network.normalise(images, psf, torch.tensor(sigma)).scale.double()
        truth = rows[[PARAMETER_COLUMNS[name] for name in names]].to_numpy(np.float64, copy=True)
        targets = torch.from_numpy(truth)
        targets[:, FLUX] /= scale
        bound = sigma * torch.from_numpy(np.sqrt(marginal_variance(matrices)))
        return cls(images, psf, targets, scale, bound, names)

    def errors_over_bounds(self, predicted: Tensor) -> dict[str, float]:
        """Return the RMSE over the bound of shape, flux, size and position."""
        away = predicted - self.targets
        away = torch.cat([away[:, : FLUX + 1] * self.scale[:, None], away[:, FLUX + 1 :]], 1)
        found = {}
        for name, parameters in _READ.items():
            columns = [self.names.index(parameter) for parameter in parameters]
            known = self.bound[:, columns].isfinite().all(1)
            square, least = (part[known][:, columns].square().mean() for part in (away, self.bound))
            found[name] = float((square / least).sqrt())
        return found
