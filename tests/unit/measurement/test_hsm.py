"""HSM moments, as reduced shears."""

from __future__ import annotations

import galsim
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shearbench.data.shapes import Flag
from shearbench.data.stamps import StampBatch
from shearbench.estimators.hsm import Hsm
from shearbench.measurement.hsm import distortion_to_shear

SCALE = 0.2


def _batch(shapes, sigma, profile=galsim.Gaussian, seed=0, repeats=1):
    psf = galsim.Gaussian(fwhm=0.6)
    images = [
        galsim.Convolve(profile(half_light_radius=0.7, flux=2.0).shear(g1=g1, g2=g2), psf)
        .drawImage(nx=48, ny=48, scale=SCALE)
        .array
        for g1, g2 in shapes
    ]
    images = np.repeat(np.array(images, np.float32), repeats, axis=0)
    images += sigma * np.random.default_rng(seed).standard_normal(images.shape, dtype=np.float32)
    ids = np.arange(len(images))
    return StampBatch(images, psf.drawImage(nx=48, ny=48, scale=SCALE).array, sigma, SCALE, ids, ids)


@given(st.floats(0, 0.99), st.floats(0, 2 * np.pi))
def test_distortion_to_shear_is_galsims(e, angle):
    e1, e2 = np.array([e * np.cos(angle)]), np.array([e * np.sin(angle)])
    g1, g2, _, _ = distortion_to_shear(e1, e2, np.array([0.1]))
    shear = galsim.Shear(e1=e1[0], e2=e2[0])
    np.testing.assert_allclose([g1[0], g2[0]], [shear.g1, shear.g2], atol=1e-12)


@given(st.floats(-0.65, 0.65), st.floats(-0.65, 0.65))
@example(5e-324, 5e-324)  # whose length is not that of a direction
def test_errors_are_carried_over_by_the_jacobian(e1, e2):
    step = 1e-6

    def shear(a, b):
        return np.array(distortion_to_shear(np.array([a]), np.array([b]), np.array([1.0]))[:2])[:, 0]

    jacobian = np.stack(
        [
            (shear(e1 + step, e2) - shear(e1 - step, e2)) / (2 * step),
            (shear(e1, e2 + step) - shear(e1, e2 - step)) / (2 * step),
        ],
        axis=1,
    )
    expected = np.sqrt(np.diag(jacobian @ jacobian.T))
    _, _, g1_err, g2_err = distortion_to_shear(np.array([e1]), np.array([e2]), np.array([1.0]))
    np.testing.assert_allclose([g1_err[0], g2_err[0]], expected, rtol=1e-6)


def test_impossible_distortions_are_not_numbers():
    values = np.array(distortion_to_shear(np.array([1.2]), np.array([0.0]), np.array([0.1])))
    assert np.isnan(values).all()


@pytest.mark.parametrize(("preset", "modulus"), [("hsm-regauss", 0.3), ("hsm-ksb", 0.06)])
def test_gaussians_on_a_gaussian_psf(preset, modulus):
    # Re-Gaussianisation is exact here but for the pixels; KSB is good to second order in g.
    shapes = modulus * np.array([(0.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.8, 0.6)])
    result = Hsm(**Hsm.presets[preset]).measure(_batch(shapes, sigma=1e-6))
    assert (result.flag == 0).all()
    np.testing.assert_allclose(np.stack([result.g1, result.g2], 1), shapes, atol=1e-3)


def test_errors_of_a_round_gaussian_are_its_scatter():
    batch = _batch([(0.0, 0.0)], sigma=3e-3, repeats=400)
    for preset in ("hsm-regauss", "hsm-ksb"):
        result = Hsm(**Hsm.presets[preset]).measure(batch)
        assert (result.flag == 0).all()
        # HSM's formula is for a Gaussian in the limit of weak noise: 10% and the 3.5% of 800 numbers.
        scatter = np.concatenate([result.g1, result.g2]).std()
        assert scatter == pytest.approx(np.median(result.g1_err), rel=0.2)


def test_failures_are_flagged_and_touch_nobody_else():
    batch = _batch([(0.1, 0.0), (0.1, 0.0)], sigma=1e-3)
    batch.images[0] = 0.0
    result = Hsm().measure(batch)
    assert result.flag.tolist() == [int(Flag.FAILED), 0]
    assert np.isnan(result.g1[0])
    assert result.g1[1] == pytest.approx(0.1, abs=0.02)


def test_each_stamp_may_have_its_own_psf():
    batch = _batch([(0.1, 0.0)], sigma=1e-6, repeats=2)
    wide = galsim.Gaussian(fwhm=0.7).drawImage(nx=48, ny=48, scale=SCALE).array
    each = StampBatch(
        batch.images, np.stack([batch.psf, wide]), batch.sigma, SCALE, batch.galaxy_id, batch.noise_id
    )
    one, own = Hsm().measure(batch), Hsm().measure(each)
    assert own.g1[0] == one.g1[0]
    assert own.g1[1] > one.g1[1] + 0.005  # a wider PSF is taken to have rounded the galaxy more
