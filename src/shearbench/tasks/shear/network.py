"""A network as an estimator: from noisy stamps, PSF and noise level to shapes with errors.

Around any architecture stands the same wrapper. It takes out what needs no learning, so that float32 is
enough at a signal-to-noise of 2e4 and nothing overflows at one of 2:

1. Flux. With the mean galaxy m of unit flux as aperture, A = <m, I> / <m, m> has noise s_A = sigma / |m|.
   The stamp is divided by a = sqrt(A^2 + s_A^2): the flux where there is one, the noise where there is none.
2. The mean galaxy is subtracted: d = (I - A m) / a is the input of the body (see
   `shearbench.networks.modules.bodies`).
3. Level. The network is told log10(s_A / a) and log10(s_A / median flux).
4. Targets. Its answers are multiplied by the spread of the true ones (the flux's are in units of a).
5. Refinement by a forward model, where the architecture has one (`shearbench.networks.modules.refinement`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from shearbench.forward_model.fourier import FLUX
from shearbench.networks.base import Architecture
from shearbench.networks.modules import dihedral
from shearbench.networks.modules.bodies import Normalised, symmetric, with_flux
from shearbench.training.task import TrainedModule

_FIT_STAMPS = 8192  # galaxies that the scaling is measured on
_NO_SPREAD = 0.01  # spread of shapes or positions [arcsec] that are all the same
_LEVEL_CENTRE, _LEVEL_SPREAD = -2.5, 1.5  # log10 of the noise over the flux, from 1e-5 to 1


class Answer(NamedTuple):
    """What a network says of n stamps.

    Attributes
    ----------
    shapes : Tensor, shape (n, 2)
        g1, g2.
    error : Tensor, shape (n, 2)
        Of each component, as the network or its forward model has it: not yet calibrated; 1 where it says
        nothing of its errors.
    snr : Tensor, shape (n,)
        The observed signal-to-noise of the flux in the aperture of the mean galaxy, 1 where all is noise.
    standard : Tensor, shape (n, T)
        All targets before any refinement, of order one: what `ShearNetwork.standardise` makes of them.
    precision : Tensor or None, shape (n, 3)
        Entries l11, l21, l22 of the lower triangular L that whitens the error of the shape, for a Gaussian
        head: the covariance is (L' L)^-1.
    """

    shapes: Tensor
    error: Tensor
    snr: Tensor
    standard: Tensor
    precision: Tensor | None


class ShearNetwork(TrainedModule):
    """An architecture with its scaling of inputs and outputs, and its calibrated errors.

    Parameters
    ----------
    architecture : Architecture
    shape : (int, int)
        Rows and columns of a stamp.
    pixel_scale : float
        Arcsec.
    per_galaxy_psf : bool
        Whether the PSF differs from galaxy to galaxy: then its image is an input.
    """

    def __init__(
        self, architecture: Architecture, shape: tuple[int, int], pixel_scale: float, per_galaxy_psf: bool
    ) -> None:
        super().__init__()
        self.per_galaxy_psf = per_galaxy_psf
        self.symmetrise = architecture.symmetrise
        self.targets = architecture.targets
        self.gaussian = architecture.head == "gaussian"
        count = len(self.targets)
        self.body = architecture.body(shape, per_galaxy_psf, self.targets, count + 3 * self.gaussian)
        self.refinement = architecture.refinement(shape, pixel_scale)
        self.refining = True
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("median_flux", torch.ones(()))
        self.register_buffer("target_centre", torch.zeros(count))
        self.register_buffer("target_spread", torch.ones(count))
        # Errors: see `calibrate`. Rows are noise levels.
        self.register_buffer("error_sigma", torch.zeros(0))
        self.register_buffer("error_snr", torch.zeros(0, 0))
        self.register_buffer("error", torch.zeros(0, 0))

    mean: Tensor
    median_flux: Tensor
    target_centre: Tensor
    target_spread: Tensor
    error_sigma: Tensor
    error_snr: Tensor
    error: Tensor

    @property
    def learned(self) -> tuple[str, ...]:
        """Names of the submodules that hold all weights; the rest is measured on stamps, or has none."""
        return ("body.network", *(("refinement.damping", "refinement.correction") if self.refinement else ()))

    @property
    def shape_spread(self) -> Tensor:
        """Standard deviation of a component of the true shapes."""
        return self.target_spread[self.targets.index("g1")]

    @torch.no_grad()
    def fit_scaling(self, images: Tensor, psf: Tensor, parameters: Tensor) -> None:
        """Measure the scaling of inputs and outputs on noiseless training stamps.

        The mean galaxy, the spreads and the centres are made symmetric under the dihedral group, so that
        turned stamps are as good as new ones.

        Parameters
        ----------
        images : Tensor, shape (n, ny, nx)
        psf : Tensor, shape (ny, nx) or (n, ny, nx)
        parameters : Tensor, shape (n, T)
            The true targets.
        """
        images, psf = images[:_FIT_STAMPS], psf[:_FIT_STAMPS] if psf.ndim == 3 else psf
        flux = images.sum((1, 2))
        self.median_flux.copy_(flux.median())
        self.mean.copy_(symmetric((images / flux[:, None, None]).mean(0)))
        stamps = self.normalise(images, psf, images.new_zeros(()))
        relative = self._relative(parameters[:_FIT_STAMPS], stamps.scale)
        rms = relative.square().mean(0).sqrt()
        for k, name in enumerate(self.targets):
            if name in ("x", "y", "g1", "g2"):  # vectors: no centre, and one spread for both components
                pair = [self.targets.index(one) for one in (("x", "y") if name in "xy" else ("g1", "g2"))]
                spread = rms[pair].square().mean().sqrt()
                # Round galaxies, or galaxies in the middle, have no spread: any unit will do.
                self.target_spread[k] = torch.where(spread > 0, spread, spread.new_tensor(_NO_SPREAD))
            else:
                self.target_centre[k] = relative[:, k].mean()
                self.target_spread[k] = relative[:, k].std().clamp_min(1e-3 * relative[:, k].mean().abs())
        self.body.fit(stamps)
        if self.refinement is not None:
            self.refinement.fit(self.target_spread, self.target_centre)

    def _relative(self, parameters: Tensor, scale: Tensor) -> Tensor:
        """Return targets with the flux in units of the scale."""
        if self.targets[0] != "flux":
            return parameters
        return with_flux(parameters, parameters[:, FLUX] / scale)

    def normalise(self, images: Tensor, psf: Tensor, sigma: Tensor) -> Normalised:
        """Find the flux of stamps roughly, and the noise relative to it.

        Parameters
        ----------
        images : Tensor, shape (n, ny, nx)
        psf : Tensor, shape (ny, nx) or (n, ny, nx)
        sigma : Tensor, shape (n,) or ()
            Noise per pixel.
        """
        square = self.mean.square().sum()
        amplitude = images.flatten(1) @ self.mean.flatten() / square
        noise = (sigma.expand(len(images)) / square.sqrt()).clamp_min(1e-7 * self.median_flux)
        scale = (amplitude.square() + noise.square()).sqrt()
        relative = torch.stack([noise / scale, noise / self.median_flux], 1).log10()
        level = (relative - _LEVEL_CENTRE) / _LEVEL_SPREAD
        return Normalised(images, psf, self.mean, amplitude, scale, sigma / scale, level)

    def standardise(self, parameters: Tensor, images: Tensor, psf: Tensor, sigma: Tensor) -> Tensor:
        """Return true targets as the network is to answer them, of order one."""
        scale = self.normalise(images, psf, sigma).scale
        return (self._relative(parameters, scale) - self.target_centre) / self.target_spread

    def forward(self, images: Tensor, psf: Tensor, sigma: Tensor, refine: int | None = None) -> Answer:
        """Estimate shapes.

        Parameters
        ----------
        images, psf, sigma
            As for `normalise`.
        refine : int, optional
            How many of the stamps of each model, from the first, a forward model refines where there is
            one; by default all, and in training a part.

        Returns
        -------
        Answer
        """
        sigma = sigma.expand(len(images))
        stamps = self.normalise(images, psf, sigma)
        if self.symmetrise == "always" or (self.symmetrise == "test" and not self.training):
            turned = [
                dihedral.transform_answer(self.body(_turned(stamps, k)), dihedral.inverse(k), self.targets)
                for k in range(dihedral.ORDER)
            ]
            raw = torch.stack(turned).mean(0)
        else:
            raw = self.body(stamps)
        count = len(self.targets)
        parameters = self.target_centre + self.target_spread * raw[:, :count]
        if self.targets[0] == "flux":
            parameters = with_flux(parameters, parameters[:, FLUX] * stamps.scale)
        at = self.targets.index("g1")
        shapes, error = parameters[:, at : at + 2], torch.ones_like(parameters[:, :2])
        snr = self.mean.norm() / stamps.noise
        precision = None
        if self.gaussian:
            precision = self._precision(raw[:, count:], snr)
            error = _errors(precision)
        if self.refinement is not None and self.refining:
            each = len(images) // self.models
            if refine is None:
                refine = self.refinement.count(each) if self.training else each
            own = {"images", "amplitude", "scale", "noise", "level", *(["psf"] if psf.ndim == 3 else [])}
            parts = {name: self._part(getattr(stamps, name), 0, refine) for name in own}
            first = stamps._replace(**parts)
            better = self.refinement(self._part(parameters, 0, refine), first)
            shapes, error = (
                self._joined(new, self._part(old, refine, each)) for new, old in zip(better, (shapes, error))
            )
        return Answer(shapes, error, snr, raw[:, :count], precision)

    def _part(self, values: Tensor, start: int, stop: int) -> Tensor:
        """Return the values of some stamps of each model."""
        return values.unflatten(0, (self.models, -1))[:, start:stop].flatten(0, 1)

    def _joined(self, *parts: Tensor) -> Tensor:
        """Return values of stamps of which each part holds some of every model."""
        return torch.cat([part.unflatten(0, (self.models, -1)) for part in parts], 1).flatten(0, 1)

    def _precision(self, raw: Tensor, snr: Tensor) -> Tensor:
        """Return l11, l21, l22 from raw answers: factors of a guess, 1/error^2 = 1/spread^2 + (S/N)^2."""
        guess = (self.shape_spread**-2 + snr.square()).sqrt()
        first, cross, second = raw.unbind(1)
        diagonal = torch.stack([first, second], 1).clamp(-8, 8).exp()
        return guess[:, None] * torch.stack([diagonal[:, 0], cross, diagonal[:, 1]], 1)

    @torch.no_grad()
    def calibrate(self, sigmas: list[float], pulls: list[Tensor], snrs: list[Tensor], bins: int = 8) -> None:
        """Measure the errors on validation stamps.

        At each noise level the stamps are sorted by observed signal-to-noise into bins of equal number;
        a bin's factor is the 68.27% quantile of abs(estimate - truth) / error of both components: after it,
        1 sigma covers 68% whatever the distribution. Where the network says nothing of its errors
        (`Answer.error` is 1), the factor is the error.

        Parameters
        ----------
        sigmas : list of float
            Noise levels.
        pulls : list of Tensor, shape (n, 2)
            Estimates minus true shapes, over `Answer.error`, for each level.
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
                torch.stack([pulls[level][part].abs().flatten().quantile(0.6827) for part in parts])
            )
        device = self.mean.device
        self.error_sigma = torch.tensor([sigmas[level] for level in order], device=device)
        self.error_snr = torch.stack(centres).to(device)
        self.error = torch.stack(errors).clamp_min(1e-12).to(device)

    def errors(self, answer: Answer, sigma: float) -> Tensor:
        """Return the error of each component, shape (n, 2): `calibrate`'s factor, log-linear in both.

        Beyond the calibrated range the nearest value holds.
        """
        grid, position = self.error_sigma.log(), torch.log(self.error_sigma.new_tensor(sigma))
        at = [
            _interpolate(answer.snr.log(), centres.log(), values.log())
            for centres, values in zip(self.error_snr, self.error)
        ]
        curves = torch.stack(at, 1)  # [n, levels]
        high = int(torch.searchsorted(grid, position).clamp(1, len(grid) - 1)) if len(grid) > 1 else 0
        low = max(high - 1, 0)
        weight = 0.0 if high == low else ((position - grid[low]) / (grid[high] - grid[low])).clamp(0, 1)
        factor = (curves[:, low] + weight * (curves[:, high] - curves[:, low])).exp()
        return factor[:, None] * answer.error


def _interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Interpolate linearly; constant beyond the knots."""
    if len(knots) == 1:
        return values.expand(len(x))
    high = torch.searchsorted(knots, x.contiguous()).clamp(1, len(knots) - 1)
    weight = ((x - knots[high - 1]) / (knots[high] - knots[high - 1])).nan_to_num(0.0).clamp(0, 1)
    return values[high - 1] + weight * (values[high] - values[high - 1])


def _turned(stamps: Normalised, element: int) -> Normalised:
    psf = stamps.psf if stamps.psf.ndim == 2 else dihedral.transform_images(stamps.psf, element)
    return stamps._replace(images=dihedral.transform_images(stamps.images, element), psf=psf)


def _errors(precision: Tensor) -> Tensor:
    """Return the errors [n, 2] of a covariance (L' L)^-1, from l11, l21, l22."""
    first, cross, second = precision.unbind(1)
    return torch.stack([1 / first, torch.hypot(1 / second, cross / (first * second))], 1)
