"""FPFS ellipticities and their analytic shear response, from AnaCal."""

from __future__ import annotations

import anacal
import galsim
import numpy as np

from shearbench.estimators.base import Flag, Shapes
from shearbench.peers.renoising import second_noise
from shearbench.stamps import StampBatch


def measure_fpfs(batch: StampBatch, sigma_arcsec: float, c0: float) -> Shapes:
    """Measure FPFS ellipticities.

    The response of the noise is taken out by AnaCal with a second noise field, seen through the PSF turned
    by 90 degrees (Li 2025, MNRAS 536, 3663). AnaCal's own detection is left out: each stamp holds
    one galaxy, whose place is the centroid of its adaptive moments. About its own centroid a galaxy is
    sheared and does not move, so no term for the place is missing from the response.

    Parameters
    ----------
    batch : StampBatch
        Square stamps of even size.
    sigma_arcsec : float
        Width of the shapelets.
    c0 : float
        Weight in the ellipticity m22 / (m00 + c0).

    Returns
    -------
    Shapes
        Without errors. Extras: ``R11, R12, R21, R22`` (d e_i / d gamma_j), ``flux`` under the shapelets'
        Gaussian and ``s2n``. A stamp without a centroid inside it is flagged.
    """
    n, ny, nx = batch.images.shape
    if ny != nx or nx % 2:
        raise ValueError(f"AnaCal measures square stamps of even size, not {ny}x{nx}")
    config = anacal.fpfs.FpfsConfig(npix=nx, sigma_shapelets1=sigma_arcsec, c0=c0)
    names = ("e1", "e2", "de1_dg1", "de1_dg2", "de2_dg1", "de2_dg2")
    columns = [*(f"fpfs1_{name}" for name in names), "flux_fpfs1", "s2n_fpfs1"]
    values = np.full((len(columns), n), np.nan)
    flag = np.zeros(n, np.int64)
    noise = second_noise(batch)
    for index, image in enumerate(batch.images):
        moments = galsim.hsm.FindAdaptiveMom(galsim.Image(image, scale=1.0), strict=False)
        # AnaCal counts pixels from 0, GalSim from 1.
        row, col = moments.moments_centroid.y - 1, moments.moments_centroid.x - 1
        if moments.error_message or not (0 <= row < ny and 0 <= col < nx):
            flag[index] = Flag.FAILED
            continue
        found = anacal.fpfs.process_image(
            fpfs_config=config,
            pixel_scale=batch.pixel_scale,
            noise_variance=batch.sigma**2,
            mag_zero=anacal.fpfs.THRESHOLD_REF_MAG_ZERO,  # where c0 is in units of the image
            gal_array=image,
            psf_array=batch.psf_of(index).astype(np.float64),
            noise_array=noise[index],
            # AnaCal takes a PSF to be centred on pixel n/2: half a pixel off moves the deconvolved galaxy.
            detection=np.array([(row + 0.5, col + 0.5)], dtype=[("y", "f8"), ("x", "f8")]),
        )
        values[:, index] = [found[name][0] for name in columns]
    e1, e2, r11, r12, r21, r22, flux, s2n = values
    extra = {"R11": r11, "R12": r12, "R21": r21, "R22": r22, "flux": flux, "s2n": s2n}
    return Shapes(e1, e2, np.full(n, np.nan), np.full(n, np.nan), flag, extra)
