"""FPFS ellipticities and their analytic shear responses, measured by AnaCal."""

from __future__ import annotations

from typing import Any

import anacal
import galsim
import numpy as np
from numpy.typing import NDArray

from shearbench.data.shapes import Flag, Shapes
from shearbench.data.stamps import StampBatch
from shearbench.measurement.renoising import second_noise


def measure_fpfs(batch: StampBatch, sigma_arcsec: float, c0: float) -> Shapes:
    """Measure FPFS ellipticities and their shear responses.

    AnaCal corrects the response for noise with a second noise field, seen through the PSF turned by 90
    degrees (Li 2025, MNRAS 536, 3663). AnaCal's detection is not used, because each stamp holds one galaxy.
    The position of the deconvolved galaxy is the centroid of the stamp minus that of the PSF image, both from
    adaptive moments. A shear about the galaxy's centroid does not move it, so the response needs no term for
    the position.

    AnaCal takes square images with an even number of pixels. Other stamps, their noise and PSF are padded
    with rows and columns of zeros at their ends.

    Parameters
    ----------
    batch : StampBatch
    sigma_arcsec : float
        Width of the shapelets [arcsec].
    c0 : float
        Weight in the ellipticity m22 / (m00 + c0).

    Returns
    -------
    Shapes
        Ellipticities; errors are NaN. Extras: ``R11, R12, R21, R22`` (d e_i / d gamma_j), ``flux``, weighted
        by the shapelets' Gaussian, and ``s2n``. A stamp is flagged ``FAILED`` if the centroid of its image or
        PSF cannot be measured, or is outside.
    """
    n, ny, nx = batch.images.shape
    side = max(ny, nx) + max(ny, nx) % 2
    config = anacal.fpfs.FpfsConfig(npix=side, sigma_shapelets1=sigma_arcsec, c0=c0)
    names = ("e1", "e2", "de1_dg1", "de1_dg2", "de2_dg1", "de2_dg2")
    columns = [*(f"fpfs1_{name}" for name in names), "flux_fpfs1", "s2n_fpfs1"]
    values = np.full((len(columns), n), np.nan)
    flag = np.zeros(n, np.int64)
    noise = _padded(second_noise(batch), side)
    psfs = _padded(batch.psf.reshape(-1, ny, nx).astype(np.float64), side)
    psf_places = [_centroid(psf) for psf in psfs]
    for index, image in enumerate(_padded(batch.images, side)):
        which = 0 if batch.constant_psf else index
        place, psf_place = _centroid(batch.images[index]), psf_places[which]
        if place is None or psf_place is None:
            flag[index] = Flag.FAILED
            continue
        # AnaCal assumes that the PSF is centred on pixel side / 2; an offset moves the deconvolved galaxy.
        row, col = (at - psf_at + side / 2 for at, psf_at in zip(place, psf_place))
        found = anacal.fpfs.process_image(
            fpfs_config=config,
            pixel_scale=batch.pixel_scale,
            noise_variance=batch.sigma**2,
            mag_zero=anacal.fpfs.THRESHOLD_REF_MAG_ZERO,  # with this zero point, c0 has the image's units
            gal_array=image,
            psf_array=psfs[which],
            noise_array=noise[index],
            detection=np.array([(row, col)], dtype=[("y", "f8"), ("x", "f8")]),
        )
        values[:, index] = [found[name][0] for name in columns]
    e1, e2, r11, r12, r21, r22, flux, s2n = values
    extra = {"R11": r11, "R12": r12, "R21": r21, "R22": r22, "flux": flux, "s2n": s2n}
    return Shapes(e1, e2, np.full(n, np.nan), np.full(n, np.nan), flag, extra)


def _padded(images: NDArray[Any], side: int) -> NDArray[Any]:
    """Return images [n, ny, nx] with zeros after the last row and column, [n, side, side]."""
    _, ny, nx = images.shape
    return np.pad(images, ((0, 0), (0, side - ny), (0, side - nx)))


def _centroid(image: NDArray[Any]) -> tuple[float, float] | None:
    """Return the centroid of the adaptive moments (row, column, from 0); None if outside or not measured."""
    moments = galsim.hsm.FindAdaptiveMom(galsim.Image(image, scale=1.0), strict=False)
    # GalSim counts pixels from 1.
    row, col = moments.moments_centroid.y - 1, moments.moments_centroid.x - 1
    inside = 0 <= row < image.shape[0] and 0 <= col < image.shape[1]
    return (row, col) if inside and not moments.error_message else None
