r"""Cramer-Rao bounds on the errors of shapes, from Fisher matrices.

For an image :math:`I(\theta)` in white Gaussian noise of standard deviation :math:`\sigma` a pixel,

.. math:: F_{ab} = \frac{1}{\sigma^2} \sum_\mathrm{pixels}
   \frac{\partial I}{\partial\theta_a} \frac{\partial I}{\partial\theta_b}

(Tegmark, Taylor & Heavens 1997, ApJ 480, 22). No unbiased estimator of :math:`\theta_a` has a variance below
:math:`(F^{-1})_{aa}` when all other parameters are unknown too. The sum is over the pixels of the stamp:
light beyond its edge carries no information.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from shearbench.data.catalogs import PARAMETER_COLUMNS
from shearbench.errors import ContractError
from shearbench.files.origin import Origin
from shearbench.files.tables import read_table, require_possible

RULE = "cramer_rao"


def cramer_rao(
    catalog: pd.DataFrame,
    pixel_scale: float,
    shape: tuple[int, int],
    psf: Mapping[str, Any] | None = None,
    psf_images: NDArray[np.floating[Any]] | None = None,
) -> pd.DataFrame:
    """Return the Cramer-Rao bound of each galaxy's shape, for unit noise per pixel.

    It is the smallest standard deviation over noise realisations that an unbiased estimator can have, if it
    knows the true profile and the PSF and nothing else. A biased estimator, such as one with a prior, can
    have a smaller one.

    Parameters
    ----------
    catalog, pixel_scale, shape, psf, psf_images
        As for `shearbench.bounds.fisher.fisher`.

    Returns
    -------
    pandas.DataFrame
        Columns: ``galaxy_id``; ``snr``, the matched-filter signal-to-noise at sigma = 1, ``sqrt(sum(I**2))``;
        ``crb_g1, crb_g2``, the standard deviations at sigma = 1, NaN where the matrix is singular;
        ``F_{a}_{b}``, the upper triangle of the Fisher matrix. Attributes: ``parameters`` (list), and
        ``population``, ``split`` and ``digest`` of the catalog.

    Raises
    ------
    ValueError
        As for `shearbench.bounds.fisher.fisher`.
    """
    # Imported here, because fisher needs torch, which takes seconds to import; readers of bounds do not.
    from shearbench.bounds.fisher import fisher

    matrices, names = fisher(catalog, pixel_scale, shape, psf, psf_images)
    flux, at = catalog["flux"].to_numpy(np.float64), names.index("flux")
    columns: dict[str, Any] = {
        "galaxy_id": catalog["galaxy_id"].to_numpy(np.int64),
        "snr": np.abs(flux) * np.sqrt(matrices[:, at, at]),  # the image is flux times its derivative by flux
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


def read_bounds(path: str | os.PathLike[str], expected: Origin | None = None) -> pd.DataFrame:
    """Read a table made by `cramer_rao` and check it.

    Parameters
    ----------
    path : path-like
    expected : Origin, optional
        The origin that the file must carry.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    ContractError
        The file is damaged or has another origin, a column or an attribute is missing, or a bound is not
        positive.
    """
    columns = ("galaxy_id", "snr", "crb_g1", "crb_g2")
    attributes = ("parameters", "population", "split", "digest")
    table = read_table(path, columns, RULE, expected=expected, attributes=attributes)
    for name in _upper_triangle(table.attrs["parameters"]):
        if name not in table:
            raise ContractError.of(path, f"column '{name}'", f"only {list(table)}", "the column", RULE)
    # NaN marks an unknown bound, of a singular matrix.
    good = {("snr", "a finite number >= 0"): np.isfinite(table["snr"]) & (table["snr"] >= 0)}
    for name in ("crb_g1", "crb_g2"):
        good[name, "a finite number > 0, or NaN"] = ~((table[name] <= 0) | np.isinf(table[name]))
    require_possible(path, table, good, RULE)
    return table


def _upper_triangle(names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return the names of the columns that hold a Fisher matrix, with row and column of each element."""
    pairs = itertools.combinations_with_replacement(enumerate(names), 2)
    return {f"F_{first}_{second}": (i, j) for (i, first), (j, second) in pairs}


def marginal_variance(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the diagonal of each matrix's inverse.

    Parameters
    ----------
    matrices : ndarray, shape (n, P, P)
        Fisher matrices. Rows and columns of NaN belong to parameters that a galaxy's profile does not have.

    Returns
    -------
    ndarray, shape (n, P)
        NaN for a parameter that the galaxy does not have, and for all parameters if the matrix is singular.
    """
    diagonal = np.diagonal(matrices, axis1=1, axis2=2)
    absent = np.isnan(diagonal)
    # Scaled to a unit diagonal, a matrix is ill-conditioned only if its parameters are correlated.
    scale = np.where(absent, 1.0, np.sqrt(np.where(absent | (diagonal <= 0), 1.0, diagonal)))
    scaled = matrices / (scale[:, :, None] * scale[:, None, :])
    scaled = np.where(absent[:, :, None] | absent[:, None, :], np.eye(matrices.shape[1]), scaled)
    regular = np.abs(np.linalg.det(scaled)) > 0
    inverse = np.linalg.inv(np.where(regular[:, None, None], scaled, np.eye(matrices.shape[1])))
    variance = np.diagonal(inverse, axis1=1, axis2=2) / scale**2
    good = regular[:, None] & ~absent & (variance > 0)
    return np.where(good, variance, np.nan)


def prior_limited(bounds: pd.DataFrame, catalog: pd.DataFrame, sigma: ArrayLike) -> NDArray[np.float64]:
    r"""Return the bound on g1 and g2 for an estimator that also knows the population's distribution.

    The information of a Gaussian prior adds to that of the pixels (Van Trees 1968, Detection, Estimation, and
    Modulation Theory I, sec. 2.4.3; Gill & Levit 1995, Bernoulli 1, 59): the covariance is
    :math:`(F / \sigma^2 + C^{-1})^{-1}`, where C is diagonal and holds each parameter's variance in the
    catalog.

    If the image were linear in the parameters, and the parameters independent and Gaussian, this would be the
    covariance of the posterior, and the mean of its variances over the population would be the smallest
    mean square error of any estimator, biased or not. Both conditions hold only approximately: F is taken at
    each galaxy's true parameters, and a distribution that is not Gaussian contains more information than its
    variances. So the result tends to the Cramer-Rao bound at low noise and to the population's own scatter at
    high noise. In between it is a guide: an optimal estimator is close to it, but its error may be smaller.
    It is not the van Trees inequality itself, which has the population's mean F and the information of its
    true distribution.

    Parameters
    ----------
    bounds : pandas.DataFrame
        From `cramer_rao`.
    catalog : pandas.DataFrame
        Galaxies of the population, which give the variances; they may be others than those of `bounds`.
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
    spread = catalog[[PARAMETER_COLUMNS[name] for name in names]].std(ddof=0).to_numpy(np.float64)
    # With S = C^(1/2): (F/sigma^2 + C^-1)^-1 = S (1 + S F S/sigma^2)^-1 S, also if a parameter is constant.
    scaled = matrices * np.outer(spread, spread)
    levels = np.atleast_1d(np.asarray(sigma, np.float64))
    where = [names.index("g1"), names.index("g2")]
    found = np.empty((len(levels), len(bounds), 2))
    for row, level in zip(found, levels):
        inverse = np.linalg.inv(np.eye(len(names)) + scaled / level**2)
        row[:] = np.sqrt(np.diagonal(inverse, axis1=1, axis2=2)[:, where]) * spread[where]
    return found[0] if np.ndim(sigma) == 0 else found
