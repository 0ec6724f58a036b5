"""A network as an estimator: from noisy stamps, PSF and noise level to shapes with errors.

Around any architecture stands the same wrapper. It takes out what needs no learning, so that float32 is
enough at a signal-to-noise of 2e4 and nothing overflows at one of 2:

1. Flux. With the mean galaxy m of unit flux as aperture, A = <m, I> / <m, m> has noise s_A = sigma / |m|.
   The stamp is divided by a = sqrt(A^2 + s_A^2): the flux where there is one, the noise where there is none.
2. The mean galaxy. What is left is d = (I - A m) / a.
3. Spread. d is divided by sqrt(sd^2 + (sigma / a)^2), sd being the spread of d over the noiseless galaxies:
   of each pixel, or one number for all.
4. Level. The network is told log10(s_A / a) and log10(s_A / median flux).
5. Shapes. Its answers are multiplied by the spread of the true shapes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shearbench import dihedral
from shearbench.networks.base import Architecture

_FIT_STAMPS = 8192  # galaxies that the scaling is measured on
_LEVEL_CENTRE, _LEVEL_SPREAD = -2.5, 1.5  # log10 of the noise over the flux, from 1e-5 to 1


class ShearNetwork(nn.Module):
    """An architecture with its scaling of inputs and outputs, and its calibrated errors.

    Parameters
    ----------
    architecture : Architecture
    shape : (int, int)
        Rows and columns of a stamp.
    per_galaxy_psf : bool
        Whether the PSF differs from galaxy to galaxy: then its image is a second channel.
    """

    def __init__(self, architecture: Architecture, shape: tuple[int, int], per_galaxy_psf: bool) -> None:
        super().__init__()
        self.per_galaxy_psf = per_galaxy_psf
        self.symmetrise = architecture.symmetrise
        self.per_pixel = architecture.input_scaling == "pixel"
        self.network = architecture.build(1 + per_galaxy_psf, shape, 2)
        for name in ("mean", "spread", "psf_mean"):
            self.register_buffer(name, torch.zeros(shape))
        for name in ("median_flux", "psf_spread", "shape_spread"):
            self.register_buffer(name, torch.ones(()))
        # Errors: see `calibrate`. Rows are noise levels.
        self.register_buffer("error_sigma", torch.zeros(0))
        self.register_buffer("error_snr", torch.zeros(0, 0))
        self.register_buffer("error", torch.zeros(0, 0))

    mean: Tensor
    spread: Tensor
    psf_mean: Tensor
    median_flux: Tensor
    psf_spread: Tensor
    shape_spread: Tensor
    error_sigma: Tensor
    error_snr: Tensor
    error: Tensor

    @torch.no_grad()
    def fit_scaling(self, images: Tensor, psf: Tensor, shapes: Tensor) -> None:
        """Measure the scaling of inputs and outputs on noiseless training stamps.

        The mean galaxy and the spreads are made symmetric under the dihedral group, so that turned
        stamps are as good as new ones.

        Parameters
        ----------
        images : Tensor, shape (n, ny, nx)
        psf : Tensor, shape (ny, nx) or (n, ny, nx)
        shapes : Tensor, shape (n, 2)
        """
        images, psf = images[:_FIT_STAMPS], psf[:_FIT_STAMPS] if psf.ndim == 3 else psf
        flux = images.sum((1, 2))
        self.median_flux.copy_(flux.median())
        self.mean.copy_(_symmetric((images / flux[:, None, None]).mean(0)))
        amplitude = self._amplitude(images)[:, None, None]
        square = _symmetric(((images - amplitude * self.mean) / amplitude).square().mean(0))
        typical = square.mean().sqrt()
        # The floor keeps pixels that hardly vary from being blown up beyond what float32 can tell.
        self.spread.copy_(
            square.sqrt().clamp_min(1e-3 * typical) if self.per_pixel else typical.expand_as(square)
        )
        if psf.ndim == 3:
            self.psf_mean.copy_(_symmetric(psf.mean(0)))
            self.psf_spread.copy_((psf - self.psf_mean).square().mean().sqrt())
        self.shape_spread.copy_(shapes.square().mean().sqrt())

    def _amplitude(self, images: Tensor) -> Tensor:
        return (images * self.mean).sum((1, 2)) / self.mean.square().sum()

    def scale_inputs(self, images: Tensor, psf: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the architecture sees: channels, level, and the observed signal-to-noise.

        Parameters
        ----------
        images : Tensor, shape (n, ny, nx)
        psf : Tensor, shape (ny, nx) or (n, ny, nx)
        sigma : Tensor, shape (n,) or ()
            Noise per pixel.

        Returns
        -------
        x : Tensor, shape (n, channels, ny, nx)
        level : Tensor, shape (n, LEVELS)
        snr : Tensor, shape (n,)
            Of the flux in the aperture of the mean galaxy; about 1 where there is only noise.
        """
        sigma = sigma.expand(len(images))
        amplitude = self._amplitude(images)
        noise = (sigma / self.mean.square().sum().sqrt()).clamp_min(1e-7 * self.median_flux)
        scale = (amplitude.square() + noise.square()).sqrt()
        left = (images - amplitude[:, None, None] * self.mean) / scale[:, None, None]
        if self.per_pixel:
            channels = left * (self.spread.square() + (sigma / scale).square()[:, None, None]).rsqrt()
        else:
            channels = left * (self.spread[0, 0].square() + (sigma / scale).square()).rsqrt()[:, None, None]
        x = channels[:, None]
        if self.per_galaxy_psf:
            x = torch.stack([channels, (psf - self.psf_mean) / self.psf_spread], 1)
        relative = torch.stack([noise / scale, noise / self.median_flux], 1).log10()
        return x, (relative - _LEVEL_CENTRE) / _LEVEL_SPREAD, scale / noise

    def forward(self, images: Tensor, psf: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate shapes.

        Parameters
        ----------
        images, psf, sigma
            As for `scale_inputs`.

        Returns
        -------
        shapes : Tensor, shape (n, 2)
            g1, g2.
        snr : Tensor, shape (n,)
            The observed signal-to-noise, for the errors.
        """
        x, level, snr = self.scale_inputs(images, psf, sigma)
        x = x.contiguous(memory_format=torch.channels_last)
        if self.symmetrise == "always" or (self.symmetrise == "test" and not self.training):
            turned = [
                dihedral.transform_shapes(self.network(dihedral.transform_images(x, k), level), k)
                for k in range(dihedral.ORDER)
            ]
            answer = torch.stack(turned).mean(0)
        else:
            answer = self.network(x, level)
        return answer * self.shape_spread, snr

    @torch.no_grad()
    def calibrate(
        self, sigmas: list[float], residuals: list[Tensor], snrs: list[Tensor], bins: int = 8
    ) -> None:
        """Measure the errors on validation stamps.

        At each noise level the stamps are sorted by observed signal-to-noise into bins of equal number;
        a bin's error is the 68.27% quantile of abs(estimate - truth) of both components, which is sigma for
        a normal distribution and covers 68% for any other.

        Parameters
        ----------
        sigmas : list of float
            Noise levels.
        residuals : list of Tensor, shape (n, 2)
            Estimates minus true shapes, for each level.
        snrs : list of Tensor, shape (n,)
            The observed signal-to-noise, as `forward` returns it.
        bins : int
        """
        order = sorted(range(len(sigmas)), key=lambda level: sigmas[level])
        centres, errors = [], []
        for level in order:
            rank = snrs[level].argsort()
            parts = rank.tensor_split(min(bins, len(rank)))
            centres.append(torch.stack([snrs[level][part].median() for part in parts]))
            errors.append(
                torch.stack([residuals[level][part].abs().flatten().quantile(0.6827) for part in parts])
            )
        device = self.mean.device
        self.error_sigma = torch.tensor([sigmas[level] for level in order], device=device)
        self.error_snr = torch.stack(centres).to(device)
        self.error = torch.stack(errors).clamp_min(1e-12).to(device)

    def errors(self, snr: Tensor, sigma: float) -> Tensor:
        """Return the error of each component, shape (n,): `calibrate`'s, log-linear in both arguments.

        Beyond the calibrated range the nearest value holds.
        """
        grid, position = self.error_sigma.log(), torch.log(self.error_sigma.new_tensor(sigma))
        at = [
            _interpolate(snr.log(), centres.log(), values.log())
            for centres, values in zip(self.error_snr, self.error)
        ]
        curves = torch.stack(at, 1)  # [n, levels]
        high = int(torch.searchsorted(grid, position).clamp(1, len(grid) - 1)) if len(grid) > 1 else 0
        low = max(high - 1, 0)
        weight = 0.0 if high == low else ((position - grid[low]) / (grid[high] - grid[low])).clamp(0, 1)
        return (curves[:, low] + weight * (curves[:, high] - curves[:, low])).exp()


def _interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Interpolate linearly; constant beyond the knots."""
    if len(knots) == 1:
        return values.expand(len(x))
    high = torch.searchsorted(knots, x.contiguous()).clamp(1, len(knots) - 1)
    weight = ((x - knots[high - 1]) / (knots[high] - knots[high - 1])).nan_to_num(0.0).clamp(0, 1)
    return values[high - 1] + weight * (values[high] - values[high - 1])


def _symmetric(image: Tensor) -> Tensor:
    """Return the mean of an image over the dihedral group."""
    turned = [dihedral.transform_images(image, element) for element in range(dihedral.ORDER)]
    return torch.stack(turned).mean(0)
