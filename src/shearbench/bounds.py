r"""How well a shape can be measured: Fisher matrices and the bounds that follow from them.

For an image :math:`I(\theta)` in white Gaussian noise of standard deviation :math:`\sigma` a pixel,

.. math:: F_{ab} = \frac{1}{\sigma^2} \sum_\mathrm{pixels}
   \frac{\partial I}{\partial\theta_a} \frac{\partial I}{\partial\theta_b}

(Tegmark, Taylor & Heavens 1997, ApJ 480, 22), and no unbiased estimator of :math:`\theta_a` has a variance
below :math:`(F^{-1})_{aa}`, all other parameters being unknown too. Only the stamp's own pixels count: light
beyond its edge is lost.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaincinv, gammaln

from shearbench.errors import ContractError
from shearbench.files import read_table
from shearbench.fourier import (
    SERSIC_RANGE,
    Extremes,
    Grid,
    Renderer,
    choose_bandwidth,
    parameter_names,
)

RULE = "cramer_rao"
COLUMNS = {"flux": "flux", "x": "dx", "y": "dy", "hlr": "hlr", "g1": "g1", "g2": "g2", "n": "sersic_n"}
"""Where a catalog keeps each parameter."""

_PROFILES = {"gaussian": "gaussian", "exponential": "exponential", "sersic": "sersic", "real": "sersic"}
# Of the flux, in a pixel. Copies of the wings cover the whole stamp, and the index of a Sersic profile hangs
# on faint light: 3e-9 leaves errors below 1e-4 in the Fisher matrix of every parameter.
_WING_TOLERANCE, _BANDWIDTH_TOLERANCE = 3e-9, 1e-6
_LARGEST_PERIOD = 1024
_BATCH = 32


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
        The P parameters, as in `shearbench.fourier.parameter_names`; n is there if any galaxy has it.

    Raises
    ------
    ValueError
        An unknown profile, no kind of PSF, PSF images missing or of the wrong shape, parameters out of range.
    """
    psf = catalog.attrs.get("psf") if psf is None else psf
    if psf is None:
        raise ValueError("the kind of PSF is not known: the catalog has no attribute 'psf'")
    images = _psf_images(psf, psf_images, len(catalog))
    unknown = set(catalog["profile"]) - set(_PROFILES)
    if unknown:
        raise ValueError(f"unknown profile '{sorted(unknown)[0]}'; known: {', '.join(_PROFILES)}")
    shear = np.hypot(catalog["g1"].to_numpy(np.float64), catalog["g2"].to_numpy(np.float64))
    if not ((catalog["hlr"].to_numpy() > 0) & (shear < 1)).all():
        raise ValueError("a catalog needs hlr > 0 and |g| < 1 for every galaxy")

    profiles = catalog["profile"].map(_PROFILES).to_numpy()
    names = parameter_names("sersic" if (profiles == "sersic").any() else "exponential")
    matrices = np.full((len(catalog), len(names), len(names)), np.nan)
    for profile in sorted(set(profiles)):
        chosen = np.flatnonzero(profiles == profile)
        rows = catalog.iloc[chosen]
        extremes = Extremes(
            profile,
            shape,
            pixel_scale,
            psf,
            hlr=(rows["hlr"].min(), rows["hlr"].max()),
            g_max=float(shear[chosen].max()),
            psf_fwhm=(rows["psf_fwhm"].min(), rows["psf_fwhm"].max()),
            psf_g_max=float(np.hypot(*rows[["psf_g1", "psf_g2"]].to_numpy(np.float64).T).max()),
            n=(rows["sersic_n"].min(), rows["sersic_n"].max()),
        )
        bandwidth = choose_bandwidth(extremes, _BANDWIDTH_TOLERANCE)
        count = len(parameter_names(profile))
        periods = _periods(profile, rows, pixel_scale, shape)
        for period in np.unique(periods):
            members = chosen[periods == period]
            grid = _grid(int(period), max(shape), bandwidth)
            renderer = Renderer(profile, shape, pixel_scale, grid)
            matrices[members, :count, :count] = _fisher(renderer, catalog.iloc[members], psf, images, members)
    return matrices, names


def _fisher(
    renderer: Renderer,
    rows: pd.DataFrame,
    psf: Mapping[str, Any],
    images: torch.Tensor | None,
    members: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the matrices of some galaxies, `members` of the catalog, a few at a time.

    Images are float32: rounding changes no bound by more than 1e-6, as the sums over pixels are float64.
    """
    columns = [COLUMNS[name] for name in renderer.names]
    parameters = torch.from_numpy(rows[columns].to_numpy(np.float64, copy=True))
    shapes = torch.from_numpy(rows[["psf_fwhm", "psf_g1", "psf_g2"]].to_numpy(np.float64, copy=True))
    constant = len(torch.unique(shapes, dim=0)) == 1
    found = []
    with torch.no_grad():
        for low in range(0, len(rows), _BATCH):
            part = slice(low, low + _BATCH)
            if images is not None:
                psfs = renderer.psf_image(images if images.ndim == 2 else images[members[part]])
            elif low == 0 or not constant:
                psfs = renderer.psf(psf, *(shapes[:1] if constant else shapes[part]).unbind(1))
            derivatives = renderer.jacobian(parameters[part], psfs)[1].flatten(2).double()
            found.append(derivatives @ derivatives.mT)
    return torch.cat(found).numpy()


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


def _periods(
    profile: str, rows: pd.DataFrame, pixel_scale: float, shape: tuple[int, int]
) -> NDArray[np.int64]:
    """Return the period in pixels that each galaxy needs for its next copy to be negligible on the stamp.

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
    needed = np.ceil((max(shape) / 2 + radius / pixel_scale) / 16) * 16
    return np.clip(needed, math.ceil(max(shape) / 12) * 16, _LARGEST_PERIOD).astype(np.int64)


def _grid(period: int, size: int, bandwidth: float) -> Grid:
    """Return a grid of a period, both in pixels: a short one with wings where that is cheaper."""
    short = math.ceil(size / 12) * 20
    grids = [Grid(period, bandwidth), Grid(short, bandwidth, max(2, math.ceil(period / short)))]
    return min(grids, key=lambda grid: grid.cost(size))


def cramer_rao(
    catalog: pd.DataFrame,
    pixel_scale: float,
    shape: tuple[int, int],
    psf: Mapping[str, Any] | None = None,
    psf_images: NDArray[np.floating[Any]] | None = None,
) -> pd.DataFrame:
    """Return the Cramer-Rao bound of each galaxy's shape, for unit noise per pixel.

    It bounds the standard deviation, over noise realisations, of every estimator that is unbiased and is told
    the true profile and PSF, and nothing else. A biased estimator, one with a prior say, can go below it.

    Parameters
    ----------
    catalog, pixel_scale, shape, psf, psf_images
        As for `fisher`.

    Returns
    -------
    pandas.DataFrame
        Columns ``galaxy_id``; ``snr``, the matched-filter signal-to-noise at sigma = 1, ``sqrt(sum(I**2))``;
        ``crb_g1, crb_g2``, standard deviations at sigma = 1, NaN where the matrix is singular; and
        ``F_{a}_{b}``, the Fisher matrix's upper triangle. Attributes ``parameters`` (list), and the catalog's
        ``population``, ``split`` and ``digest``.
    """
    matrices, names = fisher(catalog, pixel_scale, shape, psf, psf_images)
    flux = catalog["flux"].to_numpy(np.float64)
    columns: dict[str, Any] = {
        "galaxy_id": catalog["galaxy_id"].to_numpy(np.int64),
        "snr": np.abs(flux) * np.sqrt(matrices[:, 0, 0]),  # the image is flux times its derivative by flux
    }
    variance = marginal_variance(matrices)
    for name in ("g1", "g2"):
        columns[f"crb_{name}"] = np.sqrt(variance[:, names.index(name)])
    for name, (i, j) in _upper_triangle(names).items():
        columns[name] = matrices[:, i, j]
    table = pd.DataFrame(columns)
    table.attrs = {
        key: catalog.attrs[key] for key in ("population", "split", "digest") if key in catalog.attrs
    }
    table.attrs["parameters"] = list(names)
    return table


def read_bounds(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table of `cramer_rao` and check it.

    Raises
    ------
    ContractError
        Unreadable, or a column or an attribute is missing.
    """
    table = read_table(path, ("galaxy_id", "snr", "crb_g1", "crb_g2"), RULE)
    for name in ("parameters", "population", "split", "digest"):
        if name not in table.attrs:
            raise ContractError.of(
                path, f"attribute '{name}'", f"only {list(table.attrs)}", "the attribute", RULE
            )
    for name in _upper_triangle(table.attrs["parameters"]):
        if name not in table:
            raise ContractError.of(path, f"column '{name}'", f"only {list(table)}", "the column", RULE)
    return table


def _upper_triangle(names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return the columns of a Fisher matrix, with the place of each."""
    pairs = itertools.combinations_with_replacement(enumerate(names), 2)
    return {f"F_{first}_{second}": (i, j) for (i, first), (j, second) in pairs}


def marginal_variance(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the diagonal of each matrix's inverse.

    Parameters
    ----------
    matrices : ndarray, shape (n, P, P)
        Fisher matrices; rows and columns of NaN are parameters a galaxy has not.

    Returns
    -------
    ndarray, shape (n, P)
        NaN for a parameter that is not there, and for all of a singular matrix.
    """
    diagonal = np.diagonal(matrices, axis1=1, axis2=2)
    absent = np.isnan(diagonal)
    # Of unit diagonal, a matrix is as well conditioned as its parameters' correlations allow.
    scale = np.where(absent, 1.0, np.sqrt(np.where(absent | (diagonal <= 0), 1.0, diagonal)))
    scaled = matrices / (scale[:, :, None] * scale[:, None, :])
    scaled = np.where(absent[:, :, None] | absent[:, None, :], np.eye(matrices.shape[1]), scaled)
    inverse, failed = torch.linalg.inv_ex(torch.from_numpy(scaled))
    variance = np.diagonal(inverse.numpy(), axis1=1, axis2=2) / scale**2
    good = (failed.numpy() == 0)[:, None] & ~absent & (variance > 0)
    return np.where(good, variance, np.nan)


def prior_limited(bounds: pd.DataFrame, catalog: pd.DataFrame, sigma: ArrayLike) -> NDArray[np.float64]:
    r"""Return the bound on g1 and g2 for an estimator that also knows how the population is distributed.

    The information of a Gaussian prior adds to that of the pixels (Van Trees 1968, Detection, Estimation, and
    Modulation Theory I, sec. 2.4.3; Gill & Levit 1995, Bernoulli 1, 59): the covariance is
    :math:`(F / \sigma^2 + C^{-1})^{-1}`, where C is diagonal and holds each parameter's variance in the
    catalog.

    It is a bound in this sense: were the image linear in the parameters and the population Gaussian with
    independent parameters, this would be the posterior's covariance, and the mean of its variances over the
    population the least mean square error of any estimator, biased or not. Here both hold nearly, not
    exactly: F is taken at each galaxy's true parameters, and a prior that is not Gaussian knows more than its
    variances. So it goes to the Cramer-Rao bound at low noise and to the population's own scatter at high
    noise; in between it is a guide that an optimal estimator follows but may cross. It is not the van Trees
    inequality itself, which has the population's mean F and the information of its true distribution.

    Parameters
    ----------
    bounds : pandas.DataFrame
        Of `cramer_rao`.
    catalog : pandas.DataFrame
        Of the population; it gives the variances, and need not be the galaxies of `bounds`.
    sigma : float or array-like, shape (s,)
        Noise levels, > 0.

    Returns
    -------
    ndarray, shape (s, n, 2)
        Standard deviations of g1 and g2 of each galaxy at each noise level; (n, 2) for a single level.
    """
    names = bounds.attrs["parameters"]
    matrices = np.zeros((len(bounds), len(names), len(names)))
    for name, (i, j) in _upper_triangle(names).items():
        matrices[:, i, j] = matrices[:, j, i] = bounds[name].fillna(0.0)
    spread = catalog[[COLUMNS[name] for name in names]].std(ddof=0).to_numpy(np.float64)
    # With S = C^(1/2): (F/sigma^2 + C^-1)^-1 = S (1 + S F S/sigma^2)^-1 S, also if a parameter is constant.
    scaled = matrices * np.outer(spread, spread)
    levels = np.atleast_1d(np.asarray(sigma, np.float64))
    where = [names.index("g1"), names.index("g2")]
    found = np.empty((len(levels), len(bounds), 2))
    for row, level in zip(found, levels):
        inverse = np.linalg.inv(np.eye(len(names)) + scaled / level**2)
        row[:] = np.sqrt(np.diagonal(inverse, axis1=1, axis2=2)[:, where]) * spread[where]
    return found[0] if np.ndim(sigma) == 0 else found
