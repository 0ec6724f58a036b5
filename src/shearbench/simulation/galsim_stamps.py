"""Stamps drawn with GalSim from the rows of a catalog."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import galsim
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shearbench.data.external import check_images, gaussian_fwhm, narrow_psf
from shearbench.errors import ConfigError
from shearbench.simulation.populations import Population, Psf

log = logging.getLogger(__name__)

# Interpolant of PSF images. For a FWHM of two pixels, GalSim's default, a quintic polynomial, gives the PSF
# 1% too much power beyond the image's Nyquist frequency and 0.6% too little at half of it, so that m is
# -1.4e-2 for half-light radii of 1.5 to 3 pixels.
_BAND_LIMITED = galsim.Lanczos(15)


def psf_object(row: Any, psf: Psf) -> galsim.GSObject:
    """Return the PSF of one catalog row, without the pixel unless it is an image.

    Parameters
    ----------
    row : namedtuple or similar
        With ``psf_fwhm, psf_g1, psf_g2``; for images ``psf_index`` and, in the split ``leakage``,
        ``psf_shear1, psf_shear2``, the shear of the image.
    psf : Psf
        The population's PSF.

    Raises
    ------
    ConfigError
        The file of PSF images cannot be used.
    """
    if psf.profile == "image":
        images = psf_images(str(psf.image_file))
        image = galsim.Image(images[int(row.psf_index)], scale=psf.image_pixel_scale_arcsec)
        # The image includes the convolution with a pixel: draw it with method "no_pixel".
        seen = galsim.InterpolatedImage(image, flux=1.0, x_interpolant=_BAND_LIMITED)
        return seen.shear(g1=row.psf_shear1, g2=row.psf_shear2) if hasattr(row, "psf_shear1") else seen
    if psf.profile == "gaussian":
        profile: galsim.GSObject = galsim.Gaussian(fwhm=row.psf_fwhm)
    elif psf.profile == "moffat":
        profile = galsim.Moffat(beta=psf.moffat_beta, fwhm=row.psf_fwhm)
    else:
        profile = galsim.Kolmogorov(fwhm=row.psf_fwhm)
    if row.psf_g1 or row.psf_g2:
        profile = profile.shear(g1=row.psf_g1, g2=row.psf_g2)
    return profile


def galaxy_object(row: Any, population: Population) -> galsim.GSObject:
    """Return the galaxy of one catalog row, sheared and shifted, without the PSF.

    An analytic profile is round before it gets its shape, so the observed shape (g1, g2), intrinsic shape and
    shear together, is applied in one step. A real galaxy is rotated, then sheared.
    """
    if row.profile == "real":
        galaxy: galsim.GSObject = _real_galaxy(str(population.catalogue_file), int(row.cosmos_index))
        galaxy = (
            galaxy.withFlux(row.flux).rotate(row.angle * galsim.radians).shear(g1=row.shear1, g2=row.shear2)
        )
    else:
        if row.profile == "gaussian":
            galaxy = galsim.Gaussian(half_light_radius=row.hlr, flux=row.flux)
        elif row.profile == "exponential":
            galaxy = galsim.Exponential(half_light_radius=row.hlr, flux=row.flux)
        else:
            galaxy = galsim.Sersic(n=row.sersic_n, half_light_radius=row.hlr, flux=row.flux)
        galaxy = galaxy.shear(g1=row.g1, g2=row.g2)
    return galaxy.shift(row.dx, row.dy)


def draw_stamps(
    rows: pd.DataFrame, population: Population, shape: tuple[int, int], pixel_scale: float, block: int = 256
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Draw the stamps of catalog rows, a block at a time.

    Each stamp depends on its own row alone, so the pixels are the same, bit for bit, for any division of the
    catalog into chunks and blocks.

    Parameters
    ----------
    rows : pandas.DataFrame
        Catalog rows.
    population : Population
        The population of these galaxies; it gives the PSF's profile and the files of real images.
    shape : (int, int)
        Rows and columns of a stamp.
    pixel_scale : float
        Arcsec.
    block : int
        Stamps in a block.

    Yields
    ------
    images : ndarray of float32, shape (m, ny, nx)
        Flux per pixel, without noise.
    psf : ndarray of float32, shape (ny, nx) if all galaxies share the PSF, else (m, ny, nx)
        The PSF convolved with the pixel.

    Raises
    ------
    ConfigError
        A stamp needs too large a Fourier transform, or PSF images cannot be used.
    """
    ny, nx = shape
    # A PSF image includes the convolution with a pixel.
    method = "no_pixel" if population.psf.profile == "image" else "auto"
    one_psf = population.psf.constant and "psf_shear1" not in rows
    constant: galsim.GSObject | None = None
    shared: NDArray[np.float32] | None = None
    for start in range(0, len(rows), block):
        part = rows.iloc[start : start + block]
        images = np.zeros((len(part), ny, nx), np.float32)
        psfs = None if one_psf else np.zeros_like(images)
        # Neighbouring rows that differ in noise only have the same noiseless stamp.
        drawn = part.drop(columns=["galaxy_id", "noise_id", "rotation"])
        repeats = (drawn == drawn.shift()).all(axis=1).to_numpy()
        for index, row in enumerate(part.itertuples(index=False)):
            if repeats[index]:
                images[index] = images[index - 1]
                if psfs is not None:
                    psfs[index] = psfs[index - 1]
                continue
            psf = constant or psf_object(row, population.psf)
            if one_psf and constant is None:
                constant = psf
                shared = np.zeros(shape, np.float32)
                _draw(_precise(psf), shared, pixel_scale, method)
            if psfs is not None:
                _draw(_precise(psf), psfs[index], pixel_scale, method)
            scene = galsim.Convolve(galaxy_object(row, population), psf)
            _draw(scene, images[index], pixel_scale, method)
        yield images, shared if psfs is None else psfs  # type: ignore[misc]


def _draw(scene: galsim.GSObject, image: NDArray[np.float32], pixel_scale: float, method: str) -> None:
    """Draw a scene on an image, in place.

    Raises
    ------
    ConfigError
        The scene's smallest and largest scales differ too much for GalSim's Fourier transform.
    """
    try:
        with warnings.catch_warnings():
            # Without this, GalSim only warns, and takes gigabytes of memory.
            warnings.simplefilter("error", galsim.GalSimFFTSizeWarning)
            scene.drawImage(galsim.Image(image, scale=pixel_scale), method=method)
    except (galsim.GalSimFFTSizeWarning, galsim.GalSimFFTSizeError) as error:
        raise ConfigError(
            f"populations: a stamp needs a Fourier transform of {error.size:.0f} pixels a side, and GalSim "
            f"draws with at most {scene.gsparams.maximum_fft_size}. Use a larger lower limit of "
            "psf.fwhm_arcsec, a smaller upper limit of half_light_radius_arcsec or sersic_n, or a smaller "
            "stamps.size_pixels"
        ) from error


def _precise(psf: galsim.GSObject) -> galsim.GSObject:
    """Return a PSF that GalSim draws to 1e-7 of its flux; by default, the error of a Moffat profile is 1e-5.

    Estimators take the PSF image for the truth. Images of galaxies need no such accuracy, because they have
    less power at high frequencies.
    """
    return psf.withGSParams(maxk_threshold=1e-5)


@lru_cache(maxsize=4)
def psf_images(path: str) -> NDArray[np.float32]:
    """Read PSF images from a FITS file.

    Parameters
    ----------
    path : str
        A FITS file with images of equal size, one per HDU or stacked in a cube.

    Returns
    -------
    ndarray of float32, shape (n, ny, nx)
        Normalised to unit sum.

    Raises
    ------
    ConfigError
        The file is a PSFEx model, or has no PSF images of equal size that are finite and of positive flux.
    """
    check_images("psf.image_file", path)
    try:
        hdus = [hdu.data for hdu in galsim.fits.pyfits.open(path) if getattr(hdu, "data", None) is not None]
        planes = [plane for data in hdus for plane in (data if data.ndim == 3 else [data])]
        images = np.stack([np.asarray(plane, np.float64) for plane in planes])
        if images.ndim != 3:
            raise ValueError(f"their shape is {images.shape[1:]}, not (rows, columns)")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"psf.image_file: {path} holds no PSF images of equal size ({error})") from error
    sums = images.sum(axis=(1, 2))
    if not np.isfinite(images).all() or (sums <= 0).any():
        raise ConfigError(f"psf.image_file: {path}: every PSF image must be finite, of positive flux")
    width = float(gaussian_fwhm(sums, (images**2).sum(axis=(1, 2))).min())
    if said := narrow_psf(path, width):
        log.warning(said)
    return (images / sums[:, None, None]).astype(np.float32)


@lru_cache(maxsize=1)
def _real_catalog(path: str) -> galsim.RealGalaxyCatalog:
    return galsim.RealGalaxyCatalog(Path(path).name, dir=str(Path(path).parent))


@lru_cache(maxsize=512)
def _real_galaxy(path: str, index: int) -> galsim.GSObject:
    return galsim.RealGalaxy(_real_catalog(path), index=index)


def versions() -> dict[str, str]:
    """Return the versions of the packages that determine the pixels, for the attributes of a stamp file."""
    from shearbench import __version__

    return {"shearbench": __version__, "galsim": galsim.__version__, "numpy": np.__version__}
