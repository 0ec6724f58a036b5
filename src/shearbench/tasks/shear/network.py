"""A network as an estimator: from noisy stamps, PSF and noise level to shapes with errors.

All architectures have the same wrapper. It does the steps that need no training, so that float32 is precise
enough at a signal-to-noise ratio of 2e4, and no value overflows at a ratio of 2:

1. Flux. The flux of a stamp I is estimated with the mean galaxy m (of unit flux) as aperture:
   A = <m, I> / <m, m>, with the standard deviation s_A = sigma / |m|. The stamp is divided by
   a = sqrt(A^2 + s_A^2), which is about the flux if the galaxy is brighter than the noise, else the noise.
2. The mean galaxy is subtracted: d = (I - A m) / a is the input of the body (see
   `shearbench.networks.modules.bodies`).
3. Noise level. log10(s_A / a) and log10(s_A / median flux) are inputs of the network.
4. Targets. The outputs are multiplied by the standard deviation of the true targets (the flux is in units
   of a).
5. Refinement by a forward model, if the architecture has one (`shearbench.networks.modules.refinement`).
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

_FIT_STAMPS = 8192  # number of galaxies from which the scaling is measured
_NO_SPREAD = 0.01  # scale of shapes or positions [arcsec] if they do not vary
_LEVEL_CENTRE, _LEVEL_SPREAD = -2.5, 1.5  # of log10(noise / flux), for ratios from 1e-5 to 1


class Answer(NamedTuple):
    """The output of a network for n stamps.

    Attributes
    ----------
    shapes : Tensor, shape (n, 2)
        g1, g2.
    error : Tensor, shape (n, 2)
        Error of each component before calibration, from a Gaussian head or a forward model; 1 if the network
        has neither.
    snr : Tensor, shape (n,)
        Observed signal-to-noise ratio of the flux in the aperture of the mean galaxy; 1 for pure noise.
    standard : Tensor, shape (n, T)
        All targets before any refinement, in the units of `ShearNetwork.standardise`, of order one.
    precision : Tensor or None, shape (n, 3)
        Only for a Gaussian head: entries l11, l21, l22 of the lower triangular matrix L that whitens the
        error of the shape. The covariance is (L' L)^-1.
    """

    shapes: Tensor
    error: Tensor
    snr: Tensor
    standard: Tensor
    precision: Tensor | None


class ShearNetwork(TrainedModule):
    """A network with the scaling of its inputs and outputs, and the calibration of its errors.

    Parameters
    ----------
    architecture : Architecture
    shape : (int, int)
        Rows and columns of a stamp.
    pixel_scale : float
        Pixel scale [arcsec].
    per_galaxy_psf : bool
        Whether the PSF differs from galaxy to galaxy; its image is then an input.
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
        self.parts = architecture.parts
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
        """Names of the submodules that contain all weights; see `TrainedModule.learned`."""
        return ("body.network", *(("refinement.damping", "refinement.correction") if self.refinement else ()))

    @property
    def shape_spread(self) -> Tensor:
        """Standard deviation of a component of the true shapes."""
        return self.target_spread[self.targets.index("g1")]

    @torch.no_grad()
    def fit_scaling(self, images: Tensor, psf: Tensor, parameters: Tensor) -> None:
        """Measure the scaling of inputs and outputs from noiseless training stamps.

        The mean galaxy, the standard deviations and the centres are averaged over the 8 rotations and
        mirrors, so that the scaling of a rotated stamp is the same.

        Parameters
        ----------
        images : Tensor, shape (n, ny, nx)
        psf : Tensor, shape (ny, nx) or (n, ny, nx)
        parameters : Tensor, shape (n, T)
            The true targets.
        """
        stamps = self.fit_inputs(images, psf)
        relative = self._relative(parameters[:_FIT_STAMPS], stamps.scale)
        rms = relative.square().mean(0).sqrt()
        for k, name in enumerate(self.targets):
            if name in ("x", "y", "g1", "g2"):  # two components: their mean is zero, their spread the same
                pair = [self.targets.index(one) for one in (("x", "y") if name in "xy" else ("g1", "g2"))]
                spread = rms[pair].square().mean().sqrt()
                # The spread is zero if all galaxies are round, or all are centred; then any unit will do.
                self.target_spread[k] = torch.where(spread > 0, spread, spread.new_tensor(_NO_SPREAD))
            else:
                self.target_centre[k] = relative[:, k].mean()
                self.target_spread[k] = relative[:, k].std().clamp_min(1e-3 * relative[:, k].mean().abs())
        if self.refinement is not None:
            self.refinement.fit(self.target_spread, self.target_centre)

    @torch.no_grad()
    def fit_inputs(self, images: Tensor, psf: Tensor) -> Normalised:
        """Measure the scaling of the inputs alone, as `fit_scaling` does, and return the stamps scaled."""
        images, psf = images[:_FIT_STAMPS], psf[:_FIT_STAMPS] if psf.ndim == 3 else psf
        flux = images.sum((1, 2))
        self.median_flux.copy_(flux.median())
        self.mean.copy_(symmetric((images / flux[:, None, None]).mean(0)))
        stamps = self.normalise(images, psf, images.new_zeros(()))
        self.body.fit(stamps)
        return stamps

    def _relative(self, parameters: Tensor, scale: Tensor) -> Tensor:
        """Return the targets with the flux divided by the scale of the stamp."""
        if self.targets[0] != "flux":
            return parameters
        return with_flux(parameters, parameters[:, FLUX] / scale)

    def normalise(self, images: Tensor, psf: Tensor, sigma: Tensor) -> Normalised:
        """Estimate the flux of stamps, and the noise relative to it (steps 1 to 3 of the module's docstring).

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
        """Return true targets in the units of the network's outputs, of order one.

        Parameters
        ----------
        parameters : Tensor, shape (n, T)
            The true targets.
        images, psf, sigma
            As for `normalise`.

        Returns
        -------
        Tensor, shape (n, T)
        """
        scale = self.normalise(images, psf, sigma).scale
        return (self._relative(parameters, scale) - self.target_centre) / self.target_spread

    def forward(self, images: Tensor, psf: Tensor, sigma: Tensor, refine: int | None = None) -> Answer:
        """Estimate shapes.

        Parameters
        ----------
        images, psf, sigma
            As for `normalise`.
        refine : int, optional
            Number of stamps of each network that the forward model refines, if there is one: the first ones.
            By default all stamps; in training mode, the fraction `Architecture.refined_share`.

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
        """Return the values of the stamps from `start` to `stop` of each network."""
        return values.unflatten(0, (self.models, -1))[:, start:stop].flatten(0, 1)

    def _joined(self, *parts: Tensor) -> Tensor:
        """Join the values of parts that each contain some stamps of every network; undoes `_part`."""
        return torch.cat([part.unflatten(0, (self.models, -1)) for part in parts], 1).flatten(0, 1)

    def _precision(self, raw: Tensor, snr: Tensor) -> Tensor:
        """Return l11, l21, l22: the raw outputs give factors of a first guess of 1 / error.

        The guess is 1 / error^2 = 1 / spread^2 + snr^2, with the spread of the true shapes.
        """
        guess = (self.shape_spread**-2 + snr.square()).sqrt()
        first, cross, second = raw.unbind(1)
        diagonal = torch.stack([first, second], 1).clamp(-8, 8).exp()
        return guess[:, None] * torch.stack([diagonal[:, 0], cross, diagonal[:, 1]], 1)

    @torch.no_grad()
    def calibrate(self, sigmas: list[float], pulls: list[Tensor], snrs: list[Tensor], bins: int = 8) -> None:
        """Calibrate the errors with validation stamps.

        At each noise level, the stamps are sorted by observed signal-to-noise ratio into bins of equal
        number. The factor of a bin is the 68.27% quantile of abs(estimate - truth) / error of both
        components. After multiplication by it, 68.27% of the deviations are smaller than the error, for any
        distribution. If the network gives no errors (`Answer.error` is 1), the factor is the error itself.

        Parameters
        ----------
        sigmas : list of float
            Noise levels [flux per pixel].
        pulls : list of Tensor, shape (n, 2)
            For each level, (estimate - truth) / `Answer.error`.
        snrs : list of Tensor, shape (n,)
            For each level, `Answer.snr`.
        bins : int
            Number of bins at each level.
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
        """Return the calibrated error of each component.

        The factor of `calibrate` is interpolated in log(noise) and log(signal-to-noise ratio). Outside the
        calibrated range, the nearest value is used.

        Parameters
        ----------
        answer : Answer
        sigma : float
            Standard deviation of the noise [flux per pixel].

        Returns
        -------
        Tensor, shape (n, 2)
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

    def errors_by_level(self, answer: Answer, sigma: Tensor) -> Tensor:
        """Return the calibrated errors (see `errors`) of stamps with the noise levels `sigma` [n]."""
        error = torch.empty_like(answer.shapes)
        for level in sigma.unique().tolist():
            same = sigma == level
            own = answer._replace(snr=answer.snr[same], error=answer.error[same])
            error[same] = self.errors(own, level)
        return error


def _interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Interpolate linearly at x [n] between knots [m] of given values [m]; constant outside the knots."""
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
