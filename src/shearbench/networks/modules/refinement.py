r"""Gauss-Newton steps through a forward model, with a learned damping and a learned correction.

From a network's guess :math:`\theta` of all parameters, the image :math:`I` and its derivatives :math:`J`
give the normal equations of the pixels' likelihood,

.. math:: F = J J^T / \sigma^2 , \qquad b = J (d - I) / \sigma^2 ,

with the pixels :math:`d` and their noise :math:`\sigma`, and the step
:math:`\delta = (F + \Lambda)^{-1} b`. If the guess were the mean of a prior with the precision matrix
:math:`\Lambda`, the step would lead to the mean of the posterior. But the guess was made from the same
pixels, so that its errors are correlated with theirs. The diagonal of :math:`\Lambda` is therefore learned
by a small network, as a function of the noise level.

A second small network shrinks the shape towards the mean of the posterior. It multiplies shapes by factors
that depend only on quantities which do not change when the stamp is rotated or mirrored, so that no
direction is preferred.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from shearbench.forward_model.fourier import (
    FLUX,
    G1,
    HLR,
    SERSIC_N,
    XY,
    G,
    Grid,
    Renderer,
    parameter_names,
)
from shearbench.forward_model.profiles import SERSIC_RANGE
from shearbench.networks.modules.bodies import Normalised, with_flux
from shearbench.networks.terms import LEVELS

if TYPE_CHECKING:
    from shearbench.forward_model.gaussian_mixture import MixtureModel

_WIDTH = 24
_SHEAR_MAX = 0.95
_SIZE_MIN = 0.02  # smallest half-light radius of the forward model [arcsec]
_STEP_MAX = 5.0  # largest step, in units of the spread of a parameter over the population
_LEAST_VARIANCE = 1e-12  # of a shape, in these units squared; smaller values are rounding errors


class Refinement(nn.Module):
    """Gauss-Newton steps with learned damping and correction; see the docstring of the module.

    For the gradients of the loss, :math:`b` is taken as a linear function of the guess. Second derivatives of
    the image are left out, as in the Gauss-Newton step itself.

    Parameters
    ----------
    profile : {"gaussian", "exponential", "sersic"}
        Galaxy profile of the forward model.
    shape : (int, int)
        Rows and columns of a stamp.
    pixel_scale : float
        Pixel scale [arcsec].
    steps : int
        Number of Gauss-Newton steps.
    share : float
        Fraction of the stamps of a training step that is refined. A part is enough to train the few weights.
    grid : Grid
        Grid of the Fourier sums.
    mixture : MixtureModel, optional
        It replaces the Fourier sums on a CPU.
    """

    def __init__(
        self,
        profile: str,
        shape: tuple[int, int],
        pixel_scale: float,
        steps: int,
        share: float,
        grid: Grid,
        mixture: MixtureModel | None = None,
    ) -> None:
        super().__init__()
        self.names = parameter_names(profile)
        self.renderer = Renderer(profile, shape, pixel_scale, grid)
        self.mixture = mixture
        self.steps, self.share = steps, share
        count = len(self.names)
        # Both components of the position have the same damping, and both of the shape.
        self.damping = _from_zero(LEVELS, count - 2)
        self.correction = _from_zero(LEVELS + 7, 2)
        self.register_buffer("spread", torch.ones(count))
        self.register_buffer("centre", torch.zeros(count))

    spread: Tensor
    centre: Tensor

    def fit(self, spread: Tensor, centre: Tensor) -> None:
        """Set the spread [P] and the centre [P] of the parameters over the population.

        The flux is in units of `Normalised.scale`.
        """
        self.spread.copy_(spread)
        self.centre.copy_(centre)

    def draws(self, psf: Tensor) -> bool:
        """Return whether the forward model can describe all PSFs [ny, nx] or [m, ny, nx]."""
        return self.mixture is None or bool(np.isfinite(self.mixture.psf_image(psf.cpu()).covariance).all())

    def count(self, stamps: int) -> int:
        """Return how many of the `stamps` stamps of a training step are refined."""
        return max(1, round(self.share * stamps))

    def forward(self, guess: Tensor, stamps: Normalised) -> tuple[Tensor, Tensor]:
        """Refine shapes.

        Parameters
        ----------
        guess : Tensor, shape (n, P)
            Parameters of the galaxies, in the order of `parameter_names`.
        stamps : Normalised

        Returns
        -------
        shapes : Tensor, shape (n, 2)
        error : Tensor, shape (n, 2)
            Square roots of the diagonal of the inverse of F + Lambda.
        """
        # Parameters in units of the population's spread, the flux in those of the stamp's scale as well.
        unit = self.spread.expand(len(guess), -1)
        unit = with_flux(unit, unit[:, FLUX] * stamps.scale)
        flux, position, size, shape, *index = self.damping(stamps.level).exp().split(1, 1)
        damping = torch.cat([flux, position, position, size, shape, shape, *index], 1)
        on_cpu = guess.device.type == "cpu"
        model = self.mixture if self.mixture is not None and on_cpu else self.renderer
        psf: Any = model.psf_image(stamps.psf)
        sigma = (stamps.noise * stamps.scale)[:, None]
        slope = unit / sigma
        at = guess
        for _ in range(self.steps):
            drawn = _drawable(at.detach())
            with torch.no_grad():
                information, force = model.normal_equations(drawn, psf, stamps.images)
                # Of the parameters over their units.
                information = information * slope[:, :, None] * slope[:, None, :]
                force = (force * slope / sigma)[:, :, None]
            # b at the guess, to first order in the distance from the drawn parameters. The gradient of the
            # loss passes through this term.
            away = ((drawn - at) / unit)[:, :, None]
            damped = information + torch.diag_embed(damping)
            # `solve_ex` raises no error for a singular matrix, so that one stamp does not stop the others.
            step = torch.linalg.solve_ex(damped, force + information @ away)[0][:, :, 0]
            at = at + unit * step.clamp(-_STEP_MAX, _STEP_MAX)
        variance = torch.linalg.inv_ex(damped)[0].diagonal(dim1=1, dim2=2)[:, G]
        error = variance.clamp_min(_LEAST_VARIANCE).sqrt() * self.spread[G1]
        return self._corrected(at[:, G], guess[:, G], at, unit, error, stamps.level), error

    def _corrected(
        self, shape: Tensor, first: Tensor, at: Tensor, unit: Tensor, error: Tensor, level: Tensor
    ) -> Tensor:
        """Return a shape (1 + w u) g + w v (first - g), with w the part of the variance that noise makes."""
        spread = self.spread[G1]
        variance = (error / spread).square().mean(1, keepdim=True)
        noisy = variance / (1 + variance)
        relative = (at - self.centre * unit / self.spread) / unit
        invariant = torch.cat(
            [
                level,
                # A list as an index would be copied to the GPU, and the CPU would wait for it.
                relative[:, FLUX, None],
                relative[:, HLR, None],
                (relative[:, XY].square().sum(1, keepdim=True) + 1).log(),
                shape.square().sum(1, keepdim=True) / spread.square(),
                first.square().sum(1, keepdim=True) / spread.square(),
                (shape * first).sum(1, keepdim=True) / spread.square(),
                variance.log() / 4,
            ],
            1,
        )
        own, towards = self.correction(invariant.clamp(-10, 10)).split(1, 1)
        return (1 + noisy * own) * shape + noisy * towards * (first - shape)


def _from_zero(inputs: int, outputs: int) -> nn.Sequential:
    """Return a small network whose output is zero before training."""
    hidden, last = nn.Linear(inputs, _WIDTH), nn.Linear(_WIDTH, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(hidden, nn.GELU(), last)


def _drawable(at: Tensor) -> Tensor:
    """Return the parameters [n, P], limited to the ranges in which the forward model can draw a galaxy."""
    shape = at[:, G]
    shape = shape * (_SHEAR_MAX / shape.norm(dim=1, keepdim=True).clamp_min(_SHEAR_MAX))
    size, index = at[:, HLR, None].clamp_min(_SIZE_MIN), at[:, SERSIC_N:].clamp(*SERSIC_RANGE)
    return torch.cat([at[:, :HLR], size, shape, index], 1)
