"""Metacalibration of a batch of stamps: deconvolve, shear, convolve with a rounder and wider PSF.

Sheldon & Huff 2017, ApJ 841, 24; Huff & Mandelbaum 2017, arXiv:1702.02600.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Protocol

import galsim
import numpy as np
import scipy.fft
import scipy.sparse
from numpy.typing import NDArray

from shearbench.data.shapes import Shapes
from shearbench.data.stamps import StampBatch
from shearbench.measurement.renoising import second_noise

_PSF_FLOOR = 1e-3  # modes that the PSF suppresses below this factor are set to 0
_TAPS = 7  # width of the interpolation kernel in Fourier space, in grid points
_BLOCK = 32  # stamps that are processed together: their transforms fit a CPU's cache

Vectors = NDArray[np.float64]


class Measurer(Protocol):
    """An object that measures the sheared stamps: an estimator, or a network."""

    def measure(self, batch: StampBatch) -> Shapes:
        """Estimate the shape of every stamp of a batch."""


class Differentiable(Protocol):
    """An object that measures stamps, and knows the derivatives of its answers: a network."""

    def respond(self, batch: StampBatch, changes: NDArray[np.float32]) -> tuple[Shapes, NDArray[np.float64]]:
        """Estimate the shape of every stamp of a batch, and the derivatives of the shapes.

        Parameters
        ----------
        batch : StampBatch
        changes : ndarray, shape (n, k, ny, nx)
            Derivatives of each stamp by k quantities.

        Returns
        -------
        shapes : Shapes
        derivatives : ndarray, shape (n, 2, k)
            Of g1 and g2, by these quantities.
        """


def measure_response(estimator: Measurer, batch: StampBatch, step: float = 0.01) -> Shapes:
    """Measure stamps, and the response of the measurement to shear.

    Parameters
    ----------
    estimator : Measurer
        Any estimator of shapes, or a network.
    batch : StampBatch
        Square stamps.
    step : float
        Shear applied to the stamps: +step and -step in each component.

    Returns
    -------
    Shapes
        The estimator's results for the stamps without shear, under the new PSF. Extras: ``R11, R12, R21,
        R22``, with ``Rij = (e_i(+step in g_j) - e_i(-step in g_j)) / (2 step)``, and the estimator's own. A
        stamp for which any of the five measurements fails is flagged.

    Raises
    ------
    ValueError
        Stamps are not square.
    galsim.GalSimHSMError
        The adaptive moments of a PSF cannot be measured.
    """
    kernel = Kernel(batch, step)
    none, p1, m1, p2, m2 = (
        estimator.measure(kernel.shear(g1, g2))
        for g1, g2 in ((0.0, 0.0), (step, 0.0), (-step, 0.0), (0.0, step), (0.0, -step))
    )
    none.extra.update(
        R11=(p1.g1 - m1.g1) / (2 * step),
        R12=(p2.g1 - m2.g1) / (2 * step),
        R21=(p1.g2 - m1.g2) / (2 * step),
        R22=(p2.g2 - m2.g2) / (2 * step),
    )
    return replace(none, flag=none.flag | p1.flag | m1.flag | p2.flag | m2.flag)


def analytic_response(network: Differentiable, batch: StampBatch, step: float = 0.01) -> Shapes:
    """Measure stamps, and the response of the measurement to an infinitely small shear.

    The derivatives of the stamps by the shear are computed in Fourier space, and the network's derivatives by
    the pixels through its layers (AnaCal: Li 2025, MNRAS 536, 3663; with networks: Lin et al. 2026,
    arXiv:2603.19046). The second noise field makes the same correction as AnaCal's, whose response is that of
    the sum of both fields minus twice that of the second one.

    Parameters
    ----------
    network : Differentiable
    batch : StampBatch
        Square stamps.
    step : float
        The new PSF is as wide as that of `measure_response` with this step.

    Returns
    -------
    Shapes
        As of `measure_response`. They differ from those by terms of second order in the step, and at the
        highest frequencies: the disc of modes that `Kernel` keeps is sheared there, but not here, as it is
        not by a shear of the sky.

    Raises
    ------
    ValueError, galsim.GalSimHSMError
        As for `measure_response`.
    """
    shapes, response = network.respond(*Kernel(batch, step).derivatives())
    shapes.extra.update({f"R{i + 1}{j + 1}": response[:, i, j] for i in range(2) for j in range(2)})
    return shapes


class Kernel:
    """Stamps prepared for metacalibration, which deconvolves, shears and reconvolves them.

    Parameters
    ----------
    batch : StampBatch
        Square stamps.
    step : float
        The largest shear that will be applied.

    Notes
    -----
    The new PSF is a round Gaussian. Its width is the larger axis of the old PSF's adaptive moments times
    1 + 2 `step`, so that it suppresses all modes at which the old PSF, sheared, had no power.

    A shear makes the noise anisotropic, which would be mistaken for a response. So a second, independent
    noise field is added, which is turned by 90 degrees, sheared and turned back. The sum has no preferred
    direction (Sheldon & Huff 2017, section 4), but twice the variance.
    """

    def __init__(self, batch: StampBatch, step: float) -> None:
        n, ny, nx = batch.images.shape
        if ny != nx:
            raise ValueError(f"metacalibration needs square stamps, not {ny}x{nx}")
        self.batch, self.size = batch, nx
        self._images = np.concatenate([batch.images, np.rot90(second_noise(batch), 1, axes=(1, 2))])
        psfs = batch.psf[None] if batch.constant_psf else batch.psf
        self._psfs = psfs
        self._width = gaussian_width(psfs) * (1 + 2 * step)
        self._n = n
        spectrum = np.abs(scipy.fft.fft2(psfs.astype(np.float64)))
        k = 2 * np.pi * scipy.fft.fftfreq(nx)
        visible = spectrum >= _PSF_FLOOR * spectrum[:, :1, :1]
        # Modes within a disc, so that no direction is preferred. It ends below the Nyquist frequency, where
        # the transform of a PSF that is centred between pixels is 0.
        seen = np.where(visible, np.hypot(k[:, None], k), 0).max(axis=(1, 2))
        self._limit = np.minimum(seen, np.pi) * (1 - 0.5 / nx)

    @property
    def psf(self) -> NDArray[np.float32]:
        """The new PSF(s), of unit flux: shape (ny, nx), or (n, ny, nx)."""
        x = np.arange(self.size) - (self.size - 1) / 2
        profile = np.exp(-(x**2) / (2 * self._width[:, None] ** 2)) / (
            np.sqrt(2 * np.pi) * self._width[:, None]
        )
        psf = (profile[:, :, None] * profile[:, None, :]).astype(np.float32)
        return psf[0] if self.batch.constant_psf else psf

    def shear(self, g1: float, g2: float) -> StampBatch:
        """Return the stamps with their deconvolved images sheared by (g1, g2), under the new PSF.

        Returns
        -------
        StampBatch
            ``sigma`` is sqrt(2) times that of the original stamps, as in ngmix: the correlation of the noise
            by the reconvolution is not included.
        """
        return self._stamps(
            1, lambda images, psfs, width, limit: _shear(images, psfs, width, limit, g1, g2)[None]
        )[0]

    def derivatives(self) -> tuple[StampBatch, NDArray[np.float32]]:
        """Return the stamps without shear, and their derivatives by the shear at zero shear.

        Returns
        -------
        stamps : StampBatch
            As of `shear`, up to the errors of its interpolation.
        derivatives : ndarray, shape (n, 2, ny, nx)
            By g1 and g2.
        """
        stamps, *by_shear = self._stamps(3, _derivatives)
        return stamps, np.stack([one.images for one in by_shear], axis=1)

    def _stamps(self, count: int, change: Callable[..., Vectors]) -> list[StampBatch]:
        """Return a batch for each of the images [count, n, ny, nx] that a linear change makes of stamps."""
        found = np.empty((count, self._n, self.size, self.size), np.float32)
        for start in range(0, self._n, _BLOCK):
            rows = slice(start, min(start + _BLOCK, self._n))
            psf_rows = slice(0, 1) if self.batch.constant_psf else rows
            both = np.concatenate([self._images[: self._n][rows], self._images[self._n :][rows]])
            changed = change(both, self._psfs[psf_rows], self._width[psf_rows], self._limit[psf_rows])
            image, noise = np.split(changed, 2, axis=1)
            found[:, rows] = image + np.rot90(noise, -1, axes=(2, 3))
        # Masked pixels are filled, and have been mixed with the others. The noise has another correlation.
        like = replace(self.batch, psf=self.psf, sigma=self.batch.sigma * np.sqrt(2), mask=None)
        return [replace(like, images=images, correlation=0.0) for images in found]


def gaussian_width(psfs: NDArray[np.float32]) -> Vectors:
    """Return the width of the round Gaussian that covers a PSF in every direction.

    Parameters
    ----------
    psfs : ndarray, shape (n, ny, nx)

    Returns
    -------
    ndarray of float64, shape (n,)
        Standard deviation along the larger axis of the adaptive moments (Hirata & Seljak 2003), in pixels.

    Raises
    ------
    galsim.GalSimHSMError
        The adaptive moments of a PSF cannot be measured.
    """
    widths = []
    for psf in psfs:
        moments = galsim.hsm.FindAdaptiveMom(galsim.Image(psf, scale=1.0))
        # moments_sigma is the fourth root of the determinant; the larger axis is 1/sqrt(q) of that.
        q = (1 - moments.observed_shape.g) / (1 + moments.observed_shape.g)
        widths.append(moments.moments_sigma / np.sqrt(q))
    return np.array(widths)


def _shear(
    images: NDArray[np.float32],
    psfs: NDArray[np.float32],
    width: Vectors,
    limit: Vectors,
    g1: float,
    g2: float,
) -> Vectors:
    """Deconvolve, shear and reconvolve images.

    If there are several times as many images as PSFs, the PSFs are used again in the same order. A profile
    sheared by the symmetric matrix A of unit determinant, f(A^-1 x), has the transform F(A k).
    """
    size = images.shape[-1]
    padded = 2 * size
    k_row, k_col = _frequencies(padded)
    operator, modulus = _interpolation(size, g1, g2)
    image, psf = _at(operator, images), _at(operator, psfs)
    repeat = image.shape[1] // psf.shape[1]
    squared = k_row**2 + k_col**2
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.exp(-0.5 * squared[:, None] * width**2) * psfs.sum(axis=(1, 2), dtype=np.float64) / psf
    gain = np.where(modulus[:, None] < limit, gain, 0)
    # The phase moves the galaxy: its position relative to the PSF's centre becomes that to the stamp's
    # centre.
    gain *= np.exp(-0.5j * (size - 1) * (k_row + k_col))[:, None]
    spectrum = image * (gain if psf.shape[1] == 1 else np.tile(gain, repeat))
    grid = spectrum.reshape(padded, padded // 2 + 1, -1)
    return np.moveaxis(scipy.fft.irfft2(grid, s=(padded, padded), axes=(0, 1))[:size, :size], -1, 0)


def _derivatives(
    images: NDArray[np.float32], psfs: NDArray[np.float32], width: Vectors, limit: Vectors
) -> Vectors:
    """Deconvolve and reconvolve images; return them and their derivatives by g1 and g2, [3, n, ny, nx].

    Parameters are as for `_shear`. The derivatives of the transform F(A k) by the shear are k . F' with k
    mirrored, and F' the transform of the image times -i x. At zero shear all frequencies are on the grid.
    """
    size = images.shape[-1]
    padded = 2 * size
    k_row, k_col = (k.reshape(padded, -1) for k in _frequencies(padded))
    x = np.arange(size, dtype=np.float64)

    def transforms(values: NDArray[np.float32]) -> NDArray[np.complex128]:
        moments = np.stack([values, x[:, None] * values, x * values])
        found = scipy.fft.rfft2(moments, s=(padded, padded))
        found[1:] *= -1j
        return np.asarray(found)

    own = np.arange(len(images)) % len(psfs)  # the PSF of each image
    image, psf = transforms(images), transforms(psfs)
    kept = np.hypot(k_row, k_col) < limit[:, None, None]
    gain = np.exp(-0.5 * (k_row**2 + k_col**2) * width[:, None, None] ** 2)
    gain *= psfs.sum(axis=(1, 2), dtype=np.float64)[:, None, None]
    gain = gain * np.exp(-0.5j * (size - 1) * (k_row + k_col))  # as in `_shear`
    inverse = np.divide(1, psf[0], out=np.zeros_like(psf[0]), where=kept)[own]
    ratio = image[0] * inverse
    by_row, by_col = ((image[i] - ratio * psf[i][own]) * inverse for i in (1, 2))
    spectra = np.stack([ratio, k_col * by_col - k_row * by_row, k_row * by_col + k_col * by_row])
    found = scipy.fft.irfft2(spectra * gain[own], s=(padded, padded))
    return np.asarray(found[..., :size, :size])


@lru_cache(maxsize=4)
def _frequencies(padded: int) -> tuple[Vectors, Vectors]:
    """Return the frequencies of a half plane along rows and columns [radians per pixel], as flat arrays."""
    row = 2 * np.pi * scipy.fft.fftfreq(padded)
    col = 2 * np.pi * scipy.fft.rfftfreq(padded)
    k_row, k_col = np.meshgrid(row, col, indexing="ij")
    return k_row.ravel(), k_col.ravel()


@lru_cache(maxsize=16)
def _interpolation(size: int, g1: float, g2: float) -> tuple[scipy.sparse.csr_array, Vectors]:
    """Return the matrix that interpolates a padded transform at sheared frequencies, and their moduli.

    It is a Kaiser-Bessel interpolation on a grid with twice as many points (Fessler & Sutton 2003, IEEE
    Trans. Signal Process. 51, 560), accurate to 1e-6 of the largest mode for images divided by
    `_apodisation`.
    """
    padded = 2 * size
    k_row, k_col = _frequencies(padded)
    unit = 1 / np.sqrt(1 - g1**2 - g2**2)
    row = unit * (g2 * k_col + (1 - g1) * k_row)
    col = unit * ((1 + g1) * k_col + g2 * k_row)
    index, weight = [], []
    for k in (row, col):
        place = k * padded / (2 * np.pi)
        first = np.ceil(place - _TAPS / 2).astype(np.int64)[:, None] + np.arange(_TAPS)
        inside = np.clip(1 - (2 * (place[:, None] - first) / _TAPS) ** 2, 0, None)
        index.append(first % padded)
        weight.append(np.i0(_beta() * np.sqrt(inside)))
    columns = index[0][:, :, None] * padded + index[1][:, None, :]
    values = weight[0][:, :, None] * weight[1][:, None, :]
    pointers = np.arange(len(row) + 1) * _TAPS**2
    shape = (len(row), padded**2)
    return scipy.sparse.csr_array((values.ravel(), columns.ravel(), pointers), shape), np.hypot(row, col)


def _beta() -> float:
    return float(np.pi * np.sqrt((0.75 * _TAPS) ** 2 - 0.8))  # Beatty et al. 2005, eq. 5, for a double grid


def _apodisation(size: int) -> Vectors:
    """Return the transform of the interpolation kernel at each pixel of a row, from the middle pixel."""
    x = (np.arange(size) - size // 2) / (2 * size)
    root = np.sqrt(_beta() ** 2 - (np.pi * _TAPS * x) ** 2)
    return _TAPS * np.sinh(root) / root


def _at(operator: scipy.sparse.csr_array, images: NDArray[np.float32]) -> NDArray[np.complex128]:
    """Return the images' transforms at the operator's frequencies, shape (frequencies, n).

    Phases are relative to the middle pixel.
    """
    n, size = len(images), images.shape[-1]
    padded = np.zeros((2 * size, 2 * size, n))
    weight = 1 / _apodisation(size)
    padded[:size, :size] = np.moveaxis(images * (weight[:, None] * weight), 0, -1)
    padded = np.roll(padded, (-(size // 2), -(size // 2)), axis=(0, 1))
    spectrum = scipy.fft.fft2(padded, axes=(0, 1)).reshape(-1, n)
    return (operator @ spectrum.view(np.float64)).view(np.complex128)
