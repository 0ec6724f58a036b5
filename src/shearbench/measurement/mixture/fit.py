"""Fits of PSFs and galaxies with Gaussian mixtures: the functions for users."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from shearbench.data.observing import kernel
from shearbench.data.shapes import Flag, Shapes
from shearbench.data.stamps import StampBatch
from shearbench.jobs.devices import visible_gpus
from shearbench.measurement.mixture.kernels import fit_coelliptical, fit_stamps
from shearbench.measurement.mixture.models import Model, components, model_image, model_pixels, parts

if TYPE_CHECKING:
    import torch

PsfModel = Literal["auto", "gauss", "coellip1", "coellip2", "coellip3", "coellip4", "coellip5"]
Prior = Literal["ba", "none"]

# Largest rms residual over rms of the image for which one Gaussian describes the PSF. A Gaussian convolved
# with a pixel of a third of its width gives 0.003, a Moffat profile 0.1.
_WELL_DESCRIBED = 0.01

# ngmix's usual prior: CenPrior(0, 0, 0.2, 0.2), here about the PSF's centre, GPriorBA(0.3),
# FlatPrior(-1, 1000), FlatPrior(-100, 1e9).
_CENTRE_WIDTH = 0.2  # arcsec
_SHAPE_WIDTH = 0.3
_SIZE_RANGE = (-1.0, 1000.0)  # arcsec^2
_FLUX_RANGE = (-100.0, 1e9)

_IMPUTATIONS = 3
_CORRELATED = 256  # stamps whose derivatives are in memory together
_STEP = 1e-3  # of a parameter, as a fraction of it or of its unit

# T of each part over that of the best-fitting Gaussian, approximately: only the starting points depend on it.
_SIZES: dict[Model, tuple[float, ...]] = {
    "gauss": (1.0,),
    "exp": (2.0,),
    "dev": (6.0,),
    "coellip2": (0.5, 2.5),
    "coellip3": (0.3, 1.2, 4.0),
    "coellip4": (0.2, 0.6, 1.7, 5.0),
    "coellip5": (0.1, 0.4, 1.0, 2.5, 7.0),
}


@dataclass(frozen=True)
class PsfFit:
    """Gaussian mixtures fitted to PSF images.

    Attributes
    ----------
    mixture : ndarray of float64, shape (m, k, 4)
        For each Gaussian its share of the flux and its covariance in arcsec^2: row-row, row-column,
        column-column.
    core : ndarray of float64, shape (m, 3)
        Covariance of the single Gaussian that fits best, arcsec^2; NaN if the fit failed.
    centre : ndarray of float64, shape (m, 2)
        Row and column from the image's centre, arcsec, to a thousandth of a pixel: 0 for a centred PSF.
    residual : ndarray of float64, shape (m,)
        rms of image minus mixture over rms of the image.
    good : ndarray of bool, shape (m,)
        Whether the fit succeeded.
    """

    mixture: NDArray[np.float64]
    core: NDArray[np.float64]
    centre: NDArray[np.float64]
    residual: NDArray[np.float64]
    good: NDArray[np.bool_]


@dataclass(frozen=True)
class MixtureFit:
    """Fits of n stamps; values are NaN where a fit failed.

    Attributes
    ----------
    pars : ndarray of float64, shape (n, P)
        row, col (arcsec from the stamp's centre), g1, g2, T (arcsec^2), flux. A model of several parts has
        the T of all parts, then the fluxes of all parts.
    covariance : ndarray of float64, shape (n, P, P)
        Inverse of the Gauss-Newton Hessian, times chi^2 per degree of freedom.
    chi2_per_dof : ndarray of float64, shape (n,)
        chi^2 of the pixels, without the prior.
    iterations : ndarray of int64, shape (n,)
        Number of evaluations of the model.
    flag : ndarray of int64, shape (n,)
        `Flag` bits.
    """

    pars: NDArray[np.float64]
    covariance: NDArray[np.float64]
    chi2_per_dof: NDArray[np.float64]
    iterations: NDArray[np.int64]
    flag: NDArray[np.int64]


def fit_psf(images: NDArray[np.floating], pixel_scale: float, psf_model: PsfModel = "auto") -> PsfFit:
    """Fit noiseless PSF images with Gaussians that share centre and shape.

    Parameters
    ----------
    images : ndarray, shape (ny, nx) or (m, ny, nx)
        Convolved with the pixel.
    pixel_scale : float
        Arcsec.
    psf_model : str
        ``gauss`` or ``coellip1`` for one Gaussian, up to ``coellip5`` for five; ``auto`` for one Gaussian if
        its residual is at most 1% (rms) of the image, else three, decided for each image.

    Returns
    -------
    PsfFit

    Raises
    ------
    ValueError
        An image is wider than 512 pixels.
    """
    many = np.ascontiguousarray(images if images.ndim == 3 else images[None], dtype=np.float32)
    _check_width(many)
    count = {"auto": 3, "gauss": 1}.get(psf_model) or int(psf_model[-1])
    m = len(many)
    mixture, core, centre, residual, good = (
        np.empty((m, count, 4)),
        np.empty((m, 3)),
        np.empty((m, 2)),
        np.empty(m),
        np.empty(m, np.bool_),
    )
    threshold = _WELL_DESCRIBED if psf_model == "auto" else -1.0
    fit_coelliptical(many, count, threshold, mixture, core, centre, residual, good)
    mixture[:, :, 1:] *= pixel_scale**2
    core[~good] = np.nan
    return PsfFit(mixture, core * pixel_scale**2, centre.round(3) * pixel_scale, residual, good)


def fit_galaxies(
    images: NDArray[np.floating],
    psf: PsfFit,
    sigma: float,
    pixel_scale: float,
    model: Model = "exp",
    prior: Prior = "ba",
    device: torch.device | None = None,
) -> MixtureFit:
    """Fit a PSF-convolved profile to each stamp.

    The likelihood is that of ngmix (Sheldon 2014, MNRAS 444, L25), with model values at the centres of the
    pixels, see `shearbench.measurement.mixture.models`. The prior, if used, is also ngmix's: Gaussian with a
    width of 0.2 arcsec about the PSF's centre, (1 - g^2)^2 exp(-g^2 / (2 0.3^2)) in the shape (Bernstein &
    Armstrong 2014, MNRAS 438, 1880, eq. 24), flat in T and flux. Fits start from weighted moments of the
    stamps; no true parameter is used.

    Parameters
    ----------
    images : ndarray, shape (n, ny, nx)
        Flux per pixel.
    psf : PsfFit
        The fit of one PSF for all stamps, or of one for each.
    sigma : float
        Noise of a pixel, > 0. Without a prior, the result does not depend on it.
    pixel_scale : float
        Arcsec.
    model : {'gauss', 'exp', 'dev', 'coellip2', 'coellip3', 'coellip4', 'coellip5'}
    prior : {'ba', 'none'}
    device : torch.device, optional
        Device on which torch computes the fits. By default, compiled code computes them on the CPU.

    Returns
    -------
    MixtureFit
        Flags: ``BAD_PIXELS`` for pixels that are not finite, ``NOT_CONVERGED``, ``SINGULAR`` if the data do
        not determine all parameters, ``OUT_OF_RANGE`` for a best fit outside the prior's range, ``FAILED`` if
        the PSF could not be fitted.

    Raises
    ------
    ValueError
        `sigma` is not positive, the number of PSFs is neither 1 nor that of the stamps, or a stamp is wider
        than 512 pixels.
    """
    _check(images, psf, sigma)
    n = len(images)
    table = _convolved(model, psf.mixture / [1, *[pixel_scale**2] * 3])
    widths, bounds = _prior(prior, pixel_scale)
    units = _units(model, pixel_scale)
    pars, covariance, quality, flag = (
        np.empty((n, len(units))),
        np.empty((n, len(units), len(units))),
        np.empty((n, 2)),
        np.empty(n, np.int64),
    )
    compute = fit_stamps
    if device is not None:
        from shearbench.measurement.mixture import batched

        compute = functools.partial(batched.fit_stamps, device=device)
    compute(
        np.ascontiguousarray(images, dtype=np.float32),
        table,
        psf.core / pixel_scale**2,
        psf.centre / pixel_scale,
        sigma**-2,
        widths,
        bounds,
        np.array(_SIZES[model]),
        pars,
        covariance,
        quality,
        flag,
    )
    pars *= units
    covariance *= np.outer(units, units)
    return MixtureFit(pars, covariance, quality[:, 0], quality[:, 1].astype(np.int64), flag)


@functools.cache
def job_gpu() -> torch.device | None:
    """Return the job's GPU, or one that no other job on this machine uses; None without GPUs."""
    # torch takes seconds to import, so it is imported only if there may be a GPU.
    if not visible_gpus():
        return None
    from shearbench.jobs.torch_settings import pick_device

    device = pick_device()
    return device if device.type == "cuda" else None


def measure_shapes(
    batch: StampBatch,
    model: Model,
    psf_model: PsfModel,
    prior: Prior,
    device: torch.device | None = None,
) -> Shapes:
    """Fit the stamps of a batch.

    Errors include the correlation of the noise; the fit itself takes noise for white.

    Without a prior, a fit with T <= 0 is flagged ``OUT_OF_RANGE``: the model is narrower than the PSF and its
    shape is turned by 90 degrees. With the prior, which is flat in T from -1 arcsec^2, such a fit is kept, as
    ngmix does: its shape is near 0, the mean of the prior.

    Parameters
    ----------
    batch : StampBatch
    model, prior, device
        See `fit_galaxies`.
    psf_model
        See `fit_psf`.

    Returns
    -------
    Shapes
        Extras: ``flux`` and ``flux_err`` (sum over the parts), ``T`` and ``T_err`` (arcsec^2; flux-weighted
        mean over the parts), ``row``, ``col`` (arcsec from the stamp's centre), ``chi2_per_dof``,
        ``iterations``.
    """
    psf = fit_psf(batch.psf, batch.pixel_scale, psf_model)
    how = (psf, batch.sigma, batch.pixel_scale, model, prior, device)
    if batch.mask is None:
        fit = fit_galaxies(batch.images, *how)
    else:
        fit = _fit_without(batch.mask, batch.images, *how)
    if batch.correlation:
        fit = _under_correlated_noise(fit, batch, psf, model)
    (row, col, g1, g2), error = fit.pars[:, :4].T, np.sqrt(np.einsum("nii->in", fit.covariance)[:4])
    count = parts(model)
    sizes, fluxes = fit.pars[:, 4 : 4 + count], fit.pars[:, 4 + count :]
    narrow = (fit.flag == Flag.GOOD) & (sizes <= 0).all(1) & (prior == "none")
    flag = fit.flag | np.where(narrow, int(Flag.OUT_OF_RANGE), 0)
    flux = fluxes.sum(1)
    size = (fluxes * sizes).sum(1) / flux
    by_size = np.concatenate([fluxes, sizes - size[:, None]], axis=1) / flux[:, None]
    rest = fit.covariance[:, 4:, 4:]
    return Shapes(
        g1,
        g2,
        error[2],
        error[3],
        flag,
        {
            "flux": flux,
            "flux_err": np.sqrt(rest[:, count:, count:].sum((1, 2))),
            "T": size,
            "T_err": np.sqrt((by_size[:, :, None] * rest * by_size[:, None]).sum((1, 2))),
            "row": row,
            "col": col,
            "chi2_per_dof": fit.chi2_per_dof,
            "iterations": fit.iterations,
        },
    )


def _fit_without(
    mask: NDArray[np.bool_],
    images: NDArray[np.float32],
    psf: PsfFit,
    sigma: float,
    pixel_scale: float,
    model: Model,
    prior: Prior,
    device: torch.device | None,
) -> MixtureFit:
    """Fit stamps by their pixels outside a mask, by expectation and maximisation (Dempster et al. 1977).

    Masked pixels take the values of the best fit, which is fitted again. The best fit to all pixels is then
    that to the others, and each round reduces the distance from it to the share of the masked pixels in the
    information. Their share is subtracted from the information for the errors.
    """
    how = (psf, sigma, pixel_scale, model, prior, device)
    shape = (images.shape[1], images.shape[2])
    pixels = np.nonzero(mask)

    def masked_pixels(pars: NDArray[np.float64]) -> NDArray[np.float64]:
        return model_pixels(np.nan_to_num(pars), psf.mixture, pixels, shape, pixel_scale, model)

    fit = fit_galaxies(images, *how)
    for _ in range(_IMPUTATIONS):
        good = fit.flag[pixels[0]] == Flag.GOOD
        images = images.copy()
        images[pixels] = np.where(good, masked_pixels(fit.pars), images[pixels])
        fit = fit_galaxies(images, *how)
    by_pixel = np.stack(
        [
            (masked_pixels(fit.pars + step) - masked_pixels(fit.pars - step))
            / (2 * sigma * step[pixels[0]].sum(1))
            for step in _steps(fit.pars, model, pixel_scale)
        ],
        1,
    )
    masked = np.zeros_like(fit.covariance)
    np.add.at(masked, pixels[0], by_pixel[:, :, None] * by_pixel[:, None])

    good = fit.flag == Flag.GOOD
    covariance, flag = fit.covariance.copy(), fit.flag.copy()
    # Masked pixels have no residual, so they count neither in chi^2 nor in its degrees of freedom.
    scale = fit.chi2_per_dof * mask[0].size / np.maximum((~mask).sum((1, 2)), 1)
    information = np.linalg.inv(covariance[good] / fit.chi2_per_dof[good, None, None])
    remaining = np.linalg.inv(information - masked[good])
    covariance[good] = remaining * scale[good, None, None]
    possible = (np.diagonal(remaining, axis1=1, axis2=2) > 0).all(1)
    flag[good] |= np.where(possible, 0, int(Flag.SINGULAR))
    covariance[flag != Flag.GOOD] = np.nan
    return replace(fit, covariance=covariance, chi2_per_dof=scale, flag=flag)


def _under_correlated_noise(fit: MixtureFit, batch: StampBatch, psf: PsfFit, model: Model) -> MixtureFit:
    """Return a fit with the covariance that its parameters have under the correlated noise of a batch.

    With the information H of white noise (and of the prior), the derivatives J of the pixels over their
    noise, and the correlation matrix K of the noise, the covariance is H^-1 + H^-1 J' (K - 1) J H^-1, times
    chi^2 per degree of freedom as for white noise. Masked pixels do not count.
    """
    taps = kernel(batch.correlation)
    along = np.correlate(taps, taps, "full")
    shape, scale = (batch.images.shape[1], batch.images.shape[2]), batch.pixel_scale
    covariance = fit.covariance.copy()
    for rows in np.array_split(np.arange(len(batch)), -(-len(batch) // _CORRELATED) or 1):
        pars = np.nan_to_num(fit.pars[rows])
        mixture = psf.mixture if len(psf.mixture) == 1 else psf.mixture[rows]
        slopes = np.stack(
            [
                (
                    model_image(pars + step, mixture, shape, scale, model)
                    - model_image(pars - step, mixture, shape, scale, model)
                )
                / (2 * batch.sigma * step.sum(1))[:, None, None]
                for step in _steps(pars, model, scale)
            ],
            1,
        )
        if batch.mask is not None:
            slopes[np.broadcast_to(batch.mask[rows][:, None], slopes.shape)] = 0
        spread = slopes
        for axis in (2, 3):
            spread = correlate1d(spread, along, axis, mode="constant")
        more = np.einsum("npyx,nqyx->npq", slopes, spread - slopes)
        own = covariance[rows]
        covariance[rows] = own + own @ more @ own / fit.chi2_per_dof[rows, None, None]
    return replace(fit, covariance=covariance)


def _steps(pars: NDArray[np.float64], model: Model, pixel_scale: float) -> NDArray[np.float64]:
    """Return a step of one parameter after the other for numerical derivatives, shape (P, n, P)."""
    widths = _STEP * np.maximum(np.abs(pars), _units(model, pixel_scale))
    return np.eye(pars.shape[1])[:, None] * widths


def fitted_images(batch: StampBatch, model: Model, psf_model: PsfModel = "auto") -> NDArray[np.float64]:
    """Return the image of the best fit to each stamp of a batch, with ngmix's prior; NaN if the fit failed.

    Parameters
    ----------
    batch : StampBatch
    model
        See `fit_galaxies`.
    psf_model
        See `fit_psf`.

    Returns
    -------
    ndarray of float64, shape (n, ny, nx)
        Flux per pixel.
    """
    psf = fit_psf(batch.psf, batch.pixel_scale, psf_model)
    fit = fit_galaxies(batch.images, psf, batch.sigma, batch.pixel_scale, model)
    shape = (batch.images.shape[1], batch.images.shape[2])
    return model_image(fit.pars, psf.mixture, shape, batch.pixel_scale, model)


def _convolved(model: Model, psf: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Gaussians of each part, each convolved with each Gaussian of the PSF, shape (m, p, k, 5)."""
    weight, scale = components(model)
    table = np.empty((len(psf), parts(model), len(weight), psf.shape[1], 5))
    table[..., 0] = weight[:, None] * psf[:, None, None, :, 0]
    table[..., 1] = scale[:, None]
    table[..., 2:] = psf[:, None, None, :, 1:]
    return table.reshape(len(psf), parts(model), -1, 5)


def _prior(prior: Prior, pixel_scale: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the widths of a prior and the bounds of T and flux, in the form that `fit_stamps` takes."""
    on = prior == "ba"
    widths = np.array([float(on), _CENTRE_WIDTH / pixel_scale, _SHAPE_WIDTH])
    bounds = np.array([*(t / pixel_scale**2 for t in _SIZE_RANGE), *_FLUX_RANGE])
    return widths, bounds if on else np.array([-np.inf, np.inf] * 2)


def _units(model: Model, pixel_scale: float) -> NDArray[np.float64]:
    """Return the factors that convert parameters from lengths in pixels to lengths in arcsec."""
    count = parts(model)
    return np.array([pixel_scale, pixel_scale, 1, 1, *[pixel_scale**2] * count, *[1.0] * count])


def _check(images: NDArray[np.floating], psf: PsfFit, sigma: float) -> None:
    if not sigma > 0:
        raise ValueError(f"sigma is {sigma}, but must be positive")
    if len(psf.mixture) not in (1, len(images)):
        raise ValueError(f"{len(psf.mixture)} PSFs for {len(images)} stamps")
    _check_width(images)


def _check_width(images: NDArray[np.floating]) -> None:
    if images.shape[-1] > 512:
        raise ValueError(f"stamps are {images.shape[-1]} pixels wide; the fit takes up to 512")
