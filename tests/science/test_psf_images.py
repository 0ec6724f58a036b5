"""PSF images: how they are interpolated, and estimators under one that is off centre."""

from __future__ import annotations

import galsim
import numpy as np
import pandas as pd
import pytest
import torch
from simulated import PRECISE

from shearbench.bounds.fisher import fisher
from shearbench.data.stamps import StampBatch
from shearbench.estimators import estimator_presets, make_estimator
from shearbench.forward_model.fourier import G1, G, Grid, Renderer
from shearbench.simulation.galsim_stamps import draw_stamps, psf_images
from shearbench.simulation.populations import Population

SIDE, SCALE = 48, 0.2
PSF = galsim.Moffat(beta=3.5, fwhm=0.7).shear(g1=0.02, g2=-0.03)
GALAXY = {"flux": 2.0, "dx": 0.03, "dy": -0.05, "hlr": 0.7, "g1": 0.2, "g2": -0.1}
NO_PSF = {"psf_fwhm": 0.7, "psf_g1": 0.0, "psf_g2": 0.0}
PRESETS = estimator_presets()
HERE = [name for name, preset in PRESETS.items() if preset["kind"] in ("mixture", "hsm", "metacal")]
NGMIX = [name for name, preset in PRESETS.items() if preset["kind"].startswith("ngmix")]


def drawn(profile, shift=(0.0, 0.0)):
    return profile.drawImage(nx=SIDE, ny=SIDE, scale=SCALE, offset=shift, dtype=np.float64).array


def batch(shift):
    galaxy = galsim.Exponential(half_light_radius=GALAXY["hlr"], flux=GALAXY["flux"])
    scene = galsim.Convolve(galaxy.shear(g1=GALAXY["g1"], g2=GALAXY["g2"]).shift(0.03, -0.05), PSF)
    image = drawn(scene, shift) + 1e-6 * np.random.default_rng(0).standard_normal((SIDE, SIDE))
    images, one = np.float32(image[None]), np.zeros(1, np.int64)
    return StampBatch(images, np.float32(drawn(PSF, shift)), 1e-6, SCALE, one, one)


@pytest.mark.parametrize("name", [*HERE, *(pytest.param(name, marks=pytest.mark.ngmix) for name in NGMIX)])
def test_a_psf_image_off_centre_changes_no_shape(name):
    estimator = make_estimator(PRESETS[name])
    centred, *others = (estimator.measure(batch(s)) for s in ((0, 0), (0.2, -0.2), (0.5, 0.5)))
    for other in others:
        assert other.flag[0] == centred.flag[0] == 0
        # A cusp between other pixels is aliased otherwise.
        np.testing.assert_allclose([other.g1, other.g2], [centred.g1, centred.g2], atol=5e-4)
        for response in {"R11", "R22"} & set(centred.extra):
            np.testing.assert_allclose(other.extra[response], centred.extra[response], atol=2e-3)


@pytest.mark.parametrize("name", ["mixture-exp", pytest.param("ngmix-exp", marks=pytest.mark.ngmix)])
def test_the_prior_of_the_centroid_is_about_that_of_the_psf(name):
    sigma, one = 0.05, np.zeros(1, np.int64)
    still = batch((0, 0))
    stamp, psf = still.images, still.psf
    stamp = stamp + sigma * np.random.default_rng(3).standard_normal(stamp.shape, np.float32)
    estimator = make_estimator(PRESETS[name])
    # Two pixels are twice the prior's width; all is moved, the noise included.
    centred, moved = (
        estimator.measure(
            StampBatch(np.roll(stamp, s, (1, 2)), np.roll(psf, s, (0, 1)), sigma, SCALE, one, one)
        )
        for s in ((0, 0), (2, -2))
    )
    assert centred.flag[0] == moved.flag[0] == 0
    np.testing.assert_allclose([moved.g1, moved.g2], [centred.g1, centred.g2], atol=1e-3)
    assert moved.extra["flux"] == pytest.approx(centred.extra["flux"], rel=1e-3)


@pytest.mark.parametrize("shift", [(0.2, 0.0), (0.5, 0.5)])
def test_forward_model_and_bound_follow_a_psf_image_off_centre(shift):
    stamps = batch(shift)
    renderer = Renderer("exponential", (SIDE, SIDE), SCALE, Grid(64, 4.0), torch.float64)
    parameters = torch.tensor([[2.0, 0.03, -0.05, 0.7, 0.2, -0.1]], dtype=torch.float64)
    image = renderer(parameters, renderer.psf_image(torch.from_numpy(stamps.psf)))
    np.testing.assert_allclose(image[0].numpy(), stamps.images[0], atol=2e-5)
    catalog = pd.DataFrame([{**GALAXY, "profile": "exponential", "sersic_n": 1.0, **NO_PSF}])
    bounds = [
        np.linalg.inv(fisher(catalog, SCALE, (SIDE, SIDE), {"profile": "image"}, batch(s).psf)[0][0])
        for s in ((0, 0), shift)
    ]
    np.testing.assert_allclose(bounds[1][G, G], bounds[0][G, G], rtol=5e-3, atol=1e-2 * bounds[0][G1, G1])


@pytest.mark.parametrize("pixel", [0.1, 0.2])
def test_psf_images_are_interpolated_as_band_limited(tmp_path, pixel):
    psf = galsim.Moffat(beta=3.5, fwhm=0.4)
    seen = galsim.Convolve(psf, galsim.Pixel(SCALE))
    count = round(9.6 / pixel)
    image = seen.drawImage(nx=count, ny=count, scale=pixel, method="no_pixel", dtype=np.float64)
    galsim.fits.write(image, str(tmp_path / "psf.fits"))
    options = {
        "profile": "image",
        "image_file": str(tmp_path / "psf.fits"),
        "image_pixel_scale_arcsec": pixel,
    }
    row = GALAXY | {"hlr": 0.45, "profile": "exponential", "psf_index": 0, "galaxy_id": 0, "noise_id": 0}
    rows = pd.DataFrame([row | {"rotation": 0}])
    ((images, _),) = draw_stamps(rows, Population(psf=options), (SIDE, SIDE), SCALE)
    galaxy = galsim.Exponential(half_light_radius=0.45, flux=2.0, gsparams=PRECISE).shear(g1=0.2, g2=-0.1)
    expected = drawn(galsim.Convolve(galaxy.shift(0.03, -0.05), psf))
    # With GalSim's own quintic interpolation it is off by 5e-3 of the peak where the FWHM is two pixels.
    assert np.abs(images[0] - expected).max() < 2e-3 * expected.max()


def test_a_psf_image_of_too_few_pixels_is_warned_of(tmp_path, caplog):
    for fwhm, warned in ((0.7, False), (0.15, True)):
        path = str(tmp_path / f"{fwhm}.fits")
        galsim.fits.write(galsim.Moffat(beta=3.5, fwhm=fwhm).drawImage(nx=24, ny=24, scale=SCALE), path)
        psf_images(path)
        assert ("psf.image_file" in caplog.text) == warned
