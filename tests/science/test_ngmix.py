"""The ngmix package as an estimator of this package."""

from __future__ import annotations

from pathlib import Path

import galsim
import h5py
import numpy as np
import pytest

from shearbench.data.shapes import Flag
from shearbench.data.stamps import StampBatch
from shearbench.estimators.ngmix import Ngmix

REFERENCE = Path(__file__).parents[1] / "data" / "ngmix_reference.h5"
SCALE = 0.2

pytestmark = pytest.mark.ngmix


def _batch(images, psf, sigma, first=0):
    ids = np.arange(first, first + len(images))
    return StampBatch(np.asarray(images, np.float32), np.asarray(psf, np.float32), sigma, SCALE, ids, ids)


def _exponentials(n, sigma, psf=None, seed=3):
    """Return a batch and the true (g1, g2, hlr, flux, dx, dy)."""
    psf = psf or galsim.Gaussian(fwhm=0.6)
    rng = np.random.default_rng(seed)
    truth = np.column_stack(
        [
            rng.uniform(-0.3, 0.3, (n, 2)),
            rng.uniform(0.5, 1.0, n),
            rng.uniform(1, 5, n),
            rng.uniform(-0.1, 0.1, (n, 2)),
        ]
    )
    images = np.empty((n, 48, 48), np.float32)
    for image, (g1, g2, hlr, flux, dx, dy) in zip(images, truth):
        galaxy = galsim.Exponential(half_light_radius=hlr, flux=flux).shear(g1=g1, g2=g2).shift(dx, dy)
        galsim.Convolve(galaxy, psf).drawImage(galsim.Image(image, scale=SCALE))
    images += sigma * rng.standard_normal(images.shape, dtype=np.float32)
    return _batch(images, psf.drawImage(nx=48, ny=48, scale=SCALE).array, sigma), truth


def test_the_truth_within_the_quoted_errors():
    sigma = 1e-3
    batch, truth = _exponentials(150, sigma)
    result = Ngmix(model="exp").measure(batch)
    assert (result.flag == 0).all()
    values = np.column_stack(
        [result.g1, result.g2, result.extra["flux"], result.extra["col"], result.extra["row"]]
    )
    pulls = (values[:, :2] - truth[:, :2]) / np.column_stack([result.g1_err, result.g2_err])
    assert pulls.std() == pytest.approx(1, abs=0.13)  # three times the scatter of 300 pulls' width
    assert abs(pulls.mean()) < 0.18
    np.testing.assert_allclose(np.median(values[:, 2] / truth[:, 3]), 1, atol=2e-3)
    assert np.abs(values[:, 3:] - truth[:, 4:]).max() < 0.02  # arcsec; columns grow with +x, rows with +y
    hlr = np.sqrt(result.extra["T"] / 2.085 * (1 - (g2 := np.sum(truth[:, :2] ** 2, 1))) / (1 + g2))
    np.testing.assert_allclose(np.median(hlr / truth[:, 2]), 1, atol=3e-3)


def test_a_wrong_model_has_a_floor():
    batch, truth = _exponentials(20, 1e-5)
    right, wrong = (
        np.hypot(r.g1 - truth[:, 0], r.g2 - truth[:, 1])
        for r in (Ngmix(model=m).measure(batch) for m in ("exp", "gauss"))
    )
    assert np.median(wrong) > 20 * np.median(right)


def test_an_answer_depends_on_the_stamp_alone():
    batch, _ = _exponentials(6, 1e-2)
    estimator = Ngmix(model="exp")
    together = estimator.measure(batch)
    backwards = estimator.measure(batch.select(np.arange(6)[::-1]))
    alone = estimator.measure(batch.select(slice(4, 5)))
    np.testing.assert_array_equal(together.g1, backwards.g1[::-1])
    np.testing.assert_array_equal(together.extra["s2n"][4:5], alone.extra["s2n"])
    each = StampBatch(
        batch.images, np.repeat(batch.psf[None], 6, 0), batch.sigma, SCALE, batch.galaxy_id, batch.noise_id
    )
    np.testing.assert_array_equal(together.g1, estimator.measure(each).g1)


@pytest.mark.parametrize(
    ("psf", "model", "gaussians"),
    [
        (galsim.Gaussian(fwhm=0.6), "auto", 1),
        (galsim.Gaussian(fwhm=0.6).shear(g1=0.05), "auto", 1),
        (galsim.Kolmogorov(fwhm=0.7), "auto", 3),
        (galsim.Moffat(beta=2.5, fwhm=0.7), "auto", 3),
        (galsim.Moffat(beta=2.5, fwhm=0.7), "gauss", 1),
        (galsim.Moffat(beta=2.5, fwhm=0.7), "coellip4", 4),
        (galsim.Moffat(beta=2.5, fwhm=0.7), "em", 5),
    ],
)
def test_the_psf_model(psf, model, gaussians):
    image = psf.drawImage(nx=48, ny=48, scale=SCALE).array
    observation = Ngmix(psf_model=model).fitter(SCALE).psf(image)
    assert len(observation.gmix) == gaussians
    assert observation.weight.min() > 0


def test_the_psf_model_matters_where_the_psf_is_no_gaussian():
    batch, truth = _exponentials(12, 1e-5, psf=galsim.Moffat(beta=2.5, fwhm=0.7))
    auto, gauss = (
        np.hypot(r.g1 - truth[:, 0], r.g2 - truth[:, 1])
        for r in (Ngmix(psf_model=m).measure(batch) for m in ("auto", "gauss"))
    )
    assert np.median(auto) < 1e-3
    assert np.median(gauss) > 1e-2


def test_the_prior_holds_noise_back():
    batch, _ = _exponentials(25, 0.1)
    free, held = (Ngmix(prior=prior).measure(batch) for prior in ("none", "standard"))
    good = (free.flag == 0) & (held.flag == 0)
    assert np.hypot(held.g1, held.g2)[good].mean() < 0.7 * np.hypot(free.g1, free.g2)[good].mean()


def test_spergel_follows_the_concentration():
    psf = galsim.Moffat(beta=2.5, fwhm=0.7)
    galaxy = galsim.Sersic(n=2.5, half_light_radius=0.8, flux=3).shear(g1=0.2, g2=-0.1)
    image = galsim.Convolve(galaxy, psf).drawImage(nx=48, ny=48, scale=SCALE).array
    noise = 1e-5 * np.random.default_rng(0).standard_normal(image.shape)
    batch = _batch([image + noise], psf.drawImage(nx=48, ny=48, scale=SCALE).array, 1e-5)
    spergel, exp = Ngmix(model="spergel").measure(batch), Ngmix(model="exp").measure(batch)
    assert spergel.flag[0] == 0
    assert abs(spergel.g1[0] - 0.2) < 2e-3
    assert abs(spergel.g1[0] - 0.2) < 0.3 * abs(exp.g1[0] - 0.2)
    assert -0.8 < spergel.extra["nu"][0] < 0.5  # steeper than the exponential's 0.5


def test_failures_are_flagged_and_touch_nobody_else():
    batch, _ = _exponentials(3, 1e-3)
    psf = np.repeat(batch.psf[None], 3, 0)
    psf[1] = 0.0
    broken = StampBatch(batch.images, psf, batch.sigma, SCALE, batch.galaxy_id, batch.noise_id)
    result = Ngmix().measure(broken)
    assert result.flag.tolist() == [0, int(Flag.FAILED), 0]
    assert np.isnan(result.g1[1])


def test_every_ngmix_flag_has_a_cause():
    import ngmix

    from shearbench.measurement.ngmix import cause_of

    assert cause_of(0) == Flag.GOOD
    for bit in ngmix.flags.NAME_MAP:
        assert cause_of(bit) != Flag.GOOD
    assert cause_of(ngmix.flags.MAXITER) == Flag.NOT_CONVERGED
    assert (
        cause_of(ngmix.flags.LM_SINGULAR_MATRIX | ngmix.flags.MAXITER) == Flag.SINGULAR | Flag.NOT_CONVERGED
    )


@pytest.mark.skipif(not REFERENCE.exists(), reason=f"{REFERENCE.name} is not there")
def test_the_pinned_numbers_of_ngmix():
    """Direct calls of ngmix on the same pixels agree; only the starts of the fits differ."""
    compared = 0
    with h5py.File(REFERENCE) as file:
        for group in file.values():
            for noise, level in ((n, g) for n, g in group.items() if n.startswith("sigma_")):
                sigma = float(noise.removeprefix("sigma_"))
                batch = _batch(level["images"][:], group["psf_image"][:], sigma)
                for name, fit in ((n, f) for n, f in level.items() if "-psf_" in n):
                    model, psf_model, prior = name.replace("psf_", "").split("-")
                    options = Ngmix(
                        model=model, psf_model=psf_model, prior="standard" if prior == "prior" else "none"
                    )
                    result = options.measure(batch)
                    good = (fit["flags"][:] == 0) & (result.flag == 0)
                    assert good.mean() > 0.9
                    found = np.column_stack([result.g1, result.g2])[good]
                    error = np.column_stack([result.g1_err, result.g2_err])[good]
                    pinned, pinned_error = fit["pars"][:][good, 2:4], fit["pars_err"][:][good, 2:4]
                    # Both stop at a relative change of 1e-5: within 2% of an error of each other.
                    assert np.median(np.abs(found - pinned) / pinned_error) < 0.02, (noise, name)
                    assert np.median(np.abs(error / pinned_error - 1)) < 0.01, (noise, name)
                    compared += 1
    assert compared
