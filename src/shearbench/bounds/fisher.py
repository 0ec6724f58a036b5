"""Fisher matrices of galaxies, from analytic derivatives of their images."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import gammaincinv, gammaln

from shearbench.data.catalogs import PARAMETER_COLUMNS
from shearbench.data.observing import Observing
from shearbench.forward_model.accuracy import Extremes, choose_bandwidth
from shearbench.forward_model.fourier import (
    FLUX,
    HLR,
    SERSIC_N,
    Grid,
    Psfs,
    Renderer,
    light_reach,
    parameter_names,
)
from shearbench.forward_model.profiles import PROFILES, SERSIC_RANGE

# Errors of a pixel, as fractions of the flux. Copies of the galaxy's wings cover the whole stamp, and the
# Sersic index is sensitive to faint light: with 3e-9, all elements of the Fisher matrix are accurate to 1e-4.
_WING_TOLERANCE, _BANDWIDTH_TOLERANCE = 3e-9, 1e-6
_LARGEST_PERIOD = 4096  # pixels
_SMALLEST_BLUR = 8  # pixels
_TWO = "bulge-disc"
_BLOCK = 512  # galaxies whose images and derivatives are in memory together


def fisher(
    catalog: pd.DataFrame,
    pixel_scale: float,
    shape: tuple[int, int],
    psf: Mapping[str, Any] | None = None,
    psf_images: NDArray[np.floating[Any]] | None = None,
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return the Fisher matrix of every galaxy for unit noise per pixel, from analytic derivatives.

    Masked pixels, the correlation of the noise and the noise level of each stamp, which the attributes of the
    catalog describe, are those of the stamps. Neighbours are not part of the model.

    Parameters
    ----------
    catalog : pandas.DataFrame
        A catalog. A galaxy of profile ``real`` is taken as the Sersic profile with its parameters. Of one
        of profile ``bulge-disc``, the bulge's share of the flux and the ratio of the two sizes are known.
    pixel_scale : float
        Arcsec.
    shape : (int, int)
        Rows and columns of a stamp.
    psf : mapping, optional
        Profile of the PSF, in the form of the catalog's attribute ``psf``, which is the default.
    psf_images : ndarray, shape (ny, nx) or (n, ny, nx), optional
        The PSFs if their profile is ``image``, as a stamp file holds them: convolved with the pixel, centred,
        one PSF for all galaxies or one for each.

    Returns
    -------
    matrices : ndarray, shape (n, P, P)
        To be divided by the noise variance. NaN in the rows and columns of parameters that a galaxy does not
        have.
    names : tuple of str
        The P parameters, see `shearbench.forward_model.fourier.parameter_names`; n is included if any galaxy
        has a Sersic profile.

    Raises
    ------
    ValueError
        A profile is unknown, the PSF is not given, PSF images are missing or have the wrong shape, or
        parameters are out of range.
    """
    psf = catalog.attrs.get("psf") if psf is None else psf
    if psf is None:
        raise ValueError("the kind of PSF is not known: the catalog has no attribute 'psf'")
    images = _psf_images(psf, psf_images, len(catalog))
    profiles = _profiles(catalog)
    shear = np.hypot(catalog["g1"].to_numpy(np.float64), catalog["g2"].to_numpy(np.float64))
    if not ((catalog["hlr"].to_numpy() > 0) & (shear < 1)).all():
        raise ValueError("a catalog needs hlr > 0 and |g| < 1 for every galaxy")

    names = parameter_names("sersic" if (profiles == "sersic").any() else "exponential")
    observing = Observing.of(catalog.attrs)
    if observing != Observing():
        return _observed_fisher(catalog, observing, pixel_scale, shape, psf, images, len(names)), names
    matrices = np.full((len(catalog), len(names), len(names)), np.nan)
    for profile in sorted(set(profiles)):
        chosen = np.flatnonzero(profiles == profile)
        rows = catalog.iloc[chosen]
        if profile == _TWO:
            for low in range(0, len(rows), _BLOCK):
                part = slice(low, low + _BLOCK)
                given = (rows.iloc[part], pixel_scale, shape, psf, images, chosen[part])
                slopes = _two_components(*given)[1].reshape(len(chosen[part]), 6, -1)
                matrices[chosen[part], :6, :6] = slopes @ slopes.transpose(0, 2, 1)
            continue
        extremes = Extremes.of(rows, profile, shape, pixel_scale, psf)
        count = len(parameter_names(profile))
        renderer = extremes.renderer(_grid(extremes, rows, images))
        matrices[chosen, :count, :count] = _fisher(renderer, rows, psf, images, chosen)
    return matrices, names


def jacobians(
    catalog: pd.DataFrame,
    pixel_scale: float,
    shape: tuple[int, int],
    psf_images: NDArray[np.floating[Any]] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[str, ...]]:
    """Return noiseless images and the derivatives from whose products `fisher` sums its matrices.

    Parameters
    ----------
    catalog, pixel_scale, shape, psf_images
        As for `fisher`.

    Returns
    -------
    images : ndarray, shape (n, ny, nx)
        Flux per pixel.
    derivatives : ndarray, shape (n, P, ny, nx)
        Flux per pixel by unit of each parameter; zero for a parameter that a galaxy does not have.
    names : tuple of str
        The P parameters, as for `fisher`.

    Raises
    ------
    ValueError
        A profile is unknown.
    """
    psf = catalog.attrs["psf"]
    images = _psf_images(psf, psf_images, len(catalog))
    profiles = _profiles(catalog)
    names = parameter_names("sersic" if (profiles == "sersic").any() else "exponential")
    drawn, found = np.zeros((len(catalog), *shape)), np.zeros((len(catalog), len(names), *shape))
    for profile in sorted(set(profiles)):
        chosen = np.flatnonzero(profiles == profile)
        rows = catalog.iloc[chosen]
        of_profile = _two_components if profile == _TWO else functools.partial(_jacobian, profile)
        drawn[chosen], slopes = of_profile(rows, pixel_scale, shape, psf, images, chosen)
        found[chosen, : slopes.shape[1]] = slopes
    return drawn, found, names


def _observed_fisher(
    catalog: pd.DataFrame,
    observing: Observing,
    pixel_scale: float,
    shape: tuple[int, int],
    psf: Mapping[str, Any],
    images: torch.Tensor | None,
    count: int,
) -> NDArray[np.float64]:
    """Return Fisher matrices of stamps with masks and noise of any covariance.

    With K the inverse of the noise's covariance and D the derivatives, zero at the masked pixels m, the
    matrix is D K D' - D K_m (K_mm)^-1 K_m' D': the inverse of the covariance of the other pixels, from the
    blocks of K.
    """
    seed = int(catalog.attrs["seed"])
    noise_id = catalog["noise_id"].to_numpy(np.int64)
    inverse = np.linalg.inv(observing.covariance(shape)) if observing.correlation else None
    depths = observing.depths(seed, noise_id)
    profiles = _profiles(catalog)
    matrices = np.full((len(catalog), count, count), np.nan)
    for profile in sorted(set(profiles)):
        members = np.flatnonzero(profiles == profile)
        of_profile = _two_components if profile == _TWO else functools.partial(_jacobian, profile)
        for low in range(0, len(members), _BLOCK):
            chosen = members[low : low + _BLOCK]
            slopes = of_profile(catalog.iloc[chosen], pixel_scale, shape, psf, images, chosen)[1]
            own = slopes.shape[1]
            masks = observing.masks(seed, noise_id[chosen], shape)
            if masks is not None:
                slopes = slopes * ~masks[:, None]
            flat = slopes.reshape(len(chosen), own, -1)
            weighed = flat if inverse is None else flat @ inverse
            found = weighed @ flat.transpose(0, 2, 1)
            if inverse is not None and masks is not None:
                for matrix, part, mask in zip(found, weighed, masks.reshape(len(chosen), -1)):
                    lost = part[:, mask]
                    matrix -= lost @ np.linalg.solve(inverse[np.ix_(mask, mask)], lost.T)
            matrices[chosen, :own, :own] = found
    return matrices if depths is None else matrices / depths[:, None, None] ** 2


def _jacobian(
    profile: str,
    rows: pd.DataFrame,
    pixel_scale: float,
    shape: tuple[int, int],
    psf: Mapping[str, Any],
    images: torch.Tensor | None,
    members: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return images and derivatives of galaxies of one profile, at `members` of the catalog."""
    extremes = Extremes.of(rows, profile, shape, pixel_scale, psf)
    renderer = extremes.renderer(_grid(extremes, rows, images), torch.float64)
    parameters, psfs = _inputs(renderer, rows, psf, images, members)
    with torch.no_grad():
        drawn, slopes = renderer.jacobian(parameters, psfs)
    return drawn.numpy(), slopes.numpy()


def _two_components(rows: pd.DataFrame, *given: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return images and derivatives of bulges and discs together, by the flux of both and the disc's size."""
    share = rows["bulge_fraction"].to_numpy(np.float64)[:, None, None]
    ratio = (rows["bulge_hlr"] / rows["hlr"]).to_numpy(np.float64)[:, None, None]
    flux = rows["flux"]
    disc = rows.assign(flux=flux * (1 - rows["bulge_fraction"]))
    bulge = rows.assign(flux=flux * rows["bulge_fraction"], hlr=rows["bulge_hlr"], sersic_n=rows["bulge_n"])
    drawn, slopes = _jacobian("exponential", disc, *given)
    of_bulge, by_bulge = _jacobian("sersic", bulge, *given)
    slopes[:, FLUX] *= 1 - share
    by_bulge[:, FLUX] *= share
    by_bulge[:, HLR] *= ratio
    return drawn + of_bulge, slopes + by_bulge[:, :SERSIC_N]


def _profiles(catalog: pd.DataFrame) -> NDArray[Any]:
    """Return the profile of each galaxy; a real galaxy is taken as a Sersic profile."""
    profiles = catalog["profile"].replace("real", "sersic").to_numpy()
    known = (*PROFILES, _TWO)
    unknown = set(profiles) - set(known)
    if unknown:
        raise ValueError(f"unknown profile '{sorted(unknown)[0]}'; known: {', '.join(known)}, real")
    return profiles


def _fisher(
    renderer: Renderer,
    rows: pd.DataFrame,
    psf: Mapping[str, Any],
    images: torch.Tensor | None,
    members: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the matrices of the galaxies in `rows`, whose positions in the catalog are `members`.

    Images are float32, and sums over pixels float64: rounding changes bounds by less than 1e-6.
    """
    with torch.no_grad():
        return renderer.information(*_inputs(renderer, rows, psf, images, members)).numpy()


def _inputs(
    renderer: Renderer,
    rows: pd.DataFrame,
    psf: Mapping[str, Any],
    images: torch.Tensor | None,
    members: NDArray[np.int64],
) -> tuple[torch.Tensor, Psfs]:
    """Return the parameters and the PSFs of some galaxies for a renderer."""
    columns = [PARAMETER_COLUMNS[name] for name in renderer.names]
    parameters = torch.from_numpy(rows[columns].to_numpy(np.float64, copy=True))
    with torch.no_grad():
        if images is not None:
            return parameters, renderer.psf_image(images if images.ndim == 2 else images[members])
        shapes = torch.from_numpy(rows[["psf_fwhm", "psf_g1", "psf_g2"]].to_numpy(np.float64, copy=True))
        constant = len(torch.unique(shapes, dim=0)) == 1
        return parameters, renderer.psf(psf, *(shapes[:1] if constant else shapes).unbind(1))


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
    """Return a grid of frequencies for some galaxies, given their extreme parameters."""
    size = max(extremes.shape)
    offset = float(rows[["dx", "dy"]].abs().to_numpy().max()) / extremes.pixel_scale
    # Light at high frequencies is at the galaxy's centre only, blurred by the PSF.
    blur = _SMALLEST_BLUR if psf_images is None else max(psf_images.shape[-2:]) / 2
    padded_size = math.ceil(size / 2 + offset + blur)
    period = size / 2 + offset + _largest_radius(extremes.profile, rows, extremes.pixel_scale)
    wings = min(max(period / padded_size, 2.0), _LARGEST_PERIOD / padded_size)
    bandwidth = choose_bandwidth(extremes, _BANDWIDTH_TOLERANCE)
    return Grid(padded_size, bandwidth, wings, light_reach(extremes.g_max))


def _largest_radius(profile: str, rows: pd.DataFrame, pixel_scale: float) -> float:
    """Return the radius in pixels beyond which the light of all galaxies is negligible.

    It is the radius at which a Sersic profile of unit flux (Graham & Driver 2005, PASA 22, 118) falls below
    `_WING_TOLERANCE`, times the stretch by the galaxy's shear.
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
