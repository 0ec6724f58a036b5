"""AnaCal's FPFS as an estimator of this package."""

from __future__ import annotations

import importlib.util

import galsim
import numpy as np
import pytest
from calibrated import assert_unbiased

from shearbench.data.shapes import Flag
from shearbench.data.stamps import StampBatch
from shearbench.estimators.fpfs import AnacalFpfs

SCALE = 0.2


def _batch(shifts, size=(48, 48), sigma=1e-6, psf=None, psf_shift=(0, 0)):
    ny, nx = size
    psf = psf or galsim.Moffat(beta=3.5, fwhm=0.65).shear(g1=0.02, g2=-0.03)
    psf = psf.shift(SCALE * psf_shift[0], SCALE * psf_shift[1])
    galaxy = galsim.Exponential(half_light_radius=0.7, flux=2.0).shear(g1=0.2, g2=-0.1)
    images = [
        galsim.Convolve(galaxy.shift(*shift), psf).drawImage(nx=nx, ny=ny, scale=SCALE).array
        for shift in shifts
    ]
    images = np.array(images) + sigma * np.random.default_rng(0).standard_normal((len(shifts), ny, nx))
    ids = np.arange(len(images))
    psf_image = psf.drawImage(nx=nx, ny=ny, scale=SCALE).array
    return StampBatch(images.astype(np.float32), psf_image, sigma, SCALE, ids, ids)


def test_how_to_get_it_where_it_is_not(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install anacal" in (AnacalFpfs().unavailable() or "")


def test_the_centroid_does_not_matter():
    result = AnacalFpfs().measure(_batch([(0, 0), (0.1, 0), (0, -0.07), (0.05, 0.1)]))
    assert (result.flag == 0).all()
    for values in (result.g1, result.g2, result.extra["R11"], result.extra["R22"]):
        # An exponential's cusp is aliased by pixels of this size, by 1e-4 of the response.
        np.testing.assert_allclose(values, values[0], atol=1e-4)


def test_the_psf_is_taken_out():
    round_psf = galsim.Moffat(beta=3.5, fwhm=0.65)
    found = [
        AnacalFpfs().measure(_batch([(0, 0)], psf=p)) for p in (round_psf, round_psf.shear(g1=0.05, g2=0.0))
    ]
    assert abs(found[0].g1[0] - found[1].g1[0]) < 2e-4


@pytest.mark.parametrize("sigma", [1e-5, 1e-3])
@pytest.mark.parametrize("population", ["exp_gauss", "sersic_moffat"])
def test_fpfs_is_unbiased(tmp_path, sigma, population):
    assert_unbiased(tmp_path, AnacalFpfs(), 30, sigma, population)


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [1e-5, 1e-3])
def test_fpfs_is_unbiased_to_a_few_1e_4(tmp_path, sigma):
    assert_unbiased(tmp_path, AnacalFpfs(), 300, sigma, precision=3e-4)


def test_failures_are_flagged_and_touch_nobody_else():
    batch = _batch([(0, 0), (0, 0), (0, 0)])
    batch.images[1] = 0.0
    result = AnacalFpfs().measure(batch)
    assert result.flag.tolist() == [0, int(Flag.FAILED), 0]
    alone = AnacalFpfs().measure(batch.select(slice(2, 3)))
    assert alone.g1[0] == result.g1[2]


@pytest.mark.parametrize("shift", [(0.2, 0.0), (0.0, -0.2), (0.5, 0.5)])
def test_the_psf_image_may_be_off_centre(shift):
    centred, shifted = (
        AnacalFpfs().measure(_batch([(0, 0), (0.05, 0.1)], psf_shift=s)) for s in ((0, 0), shift)
    )
    assert (shifted.flag == 0).all()
    for name in ("R11", "R22"):
        np.testing.assert_allclose(shifted.extra[name], centred.extra[name], atol=1e-4)
    np.testing.assert_allclose(shifted.g1, centred.g1, atol=1e-4)
    np.testing.assert_allclose(shifted.g2, centred.g2, atol=1e-4)


@pytest.mark.parametrize("size", [(47, 47), (48, 40), (41, 47)])
def test_stamps_may_have_odd_sides_and_need_not_be_square(size):
    even, other = AnacalFpfs().measure(_batch([(0, 0)])), AnacalFpfs().measure(_batch([(0, 0)], size=size))
    assert other.flag[0] == 0
    np.testing.assert_allclose([other.g1, other.g2], [even.g1, even.g2], atol=1e-4)
    np.testing.assert_allclose(other.extra["R11"], even.extra["R11"], atol=1e-4)
