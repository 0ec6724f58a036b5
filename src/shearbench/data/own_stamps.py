"""Stamps of a user: HDF5 files, FITS cubes and MEDS files, read as batches that all estimators measure.

The layout of an HDF5 file; a FITS file has the same arrays in HDUs of these names::

    images    [n, ny, nx]                     flux per pixel, with its noise
    psf       [ny, nx] or [n, ny, nx]         the PSF convolved with the pixel, centred
    sigma     a number or [n]                 standard deviation of a pixel's noise, or instead of it
    weight    [n, ny, nx]                     inverse variance of each pixel; 0 marks a masked pixel
    id        [n], optional                   whole numbers; by default 0, 1, 2, ...
    attribute pixel_scale_arcsec              (in FITS: keyword PIXSCALE of the images)

The files are opened for reading only. A stamp that cannot be used is flagged with its causes, `Cause`.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import fourier_shift

from shearbench.data.stamps import StampBatch
from shearbench.errors import ShearbenchError

UNUSABLE = 128
"""Flag of the estimates of a stamp that has a `Cause`."""
OTHER_GEOMETRY = 64
"""Flag of a network's estimate: the stamp has another size or pixel scale than those of its training."""
_BLOCK = 512  # stamps that are read together
_SCALE_DIFFERENCE = 1e-3  # largest relative difference of pixel scales that count as equal


class Cause(enum.IntFlag):
    """The reasons why a stamp is not measured."""

    GOOD = 0
    BAD_PIXELS = 1
    BAD_PSF = 2
    BAD_NOISE = 4
    NOT_SQUARE = 8
    MASKED = 16


WORDS = {
    Cause.BAD_PIXELS: "NaN, infinite or no pixels",
    Cause.BAD_PSF: "no PSF, or one that is NaN or has no flux",
    Cause.BAD_NOISE: "a variance that is negative, zero or NaN",
    Cause.NOT_SQUARE: "not square",
    Cause.MASKED: "masked pixels",
}


def in_words(cause: int) -> str:
    """Return the causes of a stamp as text; empty for a stamp that is measured."""
    return "; ".join(words for bit, words in WORDS.items() if cause & bit)


@dataclass(frozen=True)
class _Source:
    """The content of a file: numbers of all stamps, and a function that reads some of them.

    `stamp` returns image, PSF (None if it is missing) and weight map (None if there is none) of one stamp;
    `sigma` is an array [n], or None where weight maps give the noise.
    """

    n: int
    ids: NDArray[np.int64]
    stamp: Callable[[int], tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float32] | None]]
    sigma: NDArray[np.float64] | None
    constant_psf: NDArray[np.float32] | None
    pixel_scale: float | None


class OwnStamps:
    """The stamps of a user's file.

    Parameters
    ----------
    path : path-like
        HDF5 (``.h5``, ``.hdf5``), a FITS cube, or MEDS.
    psf : path-like, optional
        A FITS or HDF5 file with one PSF or one for each stamp. By default they are in the file itself.
    sigma : float or str, optional
        The noise of all pixels, or the name of the array, HDU or column with the noise of each stamp [n] or
        with weight maps [n, ny, nx]. By default ``sigma`` or ``weight``.
    pixel_scale : float, optional
        Arcsec. By default that of the file.
    flux_scale : float
        Images and their noise are multiplied by this number.

    Attributes
    ----------
    ids : ndarray of int64, shape (n,)
    sigma : ndarray of float64, shape (n,)
        Noise per pixel, of the median weight of a stamp's pixels; NaN where it is not known.
    cause : ndarray of int64, shape (n,)
        `Cause` bits.
    sides : ndarray of int64, shape (n, 2)
        Rows and columns of each stamp.
    pixel_scale : float

    Raises
    ------
    ShearbenchError
        The file has another layout, or has no PSF, noise or pixel scale.
    OSError
        A file cannot be read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        psf: str | os.PathLike[str] | None = None,
        sigma: float | str | None = None,
        pixel_scale: float | None = None,
        flux_scale: float = 1.0,
    ) -> None:
        self.path, self.flux_scale = os.fspath(path), flux_scale
        self._source = _open(self.path, None if psf is None else os.fspath(psf), sigma)
        self.ids = self._source.ids
        scale = self._source.pixel_scale if pixel_scale is None else pixel_scale
        if scale is None or not scale > 0:
            raise ShearbenchError(
                f"{self.path}: found no pixel scale; give pixel_scale_arcsec, or store it in the file"
            )
        self.pixel_scale = float(scale)
        self.constant_psf = self._source.constant_psf is not None
        self._psf_of_side: dict[int, NDArray[np.float32]] = {}
        self._check()

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> OwnStamps:
        """Open the stamps that an entry of ``observations`` in the configuration describes."""
        return cls(
            options["stamps"],
            options["psf"],
            options["sigma"],
            options["pixel_scale_arcsec"],
            options["flux_scale"],
        )

    def __len__(self) -> int:
        return self._source.n

    def _check(self) -> None:
        n = len(self)
        self.cause = np.zeros(n, np.int64)
        self.sides = np.zeros((n, 2), np.int64)
        self.sigma = np.full(n, np.nan) if self._source.sigma is None else self._source.sigma.copy()
        for row in range(n):
            image, psf, weight = self._source.stamp(row)
            self.sides[row] = image.shape
            cause = Cause.GOOD
            if image.size == 0 or not np.isfinite(image).all():
                cause |= Cause.BAD_PIXELS
            if image.shape[0] != image.shape[1]:
                cause |= Cause.NOT_SQUARE
            if weight is not None:
                if weight.shape != image.shape or not np.isfinite(weight).all() or (weight < 0).any():
                    cause |= Cause.BAD_NOISE
                elif (weight > 0).any():
                    self.sigma[row] = float(np.median(weight[weight > 0])) ** -0.5
                    cause |= Cause.MASKED if (weight == 0).any() else Cause.GOOD
            if not (np.isfinite(self.sigma[row]) and self.sigma[row] > 0):
                cause |= Cause.BAD_NOISE
            psf = self._source.constant_psf if self.constant_psf else psf
            if psf is None or not np.isfinite(psf).all() or not psf.sum() > 0:
                cause |= Cause.BAD_PSF
            elif psf.shape[0] != psf.shape[1]:
                raise ShearbenchError(
                    f"{self.path}: found a PSF of {psf.shape[0]} by {psf.shape[1]} pixels, expected a square"
                )
            self.cause[row] = int(cause)
        self.sigma = self.sigma * self.flux_scale

    def causes(self) -> dict[str, int]:
        """Return the number of stamps with each cause, in words."""
        return {words: n for bit, words in WORDS.items() if (n := int((self.cause & bit > 0).sum()))}

    def fits(self, side: int, pixel_scale: float, resize: bool = False) -> NDArray[np.bool_]:
        """Return which stamps have a geometry, shape (n,).

        Parameters
        ----------
        side : int
            Rows and columns.
        pixel_scale : float
            Arcsec; it may differ by 1e-3 of its value.
        resize : bool
            Whether stamps of another size are cut, or padded with zeros, to this one. That needs stamps with
            an even number of rows for an even one, or an odd number for an odd one.
        """
        same = self.sides[:, 0] == side
        if resize:
            same = (self.sides[:, 0] - side) % 2 == 0
        return same & bool(abs(self.pixel_scale / pixel_scale - 1) < _SCALE_DIFFERENCE)

    def batches(
        self,
        rows: NDArray[np.int64],
        size: int = _BLOCK,
        side: int | None = None,
        equal_noise: bool = True,
    ) -> Iterator[tuple[NDArray[np.int64], StampBatch]]:
        """Yield some stamps with the rows that they have in the file; all stamps of a batch have one size.

        Parameters
        ----------
        rows : ndarray of int64
            Stamps without a `Cause`.
        size : int
            Stamps in a batch.
        side : int, optional
            Cut the stamps, or pad them with zeros, to this size; see `fits`.
        equal_noise : bool
            Whether all stamps of a batch have one noise level, which is ``sigma`` of the batch. Otherwise
            that is the first stamp's.

        Yields
        ------
        rows : ndarray of int64, shape (m,)
        batch : StampBatch
            ``galaxy_id`` and ``noise_id`` are the rows.
        """
        keys: dict[tuple[int, float], list[int]] = {}
        for row in rows.tolist():
            key = (int(self.sides[row, 0]), float(self.sigma[row]) if equal_noise else 0.0)
            keys.setdefault(key, []).append(row)
        for (own, _), group in keys.items():
            for start in range(0, len(group), size):
                some = np.array(group[start : start + size])
                yield some, self._batch(some, own if side is None else side)

    def _batch(self, rows: NDArray[np.int64], side: int) -> StampBatch:
        images = np.empty((len(rows), side, side), np.float32)
        psfs = None if self.constant_psf else np.empty_like(images)
        for k, row in enumerate(rows.tolist()):
            image, psf, _ = self._source.stamp(row)
            images[k] = _asserted(_resized(image, side)) * np.float32(self.flux_scale)
            if psfs is not None:
                psfs[k] = unit_psf(_asserted(psf), side)
        if psfs is None:
            if side not in self._psf_of_side:
                self._psf_of_side[side] = unit_psf(_asserted(self._source.constant_psf), side)
            psfs = self._psf_of_side[side]
        return StampBatch(images, psfs, float(self.sigma[rows[0]]), self.pixel_scale, rows, rows)


def _asserted(array: NDArray[np.float32] | None) -> NDArray[np.float32]:
    assert array is not None  # stamps without PSF or of another size have a cause, and are not read
    return array


def unit_psf(psf: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Return a PSF of unit flux on a square of a size, with its centre at the centre."""
    if (psf.shape[0] - side) % 2:
        # With one row and column more, the centre is half a pixel away.
        spectrum = np.fft.fft2(np.pad(psf.astype(np.float64), ((0, 1), (0, 1))))
        psf = np.fft.ifft2(fourier_shift(spectrum, 0.5)).real.astype(np.float32)
    psf = _asserted(_resized(psf, side))
    return (psf / psf.sum(dtype=np.float64)).astype(np.float32)


def _resized(image: NDArray[np.float32], side: int) -> NDArray[np.float32] | None:
    """Return a square image cut, or padded with zeros, about its centre; None if that moves the centre."""
    own = image.shape[0]
    if image.shape != (own, own) or (own - side) % 2:
        return None
    margin = abs(own - side) // 2
    if own >= side:
        return image[margin : margin + side, margin : margin + side]
    return np.pad(image, margin)


# Readers


def _open(path: str, psf: str | None, sigma: float | str | None) -> _Source:
    if path.endswith((".h5", ".hdf5")):
        source = _arrays(path, _hdf5_arrays(path), psf, sigma)
    elif _is_meds(path):
        source = _meds(path, psf, sigma)
    else:
        source = _arrays(path, _fits_arrays(path), psf, sigma)
    return source


def _hdf5_arrays(path: str) -> dict[str, Any]:
    """Return the data sets of an HDF5 file, which are read when they are indexed, and its pixel scale."""
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise ShearbenchError(f"{path}: it is no HDF5 file ({error})") from None
    found = {name: item for name, item in file.items() if isinstance(item, h5py.Dataset)}
    scale = file.attrs.get("pixel_scale_arcsec")
    return {**found, **({} if scale is None else {"PIXSCALE": float(scale)})}


def _fits_arrays(path: str) -> dict[str, Any]:
    """Return images of a FITS file by the names of their HDUs, and columns of its tables, in small letters.

    The first image that is a cube is ``images``, whatever its name.
    """
    from astropy.io import fits

    found: dict[str, Any] = {}
    try:
        with fits.open(path, memmap=True) as hdus:
            for hdu in hdus:
                if isinstance(hdu, fits.BinTableHDU):
                    found |= {name.lower(): np.asarray(hdu.data[name]) for name in hdu.columns.names}
                elif hdu.data is not None:
                    cube = hdu.data.ndim == 3 and "images" not in found
                    found["images" if cube else hdu.name.lower() or "primary"] = hdu.data
                if "PIXSCALE" in hdu.header:
                    found.setdefault("PIXSCALE", float(hdu.header["PIXSCALE"]))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise ShearbenchError(f"{path}: it is no FITS file of stamps ({error})") from None
    return found


def _arrays(path: str, found: dict[str, Any], psf: str | None, sigma: float | str | None) -> _Source:
    """Return the source of stamps that are arrays of a file."""
    have = ", ".join(f"{name} {list(np.shape(item))}" for name, item in found.items() if name != "PIXSCALE")
    images = found.get("images")
    if images is None or len(images.shape) != 3:
        raise ShearbenchError(f"{path}: expected an array images [n, ny, nx], found {have or 'no arrays'}")
    n = images.shape[0]
    psfs = found.get("psf") if psf is None else _psf_file(psf)
    if psfs is None:
        raise ShearbenchError(f"{path}: found no PSF (only {have}); give psf: a file with its image")
    if len(psfs.shape) == 3 and psfs.shape[0] == 1 != n:
        psfs = np.asarray(psfs[0])
    if len(psfs.shape) not in (2, 3) or (len(psfs.shape) == 3 and psfs.shape[0] != n):
        raise ShearbenchError(
            f"{psf or path}: psf: found shape {list(psfs.shape)}, expected [ny, nx] or [{n}, ny, nx]"
        )
    constant = _float32(psfs[:]) if len(psfs.shape) == 2 else None
    noise: Any = sigma
    if not isinstance(sigma, int | float):
        name = sigma or ("sigma" if "sigma" in found else "weight")
        if name not in found:
            raise ShearbenchError(
                f"{path}: found no noise '{name}' (only {have}); give sigma: a number, or the name of an "
                "array with the noise of each stamp or with weight maps"
            )
        noise = found[name]
    weights, level = None, None
    if len(np.shape(noise)) == 3:
        weights = noise
        if weights.shape[0] != n:
            raise ShearbenchError(f"{path}: found {weights.shape[0]} weight maps for {n} images")
    else:
        level = np.asarray(noise[()] if hasattr(noise, "shape") else noise, np.float64)
        if level.size not in (1, n):
            raise ShearbenchError(f"{path}: found {level.size} noise levels for {n} images")
        level = np.array(np.broadcast_to(level.reshape(-1), (n,)))
    ids = np.arange(n) if "id" not in found else np.asarray(found["id"][:])
    if ids.shape != (n,) or ids.dtype.kind not in "iu":
        raise ShearbenchError(
            f"{path}: id: found {list(ids.shape)} values of type {ids.dtype}, expected {n} whole numbers"
        )

    block: dict[str, Any] = {"start": -1}

    def stamp(
        row: int,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float32] | None]:
        start = row - row % _BLOCK
        if block["start"] != start:
            many = slice(start, min(start + _BLOCK, n))
            block.update(
                start=start,
                images=_float32(images[many]),
                psf=None if constant is not None else _float32(psfs[many]),
                weight=None if weights is None else _float32(weights[many]),
            )
        at = row - start
        own, weight = block["psf"], block["weight"]
        return block["images"][at], own if own is None else own[at], weight if weight is None else weight[at]

    return _Source(n, ids.astype(np.int64), stamp, level, constant, found.get("PIXSCALE"))


def _psf_file(path: str) -> Any:
    """Return the PSF images of a file: the array ``psf`` if there is one, else the only or first image."""
    found = _hdf5_arrays(path) if path.endswith((".h5", ".hdf5")) else _fits_arrays(path)
    images = [item for item in found.values() if len(np.shape(item)) in (2, 3)]
    if "psf" not in found and not images:
        raise ShearbenchError(f"{path}: found no image of a PSF")
    return found.get("psf", images[0] if images else None)


def _float32(values: Any) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, dtype=np.float32)  # FITS has the other order of bytes


def _is_meds(path: str) -> bool:
    from astropy.io import fits

    try:
        with fits.open(path, memmap=True) as hdus:
            return any(hdu.name.lower() == "object_data" for hdu in hdus)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError):
        return False  # the reader of FITS files says why


def _meds(path: str, psf: str | None, sigma: float | str | None) -> _Source:
    """Return the source of a MEDS file: the first cutout of each object, usually of the coadded image."""
    try:
        from meds import MEDS
    except ImportError:  # PyPI has another package of the name meds, without this class
        raise ShearbenchError(
            f"{path}: it is a MEDS file, and the package meds that reads these is not importable: "
            "`conda install -c conda-forge meds`, or `pip install fitsio esutil` and a checkout of "
            "https://github.com/esheldon/meds"
        ) from None
    file = MEDS(path)
    n = int(file.size)
    cutouts = np.asarray(file["ncutout"])
    if isinstance(sigma, str):
        raise ShearbenchError(
            f"{path}: sigma: found '{sigma}', expected a number or nothing: MEDS has weights"
        )
    psfs = None if psf is None else _psf_file(psf)
    if psfs is not None and len(psfs.shape) != 2:
        raise ShearbenchError(f"{psf}: found shape {list(psfs.shape)}, expected one image [ny, nx]")
    nothing = np.zeros((0, 0), np.float32)

    def stamp(
        row: int,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float32] | None]:
        if cutouts[row] == 0:
            return nothing, None, None if sigma is not None else nothing
        image = _float32(file.get_cutout(row, 0))
        weight = None if sigma is not None else _float32(file.get_cutout(row, 0, type="weight"))
        # An object without a PSF has a negative place in the array of PSFs.
        has_psf = psfs is None and file.has_psf() and file["psf_start_row"][row, 0] >= 0
        return image, _float32(file.get_psf(row, 0)) if has_psf else None, weight

    scale = None
    if (cutouts > 0).any():
        jacobian = file.get_jacobian(int(np.flatnonzero(cutouts > 0)[0]), 0)
        area = jacobian["dudrow"] * jacobian["dvdcol"] - jacobian["dudcol"] * jacobian["dvdrow"]
        scale = float(abs(area)) ** 0.5
    return _Source(
        n,
        np.asarray(file["id"], np.int64),
        stamp,
        None if sigma is None else np.full(n, float(sigma)),
        None if psfs is None else _float32(psfs[:]),
        scale,
    )
