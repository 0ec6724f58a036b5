"""Fisher matrices of galaxies, from analytic derivatives of their images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import gammaincinv, gammaln

from shearbench.data.catalogs import PARAMETER_COLUMNS
from shearbench.forward_model.accuracy import Extremes, choose_bandwidth
from shearbench.forward_model.fourier import Grid, Renderer, light_reach, parameter_names
from shearbench.forward_model.profiles import PROFILES, SERSIC_RANGE

# Of the flux, in a pixel. Copies of the wings cover the whole stamp, and the index of a Sersic profile hangs
# on faint light: 3e-9 leaves errors below 1e-4 in the Fisher matrix of every parameter.
_WING_TOLERANCE, _BANDWIDTH_TOLERANCE = 3e-9, 1e-6
_LARGEST_PERIOD = 4096  # pixels
_SMALLEST_BLUR = 8  # pixels


def fisher(
    catalog: pd.DataFrame,
    pixel_scale: float,
    shape: tuple[int, int],
    psf: Mapping[str, Any] | None = None,
    psf_images: NDArray[np.floating[Any]] | None = None,
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return the Fisher matrix of every galaxy for unit noise per pixel, from analytic derivatives.

    Parameters
    ----------
    catalog : pandas.DataFrame
        A catalog; of its profiles, ``real`` is taken as the Sersic profile of its parameters.
    pixel_scale : float
        Arcsec.
    shape : (int, int)
        Rows and columns of a stamp.
    psf : mapping, optional
        Kind of PSF, as in the catalog's attribute ``psf``, which is the default.
    psf_images : ndarray, shape (ny, nx) or (n, ny, nx), optional
        The PSFs where their profile is ``image``, as a stamp file holds them: convolved with the pixel,
        centred, one for all or one for each galaxy.

    Returns
    -------
    matrices : ndarray, shape (n, P, P)
        Divide by the noise variance. NaN in rows and columns of parameters that a galaxy has not.
    names : tuple of str
        The P parameters, as in `shearbench.forward_model.fourier.parameter_names`; n is one of them if any
        galaxy has it.

    Raises
    ------
    ValueError
        An unknown profile, no kind of PSF, PSF images missing or of the wrong shape, parameters out of range.
    """
    psf = catalog.attrs.get("psf") if psf is None else psf
    if psf is None:
        raise ValueError("the kind of PSF is not known: the catalog has no attribute 'psf'")
    images = _psf_images(psf, psf_images, len(catalog))
    profiles = catalog["profile"].replace("real", "sersic").to_numpy()
    unknown = set(profiles) - set(PROFILES)
    if unknown:
        raise ValueError(f"unknown profile '{sorted(unknown)[0]}'; known: {', '.join(PROFILES)}, real")
    shear = np.hypot(catalog["g1"].to_numpy(np.float64), catalog["g2"].to_numpy(np.float64))
    if not ((catalog["hlr"].to_numpy() > 0) & (shear < 1)).all():
        raise ValueError("a catalog needs hlr > 0 and |g| < 1 for every galaxy")

    names = parameter_names("sersic" if (profiles == "sersic").any() else "exponential")
    matrices = np.full((len(catalog), len(names), len(names)), np.nan)
    for profile in sorted(set(profiles)):
        chosen = np.flatnonzero(profiles == profile)
        rows = catalog.iloc[chosen]
        extremes = Extremes.of(rows, profile, shape, pixel_scale, psf)
        count = len(parameter_names(profile))
        renderer = Renderer(profile, shape, pixel_scale, _grid(extremes, rows, images))
        matrices[chosen, :count, :count] = _fisher(renderer, rows, psf, images, chosen)
    return matrices, names


def _fisher(
    renderer: Renderer,
    rows: pd.DataFrame,
    psf: Mapping[str, Any],
    images: torch.Tensor | None,
    members: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the matrices of some galaxies, `members` of the catalog.

    Images are float32: rounding changes no bound by more than 1e-6, as the sums over pixels are float64.
    """
    columns = [PARAMETER_COLUMNS[name] for name in renderer.names]
    parameters = torch.from_numpy(rows[columns].to_numpy(np.float64, copy=True))
    with torch.no_grad():
        if images is not None:
            psfs = renderer.psf_image(images if images.ndim == 2 else images[members])
        else:
            shapes = torch.from_numpy(rows[["psf_fwhm", "psf_g1", "psf_g2"]].to_numpy(np.float64, copy=True))
            constant = len(torch.unique(shapes, dim=0)) == 1
            psfs = renderer.psf(psf, *(shapes[:1] if constant else shapes).unbind(1))
        return renderer.information(parameters, psfs).numpy()


def _psf_images(
    psf: Mapping[str, Any], images: NDArray[np.floating[Any]] | None, count: int
) -> torch.Tensor | None:
    if psf["profile"] != "image":
        return None
    if images is None:
        raise ValueError("the PSFs are images, but psf_images was not given")
    if images.ndim not in (2, 3) or (images.ndim == 3 and len(images) != count):
        raise ValueError(f"psf_images has shape {images.shape}, expected (ny, nx) or ({count}, ny, nx)")
    return torch.from_numpy(np.asarray(images))


def _grid(extremes: Extremes, rows: pd.DataFrame, psf_images: torch.Tensor | None) -> Grid:
    """Return a grid for some galaxies, given their extremes."""
    size = max(extremes.shape)
    offset = float(rows[["dx", "dy"]].abs().to_numpy().max()) / extremes.pixel_scale
    # Sharp features reach no farther than the galaxy's centre, seen through the PSF.
    blur = _SMALLEST_BLUR if psf_images is None else max(psf_images.shape[-2:]) / 2
    padded_size = math.ceil(size / 2 + offset + blur)
    period = size / 2 + offset + _largest_radius(extremes.profile, rows, extremes.pixel_scale)
    wings = min(max(period / padded_size, 2.0), _LARGEST_PERIOD / padded_size)
    bandwidth = choose_bandwidth(extremes, _BANDWIDTH_TOLERANCE)
    return Grid(padded_size, bandwidth, wings, light_reach(extremes.g_max))


def _largest_radius(profile: str, rows: pd.DataFrame, pixel_scale: float) -> float:
    """Return the radius in pixels beyond which all galaxies are negligible.

    The surface brightness of a Sersic profile of unit flux (Graham & Driver 2005, PASA 22, 118) is solved for
    the radius, and stretched by the galaxy's shear.
    """
    index = {"gaussian": 0.5, "exponential": 1.0}.get(profile)
    n = np.full(len(rows), index) if index else rows["sersic_n"].clip(*SERSIC_RANGE).to_numpy(np.float64)
    hlr, g1, g2 = rows[["hlr", "g1", "g2"]].to_numpy(np.float64).T
    g = np.hypot(g1, g2)
    b = gammaincinv(2 * n, 0.5)
    log_centre = 2 * n * np.log(b) - gammaln(2 * n) - np.log(2 * math.pi * n * hlr**2)
    decades = np.maximum(log_centre + 2 * math.log(pixel_scale) - math.log(_WING_TOLERANCE), 0.0)
    radius = hlr * (decades / b) ** n * np.sqrt((1 + g) / (1 - g))
    return float(radius.max()) / pixel_scale
