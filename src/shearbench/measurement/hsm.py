"""Shapes from GalSim's HSM module."""

from __future__ import annotations

from typing import Literal

import galsim
import numpy as np
from numpy.typing import NDArray

from shearbench.data.shapes import Flag, Shapes
from shearbench.data.stamps import StampBatch


def measure_moments(batch: StampBatch, method: Literal["regauss", "ksb"]) -> Shapes:
    """Measure PSF-corrected adaptive moments.

    Parameters
    ----------
    batch : StampBatch
    method : {'regauss', 'ksb'}
        Re-Gaussianisation (Hirata & Seljak 2003, MNRAS 343, 459) or KSB (Kaiser, Squires & Broadhurst 1995,
        ApJ 449, 460).

    Returns
    -------
    Shapes
        Extras: ``resolution`` (1 for a point-like PSF, 0 for an unresolved galaxy) and ``size``, the sigma of
        the adaptive moments of the image with its PSF [arcsec]. Flags: ``FAILED``, and ``OUT_OF_RANGE`` for
        distortions |e| >= 1.
    """
    n = len(batch)
    e1, e2, error, resolution, size = np.full((5, n), np.nan)
    flag = np.zeros(n, np.int64)
    psf = galsim.Image(batch.psf_of(0), scale=batch.pixel_scale) if batch.constant_psf else None
    for index, image in enumerate(batch.images):
        result = galsim.hsm.EstimateShear(
            galsim.Image(image, scale=batch.pixel_scale),
            psf or galsim.Image(batch.psf_of(index), scale=batch.pixel_scale),
            sky_var=batch.sigma**2,
            shear_est=method.upper(),
            strict=False,
        )
        if result.error_message or result.correction_status != 0:
            flag[index] = Flag.FAILED
            continue
        distortion = method == "regauss"
        e1[index] = result.corrected_e1 if distortion else result.corrected_g1
        e2[index] = result.corrected_e2 if distortion else result.corrected_g2
        # HSM gives the error of a shear, half that of a distortion (Bernstein & Jarvis 2002, eq. 3.24).
        error[index] = result.corrected_shape_err * (2 if distortion else 1)
        resolution[index] = result.resolution_factor
        size[index] = result.moments_sigma * batch.pixel_scale
    extra = {"resolution": resolution, "size": size}
    if method == "ksb":
        return Shapes(e1, e2, error, error.copy(), flag, extra)
    flag[np.hypot(e1, e2) >= 1] = Flag.OUT_OF_RANGE
    g1, g2, g1_err, g2_err = distortion_to_shear(e1, e2, error)
    return Shapes(g1, g2, g1_err, g2_err, flag, extra)


def distortion_to_shear(
    e1: NDArray[np.float64], e2: NDArray[np.float64], error: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Convert distortions e = (a^2 - b^2)/(a^2 + b^2) to reduced shears g = (a - b)/(a + b).

    With s = sqrt(1 - e^2), g = e/(1 + s) along e; the derivative of |g| is 1/(s (1 + s)) along e and
    1/(1 + s) across it (Bernstein & Jarvis 2002, AJ 123, 583, section 2.2).

    Parameters
    ----------
    e1, e2 : ndarray of float64, shape (n,)
    error : ndarray of float64, shape (n,)
        1-sigma error of each component of e; the errors of both are taken as equal and uncorrelated.

    Returns
    -------
    g1, g2, g1_err, g2_err : ndarray of float64, shape (n,)
        NaN where |e| >= 1, which no shape has.
    """
    square = e1**2 + e2**2
    s = np.sqrt(1 - square, where=square < 1, out=np.full_like(square, np.nan))
    across = 1 / (1 + s)
    # The matrix of derivatives is across + e e^T rise, which needs no direction of e and so holds at e = 0.
    rise = across**2 / s
    return (
        e1 * across,
        e2 * across,
        error * np.hypot(across + e1**2 * rise, e1 * e2 * rise),
        error * np.hypot(across + e2**2 * rise, e1 * e2 * rise),
    )
