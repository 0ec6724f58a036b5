"""Galaxy profiles as mixtures of Gaussians, and images of them.

A profile is a sum of Gaussians of the same centre and shape (Hogg & Lang 2013, PASP 125, 719). Convolved with
a PSF that is a sum of Gaussians, it is again a sum of Gaussians, whose covariances are the sums of the
profile's and the PSF's: no Fourier transform is needed.

Parameters are those of ngmix: ``row, col`` (centroid relative to the stamp's centre, arcsec), ``g1, g2``
(reduced-shear shape), ``T`` (arcsec^2; twice sigma^2 of a Gaussian with the mixture's mean covariance) and
``flux``. With e = 2 g/(1 + g^2), the mean covariance in (row, col) is T/2 [[1 - e1, e2], [e2, 1 + e1]].

A galaxy may also have several parts, each with its own T and flux: these are ngmix's ``coellip`` models, free
Gaussians of one centre and shape. Their parameters are ``row, col, g1, g2, T_1 ... T_p, flux_1 ... flux_p``.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shearbench.measurement.mixture.kernels import WINDOW_END, WINDOW_START

Model = Literal["gauss", "exp", "dev", "coellip2", "coellip3", "coellip4", "coellip5"]

# Hogg & Lang 2013, table 1: amplitudes and standard deviations, in half-light radii, of the exponential
# (6 Gaussians) and de Vaucouleurs (10) profiles.
_PUBLISHED = {
    "gauss": ((1.0,), (1.0,)),
    "exp": (
        (0.00735, 0.09481, 0.63572, 2.60077, 5.42848, 3.16445),
        (0.05072, 0.13756, 0.28781, 0.53195, 0.91209, 1.50157),
    ),
    "dev": (
        (0.00139, 0.00941, 0.04441, 0.16162, 0.48121, 1.20357, 2.54182, 4.46441, 6.22821, 6.15393),
        (0.00087, 0.00296, 0.00792, 0.01902, 0.04289, 0.09351, 0.20168, 0.44126, 1.01833, 2.74555),
    ),
}


def parts(model: Model) -> int:
    """Return the number of parts of a model, each with its own T and flux."""
    return int(model[-1]) if model.startswith("coellip") else 1


def components(model: Model) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the Gaussians of a profile, or those of one part if the model has several.

    Returns
    -------
    weight : ndarray of float64, shape (k,)
        Share of the flux; the sum is 1.
    scale : ndarray of float64, shape (k,)
        Covariance of each Gaussian over the mean covariance; ``sum(weight * scale)`` is 1.
    """
    amplitude, deviation = (np.array(column) for column in _PUBLISHED["gauss" if parts(model) > 1 else model])
    weight = amplitude / amplitude.sum()
    variance = deviation**2
    return weight, variance / (weight @ variance)


def covariance(
    g1: NDArray[np.float64], g2: NDArray[np.float64], size: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the mean covariance of a profile of shape `g1`, `g2` and size T.

    Returns
    -------
    ndarray of float64, shape (..., 3)
        Row-row, row-column and column-column elements, in the unit of `size`.
    """
    fall = 2 / (1 + g1**2 + g2**2)
    return np.stack([1 - fall * g1, fall * g2, 1 + fall * g1], axis=-1) * (np.asarray(size) / 2)[..., None]


def model_image(
    pars: NDArray[np.float64],
    psf: NDArray[np.float64],
    shape: tuple[int, int],
    pixel_scale: float,
    model: Model,
) -> NDArray[np.float64]:
    """Draw PSF-convolved models, evaluated at the centres of the pixels.

    There is no integration over the pixels, because the PSF image, and so the mixture fitted to it, is
    already convolved with the pixel.

    Parameters
    ----------
    pars : ndarray of float64, shape (n, 4 + 2 p) or (4 + 2 p,)
        row, col, g1, g2, the T of all parts, the fluxes of all parts.
    psf : ndarray of float64, shape (k, 4), (1, k, 4) or (n, k, 4)
        Gaussians of the PSF: share of the flux and row-row, row-column, column-column covariance in arcsec^2.
    shape : (int, int)
        Rows and columns of an image.
    pixel_scale : float
        Arcsec.
    model : {'gauss', 'exp', 'dev', 'coellip2', 'coellip3', 'coellip4', 'coellip5'}

    Returns
    -------
    ndarray of float64, shape (n, ny, nx) or (ny, nx)
        Flux per pixel.
    """
    many = np.atleast_2d(np.asarray(pars, dtype=np.float64))
    psfs = np.broadcast_to(psf if psf.ndim == 3 else psf[None], (len(many), *psf.shape[-2:]))
    v, u = (pixel_scale * (np.arange(n) - (n - 1) / 2) for n in shape)
    dv = (v - many[:, :1])[:, :, None]
    du = (u - many[:, 1:2])[:, None, :]
    images = _values(many, psfs, dv, du, pixel_scale, model)
    return images if np.ndim(pars) == 2 else images[0]


def model_pixels(
    pars: NDArray[np.float64],
    psf: NDArray[np.float64],
    pixels: tuple[NDArray[np.signedinteger[Any]], ...],
    shape: tuple[int, int],
    pixel_scale: float,
    model: Model,
) -> NDArray[np.float64]:
    """Return some pixels of the images of `model_image`.

    Parameters
    ----------
    pars, psf, shape, pixel_scale, model
        As for `model_image`, with `pars` of shape (n, 4 + 2 p) and `psf` of shape (1, k, 4) or (n, k, 4).
    pixels : (ndarray, ndarray, ndarray), each of shape (m,)
        Number of the image, row and column of each pixel.

    Returns
    -------
    ndarray of float64, shape (m,)
    """
    image, row, column = pixels
    many = pars[image]
    psfs = np.broadcast_to(psf, (len(pars), *psf.shape[1:]))[image]
    dv, du = (
        pixel_scale * (at - (side - 1) / 2) - many[:, axis]
        for axis, (at, side) in enumerate(zip((row, column), shape))
    )
    return _values(many, psfs, dv[:, None, None], du[:, None, None], pixel_scale, model)[:, 0, 0]


def _values(
    many: NDArray[np.float64],
    psfs: NDArray[np.float64],
    dv: NDArray[np.float64],
    du: NDArray[np.float64],
    pixel_scale: float,
    model: Model,
) -> NDArray[np.float64]:
    """Return fluxes [n, ny, nx] of pixels at `dv` [n, ny, 1] and `du` [n, 1, nx] from the centres."""
    images = np.zeros((len(many), dv.shape[1], du.shape[2]))
    weights, scales = components(model)
    count = parts(model)
    for size, flux in zip(many[:, 4 : 4 + count].T, many[:, 4 + count :].T):
        mean = covariance(many[:, 2], many[:, 3], size)
        for weight, scale in zip(weights, scales):
            for gaussian in np.moveaxis(psfs, 1, 0):
                vv, vu, uu = (scale * mean + gaussian[:, 1:]).T[:, :, None, None]
                determinant = vv * uu - vu**2
                distance = (uu * dv**2 - 2 * vu * dv * du + vv * du**2) / determinant
                peak = weight * gaussian[:, 0] * flux * pixel_scale**2
                value = np.exp(-distance / 2) * window(distance) / (2 * np.pi * np.sqrt(determinant))
                images += peak[:, None, None] * value
    return images


def window(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the factor that cuts a Gaussian off smoothly, as ngmix does.

    It is a quintic polynomial from 1 at `WINDOW_START` to 0 at `WINDOW_END`.

    Parameters
    ----------
    distance : ndarray
        Squared Mahalanobis distance from the centre.
    """
    s = np.clip((WINDOW_END - distance) / (WINDOW_END - WINDOW_START), 0, 1)
    return s**3 * (10 + s * (6 * s - 15))
