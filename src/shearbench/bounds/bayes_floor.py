r"""The Bayes floor, from the posterior of each galaxy's shape given its noisy stamp and the population.

The mean of the posterior is the estimator with the smallest mean square error. Its error, averaged over the
population, is the mean of the posterior's variances: the Bayes floor. No estimator, biased or not, has a
smaller mean square error (van Trees 1968, Detection, Estimation, and Modulation Theory I, sec. 2.4.1).

The galaxy's parameters are functions of standard normal variables u, different for each population, so that
the prior of u is always :math:`\exp(-|u|^2 / 2)`, even if the population has sharp edges. The image is linear
in the flux, which is integrated out exactly. The other parameters are integrated by importance sampling: the
proposal is Student's t distribution about the maximum of the posterior, mixed with the prior. In a few rounds
it is adapted to the samples. The samples of all rounds are used, with weights relative to the mixture of all
proposals (Cappe et al. 2004, J. Comput. Graph. Stat. 13, 907; Veach & Guibas 1995; Hesterberg 1995,
Technometrics 37, 185).
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from shearbench.data.catalogs import PARAMETER_COLUMNS
from shearbench.data.stamps import StampSet
from shearbench.files.origin import Origin
from shearbench.files.tables import read_table, require_possible
from shearbench.forward_model.accuracy import renderer_for
from shearbench.forward_model.fourier import FLUX, G, Psfs, Renderer, parameter_names
from shearbench.simulation.catalog import shear_shape
from shearbench.simulation.populations import Population

RULE = "sample_posterior"
POSTERIOR = ("galaxy_id", "noise", "g1", "g2", "sd_g1", "sd_g2", "mc_g1", "mc_g2", "ess")

# Largest error of a rendered pixel: as a fraction of the flux, or of the noise for the brightest galaxy.
_TOLERANCE, _TOLERANCE_OF_NOISE = 2e-7, 0.02
_FREEDOM = 6.0  # degrees of freedom of the t distribution
_DEFENSIVE = 0.15  # share of the prior in a proposal
_ROUNDS, _MOST_ROUNDS = 3, 12
_ENOUGH = 0.25  # rounds are added until there are so many effective samples per sample asked for
_ADAPT = 4  # effective samples per variable that are needed to adapt the proposal
_GAUSS_NEWTON_STEPS = 12
_BATCH = 256
_FURTHEST = 6.0  # largest modulus of the two variables of the shape: 2e-8 of the prior lies beyond
_KNOTS = 4096
# Places among a prior's variables and its parameters, which are those of the model without the flux.
_WITHOUT_FLUX = slice(FLUX + 1, None)
_G = slice(G.start - _WITHOUT_FLUX.start, G.stop - _WITHOUT_FLUX.start)


class Prior:
    """The parameters of a population's galaxies as functions of standard normal variables u.

    Parameters
    ----------
    population : Population
        Of profile gaussian, exponential or sersic, without a catalogue. The Sersic index is taken as uniform
        over its range, although catalogs have it on a grid.
    pixel_scale : float
        Arcsec.

    Raises
    ------
    ValueError
        The population is a catalogue of galaxies, or has another profile: its density is not known.
    """

    def __init__(self, population: Population, pixel_scale: float) -> None:
        if not population.has_density:
            raise ValueError(
                f"the density of the stamps of a population of profile '{population.profile}', of a "
                "catalogue, or with neighbours, masks or other noise than white is not known"
            )
        shift = population.centroid_shift_pixels * pixel_scale
        ranges = [(-shift, shift), (-shift, shift), population.half_light_radius_arcsec]
        self.flux = population.flux
        self.has_index = population.profile == "sersic"
        if self.has_index:
            ranges.append(population.sersic_n)
        low, high = np.array(ranges).T
        self._low, self._width = torch.from_numpy(low), torch.from_numpy(high - low)
        radius = np.linspace(0, _FURTHEST, _KNOTS)
        self._step = radius[1]
        self._modulus = torch.from_numpy(_shape_quantiles(population, radius))

    @property
    def size(self) -> int:
        """Number of variables: x, y, hlr, g1, g2 and, for Sersic, n."""
        return 5 + self.has_index

    def parameters(self, u: Tensor) -> Tensor:
        """Return the parameters without the flux, shape (..., size), in the order of `Renderer.names`."""
        uniform = self._low + self._width * torch.special.ndtr(_other(u))
        shape, _ = self._shape(u[..., _G])
        return _joined(uniform, shape)

    def derivatives(self, u: Tensor) -> Tensor:
        """Return the derivatives of the parameters by u, shape (..., size, size)."""
        density = self._width * torch.exp(-(_other(u) ** 2) / 2) / math.sqrt(2 * math.pi)
        matrix = torch.diag_embed(_joined(density, torch.zeros_like(u[..., _G])))
        matrix[..., _G, _G] = self._shape(u[..., _G])[1]
        return matrix

    def variables(self, parameters: Tensor) -> Tensor:
        """Return the variables u of parameters without the flux, shape (..., size).

        Parameters on or beyond the population's edge are moved inside it.
        """
        fraction = torch.where(self._width > 0, (_other(parameters) - self._low) / self._width, 0.5)
        normal = torch.special.ndtri(fraction.clamp(1e-6, 1 - 1e-6))
        shape = parameters[..., _G]
        modulus = shape.norm(dim=-1)
        knots = np.arange(_KNOTS) * self._step
        radius = torch.from_numpy(np.interp(modulus.numpy(), self._modulus.numpy(), knots))
        scale = torch.where(modulus > 0, radius / modulus.clamp_min(1e-300), 0.0)
        return _joined(normal, shape * scale[..., None])

    def _shape(self, u: Tensor) -> tuple[Tensor, Tensor]:
        radius = u.norm(dim=-1)
        place = (radius / self._step).clamp(max=_KNOTS - 1.001)
        low = place.long()
        left = self._modulus[low]
        slope = (self._modulus[low + 1] - left) / self._step
        modulus = left + slope * (radius - low * self._step).clamp(max=self._step)
        ratio = torch.where(radius > 0, modulus / radius.clamp_min(1e-300), self._modulus[1] / self._step)
        unit = u / radius.clamp_min(1e-300)[..., None]
        along = unit[..., :, None] * unit[..., None, :]
        across = torch.eye(2, dtype=u.dtype) - along
        matrix = slope[..., None, None] * along + ratio[..., None, None] * across
        return u * ratio[..., None], matrix


def _other(values: Tensor) -> Tensor:
    """Return a prior's variables or parameters, shape (..., size), without the shape, (..., size - 2)."""
    return torch.cat([values[..., : _G.start], values[..., _G.stop :]], -1)


def _joined(other: Tensor, shape: Tensor) -> Tensor:
    """Return the variables or parameters of `_other` together with those of the shape, (..., 2)."""
    return torch.cat([other[..., : _G.start], shape, other[..., _G.start :]], -1)


def _shape_quantiles(population: Population, radius: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return |g| of the observed shape as a function of |u|, for the two variables u of the shape.

    The result has the same cumulative probability as `radius` has for a vector of two normal variables.
    Intrinsic shapes are normal and isotropic, cut at `shape_max`; shears are uniform in a disc, so observed
    shapes are isotropic too. Their moduli are computed on a regular grid of both, and sorted.
    """
    width, limit = population.shape_sigma, population.shape_max
    if width == 0 and population.shear_max == 0:
        return np.zeros_like(radius)

    def intrinsic(probability: NDArray[np.float64]) -> NDArray[np.float64]:
        mass = -np.expm1(-(limit**2) / (2 * width**2)) if width > 0 else 1.0
        return width * np.sqrt(-2 * np.log1p(-mass * probability))

    probability = -np.expm1(-(radius**2) / 2)
    if population.shear_max == 0:
        return intrinsic(probability)
    cells = (np.arange(512) + 0.5) / 512
    e = intrinsic(cells)[:, None, None]
    shear = population.shear_max * np.sqrt((np.arange(32) + 0.5) / 32)[:, None]
    angle = np.pi * (np.arange(32) + 0.5) / 32
    moduli = np.sort(np.hypot(*shear_shape(e, 0.0, shear * np.cos(angle), shear * np.sin(angle))).ravel())
    places = (np.arange(len(moduli)) + 0.5) / len(moduli)
    return np.interp(probability, np.append(0.0, places), np.append(0.0, moduli))


class _Likelihood:
    """The likelihood of stamps of one noise level, and the maximum of the posterior."""

    def __init__(self, sigma: float, prior: Prior, renderer: Renderer) -> None:
        self._sigma, self._prior, self._renderer = sigma, prior, renderer

    def log(self, image: Tensor, psf: Psfs, u: Tensor, flux: float) -> Tensor:
        """Return the logarithm of a stamp's likelihood, integrated over the flux, up to a constant.

        Parameters
        ----------
        image : Tensor, shape (ny, nx)
        psf : Psfs
        u : Tensor, shape (m, size)
        flux : float
            A flux near the best one. It reduces rounding errors and does not change the result.

        Returns
        -------
        Tensor, shape (m,)
        """
        model = self._renderer(self._unit_flux(u), psf).flatten(1)
        # Residuals are as small as the noise, so float32 sums of their squares change chi^2 by 1e-3 at most.
        residual = image.flatten() - flux * model
        mm, rm, rr = (
            torch.linalg.vecdot(*pair).double()
            for pair in ((model, model), (residual, model), (residual, residual))
        )
        low, high = self._prior.flux
        if low == high:
            away = low - flux
            return -(rr - 2 * away * rm + away**2 * mm) / (2 * self._sigma**2)
        best, width = flux + rm / mm, self._sigma / mm.sqrt()
        least = (rr - rm**2 / mm) / self._sigma**2
        return width.log() + _log_normal_mass((low - best) / width, (high - best) / width) - least / 2

    def maximum(self, images: Tensor, psf: Psfs, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maximum of each posterior, and the inverse of minus the second derivative there.

        The shapes are (n, size) and (n, size, size). Damped Gauss-Newton steps (Levenberg-Marquardt) start
        from `u`, shape (n, size). At each step the flux has its best value within its range; the covariance
        takes it as free.
        """
        value, gradient, hessian = self._expand(images, psf, u)
        damping = torch.full_like(value, 1e-3)
        for _ in range(_GAUSS_NEWTON_STEPS):
            diagonal = torch.diagonal(hessian, dim1=1, dim2=2)
            step = torch.linalg.solve(hessian + torch.diag_embed(damping[:, None] * diagonal), gradient)
            trial = u + step.clamp(-1.0, 1.0)
            new = self._expand(images, psf, trial)
            better = new[0] >= value
            u = torch.where(better[:, None], trial, u)
            value = torch.where(better, new[0], value)
            gradient = torch.where(better[:, None], new[1], gradient)
            hessian = torch.where(better[:, None, None], new[2], hessian)
            damping = torch.where(better, damping / 10, damping * 10)
        return u, torch.linalg.inv(hessian)

    def _unit_flux(self, u: Tensor) -> Tensor:
        return torch.cat([torch.ones(len(u), 1).to(u), self._prior.parameters(u)], 1)

    def _expand(self, images: Tensor, psf: Psfs, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the log posterior, its gradient and minus its second derivative (Gauss-Newton)."""
        model, jacobian = self._renderer.jacobian(self._unit_flux(u), psf)
        model, jacobian = model.flatten(1).double(), jacobian.flatten(2).double()
        image = images.flatten(1).double()
        mm = torch.linalg.vecdot(model, model)
        low, high = self._prior.flux
        flux = (torch.linalg.vecdot(image, model) / mm).clamp(low, high)[:, None]
        residual = image - flux * model
        by_u = flux[:, :, None] * self._prior.derivatives(u).mT @ jacobian[:, _WITHOUT_FLUX]
        if low < high:  # a free flux removes the component along the model
            by_u = by_u - (by_u @ model[:, :, None]) * (model / mm[:, None])[:, None]
        variance = self._sigma**2
        value = -torch.linalg.vecdot(residual, residual) / (2 * variance) - u.square().sum(1) / 2
        gradient = (by_u @ residual[:, :, None])[:, :, 0] / variance - u
        return value, gradient, by_u @ by_u.mT / variance + torch.eye(u.shape[1]).to(u)


def _log_normal_mass(low: Tensor, high: Tensor) -> Tensor:
    """Return the logarithm of the probability that a standard normal variable lies between low and high."""
    flip = low > 0  # the lower tail gives the same probability, and without cancellation
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    a, b = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    return a + torch.log1p(-torch.exp((b - a).clamp(max=-1e-300)))


class _Proposal:
    """A t distribution mixed with the prior."""

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        self._mean, self._root = mean, torch.linalg.cholesky(covariance)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return samples, shape (count, size), in pairs that are mirror images about their part's mean."""
        half, size = -(-count // 2), len(self._mean)
        normal = torch.randn(half, size, generator=generator, dtype=torch.float64)
        chi2 = torch.randn(half, int(_FREEDOM), generator=generator, dtype=torch.float64).square().sum(1)
        away = (normal @ self._root.mT) * (_FREEDOM / chi2).sqrt()[:, None]
        prior = torch.rand(half, generator=generator, dtype=torch.float64) < _DEFENSIVE
        away = torch.where(prior[:, None], normal, away)
        centre = torch.where(prior[:, None], 0.0, self._mean)
        return torch.stack([centre + away, centre - away], 1).flatten(0, 1)

    def log_density(self, u: Tensor) -> Tensor:
        """Return the logarithm of the density, shape (m,), without the constant of a normal density."""
        size = u.shape[1]
        z = torch.linalg.solve_triangular(self._root, (u - self._mean).mT, upper=False).square().sum(0)
        constant = (
            math.lgamma((_FREEDOM + size) / 2) - math.lgamma(_FREEDOM / 2) + size / 2 * math.log(2 / _FREEDOM)
        )
        volume = torch.diagonal(self._root).log().sum()
        t = constant - volume - (_FREEDOM + size) / 2 * torch.log1p(z / _FREEDOM)
        return torch.logaddexp(math.log1p(-_DEFENSIVE) + t, math.log(_DEFENSIVE) - u.square().sum(1) / 2)


def _sample(
    log_likelihood: Callable[[Tensor], Tensor],
    mean: Tensor,
    covariance: Tensor,
    samples: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return samples of u, shape (m, size), and their normalised weights, shape (m,).

    `mean` and `covariance` are a first guess of those of the posterior.
    """
    drawn, likelihoods, proposals = [], [], []
    for done in range(1, _MOST_ROUNDS + 1):
        proposals.append(_Proposal(mean, covariance))
        drawn.append(proposals[-1].draw(max(samples // _ROUNDS, 2), generator))
        likelihoods.append(log_likelihood(drawn[-1]))
        u = torch.cat(drawn)
        mixture = torch.stack([proposal.log_density(u) for proposal in proposals]).logsumexp(0)
        weight = torch.softmax(torch.cat(likelihoods) - u.square().sum(1) / 2 - mixture, 0)
        effective = 1 / weight.square().sum()
        if done >= _ROUNDS and effective >= _ENOUGH * samples:
            break
        # A covariance estimated from too few samples would be worse than the present one.
        if effective > _ADAPT * len(mean):
            mean = weight @ u
            covariance = (u - mean).mT @ ((u - mean) * weight[:, None])
    return u, weight


def sample_posterior(
    stamps: StampSet,
    catalog: pd.DataFrame,
    population: Population,
    sigmas: list[float],
    galaxies: int,
    samples: int,
    seed: int,
) -> pd.DataFrame:
    """Return the posterior mean and standard deviation of the shapes of the first galaxies of a split.

    The search for the posterior's maximum starts at the galaxy's true parameters. That affects the proposal
    only, not the result: the weights make the result that of the posterior for any proposal.

    Parameters
    ----------
    stamps : StampSet
    catalog : pandas.DataFrame
        The catalog of these stamps.
    population : Population
        The population that the galaxies were drawn from: the prior.
    sigmas : list of float
        Noise levels. The noise is the same as for the estimators.
    galaxies : int
        Number of galaxies, from the first.
    samples : int
        Samples for each galaxy and noise level; up to four times as many if the effective number is too
        small.
    seed : int
        The run's seed.

    Returns
    -------
    pandas.DataFrame
        One row for each noise level and galaxy, with the columns `POSTERIOR`: ``g1, g2``, the mean; ``sd_g1,
        sd_g2``, the standard deviation; ``mc_g1, mc_g2``, the error of the mean due to the finite number of
        samples; ``ess``, the effective number of samples (Kong 1992), (sum w)^2 / sum w^2.

    Raises
    ------
    ValueError
        The density of the population is not known, see `Prior`.
    """
    prior = Prior(population, stamps.pixel_scale)
    galaxies = min(galaxies, len(stamps))
    rows = catalog.iloc[:galaxies]
    psf_spec = catalog.attrs["psf"]
    columns = [PARAMETER_COLUMNS[name] for name in parameter_names(population.profile)]
    truth = torch.from_numpy(rows[columns].to_numpy(np.float64, copy=True))
    shapes = torch.from_numpy(rows[["psf_fwhm", "psf_g1", "psf_g2"]].to_numpy(np.float64, copy=True))
    found: list[tuple[float, ...]] = []
    generator = torch.Generator()
    for level, sigma in enumerate(sigmas):
        renderer = _renderer(population, prior, stamps, rows, sigma)
        likelihood = _Likelihood(sigma, prior, renderer)
        low = 0
        for batch in stamps.batches(sigma, seed, _BATCH, 0, galaxies):
            images, own = torch.from_numpy(batch.images), slice(low, low + len(batch))
            low += len(batch)
            if psf_spec["profile"] == "image":
                pixels = torch.from_numpy(batch.psf)
                psf = renderer.psf_image(pixels)
                each = (
                    [psf] * len(batch) if batch.constant_psf else [renderer.psf_image(one) for one in pixels]
                )
            elif batch.constant_psf:
                psf = renderer.psf(psf_spec, *shapes[0])
                each = [psf] * len(batch)
            else:
                psf = renderer.psf(psf_spec, *shapes[own].T)
                each = [renderer.psf(psf_spec, *one) for one in shapes[own]]
            with torch.no_grad():
                peaks = likelihood.maximum(images, psf, prior.variables(truth[own, _WITHOUT_FLUX]))
                for galaxy, image, one, mean, covariance, flux in zip(
                    batch.galaxy_id.tolist(), images, each, *peaks, truth[own, FLUX].tolist()
                ):
                    generator.manual_seed(hash((seed, galaxy, level)) % 2**63)
                    of_stamp = functools.partial(likelihood.log, image, one, flux=flux)
                    u, weight = _sample(of_stamp, mean, covariance, samples, generator)
                    found.append((galaxy, sigma, *_summary(prior.parameters(u)[:, _G], weight)))
    return pd.DataFrame(found, columns=list(POSTERIOR))


def read_posterior(path: str | os.PathLike[str], expected: Origin | None = None) -> pd.DataFrame:
    """Read a table made by `sample_posterior` and check it.

    Parameters
    ----------
    path : path-like
    expected : Origin, optional
        The origin that the file must carry.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    ContractError
        The file is damaged or has another origin, a column is missing, or a mean, a standard deviation or an
        effective number of samples is impossible.
    """
    table = read_table(path, POSTERIOR, RULE, expected=expected)
    good = {
        ("g1, g2", "|g| < 1"): np.hypot(table["g1"], table["g2"]) < 1,
        ("sd_g1, sd_g2", "finite numbers >= 0"): (table["sd_g1"] >= 0)
        & (table["sd_g2"] >= 0)
        & np.isfinite(table["sd_g1"] + table["sd_g2"]),
        ("ess", "a number > 0"): table["ess"] > 0,
    }
    require_possible(path, table, good, RULE)
    return table


def _summary(shapes: Tensor, weight: Tensor) -> tuple[float, ...]:
    mean = weight @ shapes
    away = weight[:, None] * (shapes - mean)
    # A pair of mirrored samples counts as one draw. The error follows from the delta method for a ratio of
    # means (Owen 2013, Monte Carlo theory, methods and examples, ch. 9).
    error = away.reshape(-1, 2, 2).sum(1).square().sum(0).sqrt()
    spread = (away * (shapes - mean)).sum(0).sqrt()
    return (*mean.tolist(), *spread.tolist(), *error.tolist(), float(1 / weight.square().sum()))


def _renderer(
    population: Population,
    prior: Prior,
    stamps: StampSet,
    rows: pd.DataFrame,
    sigma: float,
) -> Renderer:
    """Return a renderer that is accurate enough for all galaxies of the population at a noise level."""
    furthest = torch.zeros(prior.size, dtype=torch.float64)
    furthest[_G.start] = _FURTHEST
    return renderer_for(
        rows,
        population.profile,
        stamps.shape,
        stamps.pixel_scale,
        max(_TOLERANCE, _TOLERANCE_OF_NOISE * sigma / population.flux[1]),
        hlr=population.half_light_radius_arcsec,
        g_max=float(prior.parameters(furthest)[_G.start]),
        n=population.sersic_n,
    )
