r"""A forward model of Gaussian mixtures: the normal equations of a Gauss-Newton step, compiled for a CPU.

It is many times faster than `shearbench.forward_model.fourier`, and made for exponential and Gaussian
galaxies seen through a Gaussian PSF with a FWHM of two pixels or more. A mixture of Gaussians then differs
from the true image only by the shape of the pixel. Along an axis, the logarithm of the pixel's transform is
(k in radians per pixel)

.. math:: \ln \mathrm{sinc}(k/2) = -\frac{k^2}{24} - \frac{k^4}{2880} - \frac{k^6}{181440} - \dots

The first term is that of a Gaussian of variance 1/12, which the mixture includes. The stamps are divided by
the other two: with u = 2 - 2 cos k, the transform of the second difference, they are multiplied by :math:`1 +
u^2/2880 + u^3 (1/17280 + 1/181440)`, a filter of seven pixels along each axis. It correlates the noise of
neighbouring pixels by less than 1%. The equations neglect that, which causes no bias, and a loss of precision
of second order only.

The loops are those of `shearbench.measurement.mixture.kernels` in float32 and without ngmix's window. The
residual of a stamp is computed pixel by pixel, so that float32 sums do not cancel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numpy.polynomial import Chebyshev, Polynomial
from numpy.typing import NDArray
from torch import Tensor

from shearbench.forward_model.fourier import FLUX, G1, G2, HLR, X, Y

# Shares of the flux, and standard deviations in half-light radii. Those of the exponential profile are the
# least-squares fit of 7 Gaussians to its transform (1 + k^2 r0^2)^(-3/2), with the same flux and the weight
# k exp(-(k r0)^2 / 25), that of a PSF with a FWHM of 0.28 half-light radii or more. (The mixture of Hogg &
# Lang 2013, which ngmix uses, is cut off at a smaller radius.)
_PROFILES = {
    "gaussian": ((1.0,), (0.8493218,)),
    "exponential": (
        (0.0034300, 0.0202700, 0.0731604, 0.1929143, 0.3384838, 0.2999132, 0.0718283),
        (0.0952038, 0.2095396, 0.3619819, 0.5727503, 0.8658809, 1.2743473, 1.8630595),
    ),
}

# Frequencies in radians per pixel: at the first a PSF's width is measured, at the others the result is
# checked.
_MEASURED, _CHECKED = 0.4, (0.8, 1.2, 1.6)
_DIRECTIONS = np.array([(1, 0), (0, 1), (1, 1), (1, -1)])  # row, column
_FOLDS = np.array([(row, col) for row in (-1, 0, 1) for col in (-1, 0, 1)])
_ROUNDS = 6  # iterations to find the covariance, because the aliased part depends on it
_GAUSSIAN = 1e-4  # largest difference between the transforms of a PSF and of a Gaussian of unit flux

_SQUARE, _CUBE = 1 / 2880, 1 / 17280 + 1 / 181440
_F = np.float32
_ZERO, _TWO = _F(0), _F(2)
# The filter minus 1: coefficients of the pixel itself and of the pixels one, two and three away.
_T0, _T1, _T2, _T3 = (
    _F(6 * _SQUARE + 20 * _CUBE),
    _F(-4 * _SQUARE - 15 * _CUBE),
    _F(_SQUARE + 6 * _CUBE),
    _F(-_CUBE),
)

_END = 28.0  # a Gaussian is neglected beyond this squared Mahalanobis distance, where it is 1e-6 of its peak
# exp(-d/2) = p(d)^16 with p of degree 6: relative error below 3e-7 on [0, 28].
_GRID = _END / 2 * (1 + np.cos(np.pi * (np.arange(512) + 0.5) / 512))
_P0, _P1, _P2, _P3, _P4, _P5, _P6 = (
    _F(value)
    for value in Chebyshev.fit(_GRID, np.exp(-_GRID / 32), 6, domain=[0, _END]).convert(kind=Polynomial).coef
)
_LAST = _F(_END)

_LANES = 16  # columns are processed in multiples of this number
_SPAN = 1024  # largest number of pixels of the block of rows that is processed together

_COMPILE: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "arcp", "nsz"},
}
_compile_loop = numba.njit(forceinline=True, **_COMPILE)


class GaussianPsfs(NamedTuple):
    """Gaussian PSFs, convolved with a Gaussian of the pixel's variance, 1/12.

    Attributes
    ----------
    flux : ndarray of float64, shape (m,)
    covariance : ndarray of float64, shape (m, 3)
        Row-row, row-column, column-column, in squared pixels; NaN for a PSF that is no Gaussian.
    """

    flux: NDArray[np.float64]
    covariance: NDArray[np.float64]


@dataclass(frozen=True)
class MixtureModel:
    """The normal equations of galaxies as Gaussian mixtures, for stamps on a CPU.

    It replaces `shearbench.forward_model.fourier.Renderer.normal_equations`.

    Parameters
    ----------
    profile : {"gaussian", "exponential"}
    pixel_scale : float
        Arcsec.
    """

    profile: str
    pixel_scale: float

    def psf_image(self, images: Tensor) -> GaussianPsfs:
        """Measure the covariance of PSF images, which include the convolution with the pixel.

        Parameters
        ----------
        images : Tensor, shape (ny, nx) or (m, ny, nx)
            Centred like a stamp.

        Returns
        -------
        GaussianPsfs
            The covariance is NaN for a PSF that is not Gaussian.
        """
        many = images.double().numpy().reshape(-1, *images.shape[-2:])
        shape = many.shape[1:]
        measured, checked = _MEASURED * _DIRECTIONS, np.concatenate([f * _DIRECTIONS for f in _CHECKED])
        covariance = np.tile([1.0, 0, 1], (len(many), 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            found = _found(many, np.concatenate([measured, checked]))
            for _ in range(_ROUNDS):
                ratios = found[:, : len(measured)] / _expected(covariance, shape, measured)
                vv, uu, plus, minus = -2 * np.log(ratios.T) / _MEASURED**2
                covariance += np.stack([vv, (plus - minus) / 4, uu], 1)
            departure = np.abs(found[:, len(measured) :] - _expected(covariance, shape, checked)).max(1)
        covariance[~(departure < _GAUSSIAN)] = np.nan
        return GaussianPsfs(many.sum((1, 2)), covariance + np.array([1, 0, 1]) / 12)

    def normal_equations(
        self, parameters: Tensor, psf: GaussianPsfs, stamps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the normal equations of a Gauss-Newton step, as `Renderer.normal_equations` does.

        Parameters
        ----------
        parameters : Tensor, shape (m, 6)
            flux, x, y, hlr, g1, g2.
        psf : GaussianPsfs
            From `psf_image`, one or m.
        stamps : Tensor, shape (m, ny, nx)

        Returns
        -------
        information : Tensor, shape (m, 6, 6)
        force : Tensor, shape (m, 6)
            NaN if the covariance of the PSF is NaN.
        """
        weight, deviation = (np.array(column) for column in _PROFILES[self.profile])
        table = np.empty((len(psf.flux), len(weight), 5))
        table[..., 0] = weight * psf.flux[:, None]
        table[..., 1] = deviation**2
        table[..., 2:] = psf.covariance[:, None]

        flux, x, y, hlr, g1, g2 = parameters.double().numpy().T
        form, by_g1, by_g2 = _form(g1, g2)
        square = (hlr / self.pixel_scale) ** 2
        place = np.stack([y / self.pixel_scale, x / self.pixel_scale, *(square * form), flux], 1)
        information, force = np.empty((len(flux), 6, 6)), np.empty((len(flux), 6))
        _products_of(np.ascontiguousarray(stamps.numpy(), dtype=np.float32), table, place, information, force)

        # Chain rule, from derivatives by flux, centre (row, column) and covariance to those by the
        # parameters.
        chain = np.zeros((len(flux), 6, 6))
        chain[:, FLUX, 0] = 1
        chain[:, X, 2] = chain[:, Y, 1] = flux / self.pixel_scale
        for row, derivative in ((HLR, 2 / hlr * form), (G1, by_g1), (G2, by_g2)):
            chain[:, row, 3:] = (flux * square * derivative).T
        information = chain @ information @ chain.transpose(0, 2, 1)
        force = (chain @ force[:, :, None])[:, :, 0] + 0 * psf.covariance[:, :1]
        return torch.from_numpy(information).to(parameters), torch.from_numpy(force).to(parameters)


def _found(images: NDArray[np.float64], frequencies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the moduli [m, k] of transforms of images over their flux, at frequencies [k, 2] (row, col)."""
    along_v, along_u = (
        np.exp(1j * frequencies[:, i, None] * (np.arange(n) - (n - 1) / 2))
        for i, n in enumerate(images.shape[1:])
    )
    return np.abs(((along_v @ images) * along_u).sum(2)) / images.sum((1, 2))[:, None]


def _expected(
    covariance: NDArray[np.float64], shape: tuple[int, ...], frequencies: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the transforms of Gaussians of unit flux convolved with the pixel, with aliasing, [m, k]."""
    # With an even number of pixels, the centre lies between two of them, which changes the sign of aliases.
    sign = (-1.0) ** (_FOLDS @ (np.array(shape) + 1))
    v, u = np.moveaxis(frequencies + 2 * math.pi * _FOLDS[:, None], 2, 0)  # [folds, k]
    pixel = sign[:, None] * np.sinc(v / (2 * math.pi)) * np.sinc(u / (2 * math.pi))
    vv, vu, uu = covariance.T[:, :, None, None]
    return (pixel * np.exp(-(v**2 * vv + 2 * v * u * vu + u**2 * uu) / 2)).sum(1)


def _form(
    g1: NDArray[np.float64], g2: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the covariance of a sheared round profile and its derivatives by g1 and g2, each [3, n].

    The elements are row-row, row-column and column-column, for a covariance of 1 without shear.
    """
    rest, zero = 1 - g1**2 - g2**2, np.zeros_like(g1)
    form = np.stack([2 - 2 * g1 - rest, 2 * g2, 2 + 2 * g1 - rest]) / rest
    by_g1 = (np.stack([2 * g1 - 2, zero, 2 * g1 + 2]) + 2 * g1 * form) / rest
    by_g2 = (np.stack([2 * g2, 2 + zero, 2 * g2]) + 2 * g2 * form) / rest
    return form, by_g1, by_g2


@_compile_loop
def _add_shifted(image, step, count, filtered):
    """Add the filter minus 1, applied to `image`, to `count` pixels of `filtered` from pixel 3 `step` on."""
    out, at1, at2, at3 = filtered[3 * step :], image[step:], image[2 * step :], image[3 * step :]
    at4, at5, at6 = image[4 * step :], image[5 * step :], image[6 * step :]
    for j in range(count):
        out[j] += _T0 * at3[j] + _T1 * (at2[j] + at4[j]) + _T2 * (at1[j] + at5[j]) + _T3 * (image[j] + at6[j])


@_compile_loop
def _filter(image, ny, nx, stride, filtered):
    """Filter a stamp [ny * stride] along both axes, without the three pixels at each edge.

    The filter divides by the pixel's transform over that of a Gaussian, see the module.
    """
    filtered[:] = image
    _add_shifted(image, 1, ny * stride - 6, filtered)
    for row in range(ny):
        for col in range(3):
            left, right = row * stride + col, row * stride + nx - 1 - col
            filtered[left], filtered[right] = image[left], image[right]
    _add_shifted(image, stride, (ny - 6) * stride, filtered)


@_compile_loop
def _add_gaussian(sums, top, rows, ny, nx, stride, v0, u0, weight, scale, vv, vu, uu):
    """Add a Gaussian and its derivatives, see `shearbench.measurement.mixture.kernels.add_gaussian`."""
    det = vv * uu - vu * vu
    if not (det > 0 and vv > 0 and vv + uu < 1e12 and abs(v0) + abs(u0) < 1e6):
        return
    qvv, qvu, quu = uu / det, -vu / det, vv / det
    peak, half = _F(weight / (2 * math.pi * math.sqrt(det))), _F(0.5 * scale)
    by_row, by_col = _F(qvu), _F(quu)
    from_vv, from_vu, from_uu = _F(qvv), _F(2 * qvu), _F(quu)
    first = -0.5 * (nx - 1)
    for row in range(rows):
        offset = top + row - 0.5 * (ny - 1) - v0
        left = _END - offset * offset / vv
        if left <= 0:
            continue
        middle = u0 + vu / vv * offset - first
        reach = math.sqrt(left / quu)
        low = int(max(math.ceil(middle - reach), 0.0)) // _LANES * _LANES
        high = int(min(math.floor(middle + reach), nx - 1.0)) + 1
        if high <= low:
            continue
        count = (high - low + _LANES - 1) // _LANES * _LANES
        start = first + low - u0
        dv, du0 = _F(offset), _F(start)
        y0, x0 = _F(qvv * offset + qvu * start), _F(qvu * offset + quu * start)
        out = sums[row * stride + low :]
        for j in range(count):
            z = _F(numba.int32(j))
            y, x = y0 + by_row * z, x0 + by_col * z
            d = min(dv * y + (du0 + z) * x, _LAST)
            e = _P0 + d * (_P1 + d * (_P2 + d * (_P3 + d * (_P4 + d * (_P5 + d * _P6)))))
            e *= e
            e *= e
            e *= e
            e *= e
            e *= peak
            ey, ex, a = e * y, e * x, half * e
            ay, ax = half * ey, half * ex
            out[j] += e
            out[j + _SPAN] += ey
            out[j + 2 * _SPAN] += ex
            out[j + 3 * _SPAN] += ay * y - a * from_vv
            out[j + 4 * _SPAN] += _TWO * (ay * x) - a * from_vu
            out[j + 5 * _SPAN] += ax * x - a * from_uu


@_compile_loop
def _add_products(sums, rest, count, matrix, vector):
    # Written out instead of looped over, so that all 27 sums stay in registers.
    s00 = s01 = s02 = s03 = s04 = s05 = s06 = s11 = s12 = s13 = s14 = s15 = s16 = s22 = _ZERO
    s23 = s24 = s25 = s26 = s33 = s34 = s35 = s36 = s44 = s45 = s46 = s55 = s56 = _ZERO
    for n in range(count):
        a, b, c = sums[n], sums[n + _SPAN], sums[n + 2 * _SPAN]
        d, e, f = sums[n + 3 * _SPAN], sums[n + 4 * _SPAN], sums[n + 5 * _SPAN]
        g = rest[n]
        s00 += a * a
        s01 += a * b
        s02 += a * c
        s03 += a * d
        s04 += a * e
        s05 += a * f
        s06 += a * g
        s11 += b * b
        s12 += b * c
        s13 += b * d
        s14 += b * e
        s15 += b * f
        s16 += b * g
        s22 += c * c
        s23 += c * d
        s24 += c * e
        s25 += c * f
        s26 += c * g
        s33 += d * d
        s34 += d * e
        s35 += d * f
        s36 += d * g
        s44 += e * e
        s45 += e * f
        s46 += e * g
        s55 += f * f
        s56 += f * g
    for i, row in enumerate(
        (
            (s00, s01, s02, s03, s04, s05, s06),
            (s01, s11, s12, s13, s14, s15, s16),
            (s02, s12, s22, s23, s24, s25, s26),
            (s03, s13, s23, s33, s34, s35, s36),
            (s04, s14, s24, s34, s44, s45, s46),
            (s05, s15, s25, s35, s45, s55, s56),
        )
    ):
        for j in range(6):
            matrix[i, j] += row[j]
        vector[i] += row[6]


@numba.njit(cache=True, **_COMPILE)
def _products_of(images, tables, places, matrices, vectors):
    """Sum over pixels the products of a mixture of unit flux, its derivatives and the residual.

    Parameters
    ----------
    images : ndarray of float32, shape (n, ny, nx)
    tables : ndarray of float64, shape (1 or n, k, 5)
        For each Gaussian its share of the flux, the scale of the covariance, and the PSF's covariance.
    places : ndarray of float64, shape (n, 6)
        Row and column of the centre, mean covariance (row-row, row-column, column-column) and flux; lengths
        are in pixels.
    matrices : ndarray of float64, shape (n, 6, 6)
        Output: products of the mixture and its derivatives by centre and covariance with each other.
    vectors : ndarray of float64, shape (n, 6)
        Output: products of these with the residual, filtered stamp minus mixture.
    """
    n, ny, nx = images.shape
    stride = (nx + _LANES - 1) // _LANES * _LANES
    height = _SPAN // stride
    image, filtered = np.zeros(ny * stride, np.float32), np.zeros(ny * stride, np.float32)
    sums, rest = np.empty(6 * _SPAN, np.float32), np.empty(_SPAN, np.float32)
    for i in range(n):
        matrices[i] = 0.0
        vectors[i] = 0.0
        for row in range(ny):
            for col in range(nx):
                image[row * stride + col] = images[i, row, col]
        _filter(image, ny, nx, stride, filtered)
        table = tables[min(i, len(tables) - 1)]
        v0, u0, vv, vu, uu, flux = places[i]
        for top in range(0, ny, height):
            rows = min(height, ny - top)
            sums[:] = _ZERO
            for weight, scale, psf_vv, psf_vu, psf_uu in table:
                _add_gaussian(
                    sums, top, rows, ny, nx, stride, v0, u0, weight, scale,
                    scale * vv + psf_vv, scale * vu + psf_vu, scale * uu + psf_uu,
                )  # fmt: skip
            if stride > nx:
                for row in range(rows):
                    for plane in range(0, sums.size, _SPAN):
                        sums[plane + row * stride + nx : plane + (row + 1) * stride] = _ZERO
            data = filtered[top * stride :]
            for j in range(rows * stride):
                rest[j] = data[j] - _F(flux) * sums[j]
            _add_products(sums, rest, rows * stride, matrices[i], vectors[i])
