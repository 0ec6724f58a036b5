"""Stamps drawn with GalSim from the rows of a catalog."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import galsim
import galsim.des
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shearbench.data.external import check_images, gaussian_fwhm, narrow_psf
from shearbench.errors import ConfigError
from shearbench.simulation.piff_models import piff_psf
from shearbench.simulation.populations import Optical, Population, Psf

log = logging.getLogger(__name__)

# Interpolant of PSF images. For a FWHM of two pixels, GalSim's default, a quintic polynomial, gives the PSF
# 1% too much power beyond the image's Nyquist frequency and 0.6% too little at half of it, so that m is
# -1.4e-2 for half-light radii of 1.5 to 3 pixels.
_BAND_LIMITED = galsim.Lanczos(15)


def psf_object(row: Any, psf: Psf) -> galsim.GSObject:
    """Return the PSF of one catalog row, without the pixel unless it holds it (`Psf.holds_pixel`).

    Parameters
    ----------
    row : namedtuple or similar
        With ``psf_fwhm, psf_g1, psf_g2``; for images and models of files ``psf_index`` and, in the split
        ``leakage``, ``psf_shear1, psf_shear2``, the shear of the image; for models ``psf_x, psf_y``, the
        position on the detector [pixels], and for those of Piff ``psf_chip``.
    psf : Psf
        The population's PSF.

    Raises
    ------
    ConfigError
        The file of PSF images cannot be used.
    """
    if psf.holds_pixel:
        if psf.profile == "image":
            images = psf_images(str(psf.image_file))
            image = galsim.Image(images[int(row.psf_index)], scale=psf.image_pixel_scale_arcsec)
            seen = galsim.InterpolatedImage(image, flux=1.0, x_interpolant=_BAND_LIMITED)
        elif psf.profile == "piff":
            file = psf.piff_files[int(row.psf_index)]
            where = (int(row.psf_chip), row.psf_x, row.psf_y)
            seen = piff_psf(file, psf.image_pixel_scale_arcsec, *where)
        else:
            file = psf.psfex_files[int(row.psf_index)]
            seen = _psfex_psf(file, psf.image_pixel_scale_arcsec, row.psf_x, row.psf_y)
        return seen.shear(g1=row.psf_shear1, g2=row.psf_shear2) if hasattr(row, "psf_shear1") else seen
    if psf.profile == "gaussian":
        profile: galsim.GSObject = galsim.Gaussian(fwhm=row.psf_fwhm)
    elif psf.profile == "moffat":
        profile = galsim.Moffat(beta=psf.moffat_beta, fwhm=row.psf_fwhm)
    elif psf.profile == "optical":
        profile = _telescope(psf.optical)
    else:
        profile = galsim.Kolmogorov(fwhm=row.psf_fwhm)
    if row.psf_g1 or row.psf_g2:
        profile = profile.shear(g1=row.psf_g1, g2=row.psf_g2)
    return profile


def drawing_method(psf: Psf) -> str:
    """Return the method of GalSim's `drawImage` for scenes with a PSF, so that the pixel counts once."""
    return "no_pixel" if psf.holds_pixel else "auto"


@lru_cache(maxsize=64)
def _psfex_model(path: str, pixel_scale: float) -> galsim.des.DES_PSFEx:
    try:
        return galsim.des.DES_PSFEx(path, wcs=galsim.PixelScale(pixel_scale))
    except (OSError, KeyError, IndexError) as error:
        raise ConfigError(f"psf.psfex_files: {path} is no PSFEx model that GalSim reads ({error})") from error


@lru_cache(maxsize=4)  # the rows of a paired split have the same PSF one after the other
def _psfex_psf(path: str, pixel_scale: float, x: float, y: float) -> galsim.GSObject:
    return _psfex_model(path, pixel_scale).getPSF(galsim.PositionD(x, y))


@lru_cache(maxsize=4)
def _telescope(optical: Optical) -> galsim.GSObject:
    astigmatism, coma, trefoil = optical.astigmatism, optical.coma, optical.trefoil
    diffraction = galsim.OpticalPSF(
        lam_over_diam=optical.diffraction_arcsec,
        obscuration=optical.obscuration,
        nstruts=optical.struts,
        strut_thick=optical.strut_thickness,
        defocus=optical.defocus,
        astig1=astigmatism[0],
        astig2=astigmatism[1],
        coma1=coma[0],
        coma2=coma[1],
        trefoil1=trefoil[0],
        trefoil2=trefoil[1],
        spher=optical.spherical,
    )
    if optical.jitter_fwhm_arcsec == 0:
        return diffraction
    return galsim.Convolve(diffraction, galsim.Gaussian(fwhm=optical.jitter_fwhm_arcsec))


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
        elif row.profile == "bulge-disc":
            share = row.bulge_fraction
            disc = galsim.Exponential(half_light_radius=row.hlr, flux=(1 - share) * row.flux)
            bulge = galsim.Sersic(n=row.bulge_n, half_light_radius=row.bulge_hlr, flux=share * row.flux)
            galaxy = disc + bulge
        else:
            galaxy = galsim.Sersic(n=row.sersic_n, half_light_radius=row.hlr, flux=row.flux)
        galaxy = galaxy.shear(g1=row.g1, g2=row.g2)
    return galaxy.shift(row.dx, row.dy)


def scene_object(row: Any, population: Population) -> galsim.GSObject:
    """Return the galaxy of one catalog row with its neighbour, if it has one, without the PSF.

    A shear acts on the neighbour's shape and on its place relative to the galaxy.
    """
    galaxy = galaxy_object(row, population)
    if not getattr(row, "near_flux", 0):
        return galaxy
    size = {"half_light_radius": row.near_hlr, "flux": row.near_flux}
    if population.model_profile == "gaussian":
        neighbour: galsim.GSObject = galsim.Gaussian(**size)
    elif row.near_n == 1:
        neighbour = galsim.Exponential(**size)
    else:
        neighbour = galsim.Sersic(row.near_n, **size)
    neighbour = neighbour.shear(g1=row.near_e1, g2=row.near_e2).shift(row.near_dx, row.near_dy)
    neighbour = neighbour.shear(g1=row.shear1, g2=row.shear2).shift(row.dx, row.dy)
    return galaxy + neighbour


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
    method = drawing_method(population.psf)
    one_psf = population.psf.constant and "psf_shear1" not in rows
    constant: galsim.GSObject | None = None
    shared: NDArray[np.float32] | None = None
    last: galsim.GSObject | None = None
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
                _draw_psf(psf, population.psf, shared, pixel_scale)
            if psfs is not None:
                if index and psf == last:  # all stamps of a galaxy of the split `shear` have the same PSF
                    psfs[index] = psfs[index - 1]
                else:
                    _draw_psf(psf, population.psf, psfs[index], pixel_scale)
                last = psf
            scene = galsim.Convolve(scene_object(row, population), psf)
            _draw(scene, images[index], pixel_scale, method)
        yield images, shared if psfs is None else psfs  # type: ignore[misc]


def draw_psfs(
    rows: pd.DataFrame,
    population: Population,
    shape: tuple[int, int],
    pixel_scale: float,
    size: float = 1.0,
    shear: tuple[float, float] = (0.0, 0.0),
) -> NDArray[np.float32]:
    """Draw the PSF of each catalog row, larger or of another shape than it is.

    Parameters
    ----------
    rows : pandas.DataFrame
        Catalog rows.
    population : Population
        Gives the PSF's profile.
    shape : (int, int)
        Rows and columns of an image.
    pixel_scale : float
        Arcsec.
    size : float
        Factor on the PSF's size, without the pixel unless the PSF holds it.
    shear : (float, float)
        Reduced shear applied to the PSF, which adds it to the PSF's shape.

    Returns
    -------
    ndarray of float32, shape (n, ny, nx)
        The PSFs convolved with the pixel.
    """
    images = np.zeros((len(rows), *shape), np.float32)
    for image, row in zip(images, rows.itertuples(index=False)):
        psf = psf_object(row, population.psf).dilate(size).shear(g1=shear[0], g2=shear[1])
        _draw_psf(psf, population.psf, image, pixel_scale)
    return images


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


def _draw_psf(psf: galsim.GSObject, options: Psf, image: NDArray[np.float32], pixel_scale: float) -> None:
    """Draw the image by which estimators know a PSF, convolved with the pixel, in place.

    A profile is drawn to 1e-7 of its flux; by default, GalSim's error for a Moffat profile is 1e-5. Images of
    galaxies need no such accuracy, because they have less power at high frequencies.

    A telescope or a model (PSFEx, Piff) may have power beyond the Nyquist frequency of the pixels, which
    would be aliased: an estimator that takes the image for samples of a band-limited function finds a wrong
    PSF (for one of SuperBIT, at 2.5 pixels of FWHM, errors of 1.5e-3 in g). This power is removed first, so
    that the image's transform is that of the PSF at all frequencies below.
    """
    if options.profile not in ("optical", "psfex", "piff"):
        precise = psf.withGSParams(maxk_threshold=1e-5)
        _draw(precise, image, pixel_scale, drawing_method(options))
        return
    seen = psf if options.holds_pixel else galsim.Convolve(psf, galsim.Pixel(pixel_scale))
    count = 2 * max(image.shape) + 1
    step = 2 * np.pi / (count * pixel_scale)
    transform = seen.drawKImage(nx=count, ny=count, scale=step).array
    k = step * (np.arange(count) - count // 2)
    waves = [
        np.exp(1j * pixel_scale * (np.arange(side) - (side - 1) / 2)[:, None] * k) for side in image.shape
    ]
    image[:] = (waves[0] @ transform @ waves[1].T).real / count**2


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
