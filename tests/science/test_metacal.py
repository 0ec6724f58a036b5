"""Metacalibration: sheared images, their noise, and the response."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import ClassVar

import galsim
import numpy as np
import pytest
import torch
from calibrated import assert_unbiased

from shearbench.config.reading import resolve
from shearbench.data.shapes import Flag, Shapes
from shearbench.data.stamps import StampBatch
from shearbench.errors import ConfigError
from shearbench.estimators.base import Estimator
from shearbench.estimators.metacal import Metacal
from shearbench.measurement.metacal import Kernel, gaussian_width, measure_response
from shearbench.measurement.trained_network import NetworkMeasurer

SCALE, SIZE = 0.2, 48
PSFS = {
    "gaussian": galsim.Gaussian(fwhm=0.6),
    "elliptical": galsim.Gaussian(fwhm=0.6).shear(g1=0.05, g2=-0.03),
    "moffat": galsim.Moffat(beta=2.5, fwhm=0.7),
}


class Moments(Estimator):
    """Gaussian-weighted second moments without PSF correction, a biased estimator to calibrate."""

    kind: ClassVar[str] = "moments"

    def measure(self, batch: StampBatch) -> Shapes:
        x = (np.arange(SIZE) - (SIZE - 1) / 2) * batch.pixel_scale
        weight = np.exp(-0.5 * (x[:, None] ** 2 + x**2) / 0.6**2) * batch.images.astype(np.float64)
        total = (weight * (x[:, None] ** 2 + x**2)).sum(axis=(1, 2))
        e1 = (weight * (x**2 - x[:, None] ** 2)).sum(axis=(1, 2)) / total
        e2 = (weight * (2 * x * x[:, None])).sum(axis=(1, 2)) / total
        flag = np.where(batch.galaxy_id == 3, int(Flag.NOT_CONVERGED), 0)
        return Shapes(e1, e2, np.zeros_like(e1), np.zeros_like(e1), flag, {"total": total})


def _draw(profile, psf, pixel=True):
    method = "auto" if pixel else "no_pixel"
    return galsim.Convolve(profile, psf).drawImage(nx=SIZE, ny=SIZE, scale=SCALE, method=method).array


def _galaxies(n=4, seed=0):
    rng = np.random.default_rng(seed)
    return [
        galsim.Gaussian(half_light_radius=rng.uniform(0.5, 0.9), flux=rng.uniform(1, 4))
        .shear(g1=rng.uniform(-0.3, 0.3), g2=rng.uniform(-0.3, 0.3))
        .shift(rng.uniform(-0.1, 0.1), rng.uniform(-0.1, 0.1))
        for _ in range(n)
    ]


def _batch(galaxies, psf, sigma=1e-12, noise_seed=0):
    images = np.array([_draw(galaxy, psf) for galaxy in galaxies], np.float32)
    images += sigma * np.random.default_rng(noise_seed).standard_normal(images.shape, dtype=np.float32)
    ids = np.arange(len(images))
    psf_image = psf.drawImage(nx=SIZE, ny=SIZE, scale=SCALE).array
    return StampBatch(images, psf_image, sigma, SCALE, ids, ids)


@pytest.mark.parametrize("name", ["gaussian", "elliptical"])
@pytest.mark.parametrize("shear", [(0.0, 0.0), (0.01, 0.0), (0.0, -0.01), (0.03, 0.02)])
def test_a_sheared_stamp_is_the_sheared_galaxy_under_the_new_psf(name, shear):
    galaxies = _galaxies()
    kernel = Kernel(_batch(galaxies, PSFS[name]), 0.01)
    sheared = kernel.shear(*shear)
    width = SCALE * gaussian_width(kernel.batch.psf[None])[0] * 1.02
    new_psf = galsim.Gaussian(sigma=width)
    expected = [_draw(g.shear(g1=shear[0], g2=shear[1]), new_psf, pixel=False) for g in galaxies]
    # Pixels of 0.1: five digits, as many as the single-precision PSF leaves after a division by 1e-3.
    np.testing.assert_allclose(sheared.images, expected, atol=2e-6)
    np.testing.assert_allclose(
        sheared.psf, new_psf.drawImage(nx=SIZE, ny=SIZE, scale=SCALE, method="no_pixel").array, atol=1e-7
    )


def test_the_new_psf_covers_the_old_one():
    psf = galsim.Gaussian(sigma=0.3).shear(g1=0.1, g2=0.0)
    width = gaussian_width(psf.drawImage(nx=SIZE, ny=SIZE, scale=SCALE, method="no_pixel").array[None])
    major = 0.3 * np.sqrt((1 + 0.1) / (1 - 0.1)) / SCALE
    np.testing.assert_allclose(width, [major], rtol=1e-4)


def test_a_psf_for_each_stamp_is_used_for_its_own():
    galaxies = _galaxies(2)
    one, two = (_batch([galaxy], PSFS[name]) for galaxy, name in zip(galaxies, ("gaussian", "moffat")))
    both = StampBatch(
        np.concatenate([one.images, two.images]),
        np.stack([one.psf, two.psf]),
        one.sigma,
        SCALE,
        np.arange(2),
        np.array([0, 0]),
    )
    together = Kernel(both, 0.01).shear(0.01, 0.0)
    for index, alone in enumerate((one, two)):
        expected = Kernel(alone, 0.01).shear(0.01, 0.0)
        np.testing.assert_allclose(together.images[index], expected.images[0], atol=1e-8)
        np.testing.assert_array_equal(together.psf[index], expected.psf)


def test_the_response_is_that_of_the_estimator_on_galaxies_that_are_sheared():
    galaxies, step = _galaxies(), 0.01
    batch = _batch(galaxies, PSFS["gaussian"])
    found = measure_response(Moments(), batch, step)
    new_psf = galsim.Gaussian(sigma=SCALE * gaussian_width(batch.psf[None])[0] * 1.02)

    def really(g1, g2):
        images = np.array([_draw(g.shear(g1=g1, g2=g2), new_psf, pixel=False) for g in galaxies])
        return Moments().measure(
            StampBatch(images, batch.psf, batch.sigma, SCALE, batch.galaxy_id, batch.noise_id)
        )

    p1, m1, p2, m2 = really(step, 0), really(-step, 0), really(0, step), really(0, -step)
    for i in (1, 2):
        for j, (plus, minus) in enumerate(((p1, m1), (p2, m2)), start=1):
            expected = (getattr(plus, f"g{i}") - getattr(minus, f"g{i}")) / (2 * step)
            np.testing.assert_allclose(found.extra[f"R{i}{j}"], expected, atol=2e-3)
    assert found.extra["R11"].mean() > 0.2
    assert set(found.extra) == {"R11", "R12", "R21", "R22", "total"}


def test_any_failure_of_the_five_is_one_of_the_stamp():
    batch = _batch(_galaxies(5), PSFS["gaussian"])
    assert measure_response(Moments(), batch).flag.tolist() == [0, 0, 0, int(Flag.NOT_CONVERGED), 0]


def test_sheared_noise_has_no_preferred_direction():
    n, shear = 400, 0.1
    noise = np.random.default_rng(3).standard_normal((n, SIZE, SIZE), dtype=np.float32)
    ids = np.arange(n)
    psf = PSFS["gaussian"].drawImage(nx=SIZE, ny=SIZE, scale=SCALE).array
    k = np.fft.fftfreq(SIZE)

    def quadrupole(images):
        power = (np.abs(np.fft.fft2(images)) ** 2).mean(axis=0)
        return (power * (k**2 - k[:, None] ** 2)).sum() / (power * (k**2 + k[:, None] ** 2)).sum()

    kernel = Kernel(StampBatch(noise, psf, 1.0, SCALE, ids, ids), shear)
    both = quadrupole(kernel.shear(shear, 0.0).images)
    kernel._images[n:] = 0
    alone = quadrupole(kernel.shear(shear, 0.0).images)
    assert abs(alone) > 0.02
    assert abs(both) < 0.1 * abs(alone)


def test_an_answer_depends_on_the_stamp_alone():
    batch = _batch(_galaxies(5), PSFS["moffat"], sigma=1e-3)
    together = measure_response(Moments(), batch)
    alone = measure_response(Moments(), batch.select(slice(4, 5)))
    np.testing.assert_allclose(together.g1[4:], alone.g1, atol=1e-9)
    np.testing.assert_allclose(together.extra["R11"][4:], alone.extra["R11"], atol=1e-6)


def test_stamps_must_be_square():
    batch = _batch(_galaxies(1), PSFS["gaussian"])
    oblong = StampBatch(batch.images[:, :40], batch.psf[:40], 1e-3, SCALE, batch.galaxy_id, batch.noise_id)
    with pytest.raises(ValueError, match="square"):
        measure_response(Moments(), oblong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "hsm-regaus"}, "did you mean 'hsm-regauss'"),
        ({"estimator": "metacal-hsm-regauss"}, "returns shapes"),
        ({"estimator": "hsm-regauss", "options": {"methode": "ksb"}}, "methode"),
        ({"estimator": "hsm-regauss", "step": 0}, "step"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Metacal(**options)


@pytest.mark.parametrize(
    ("estimator", "sigma"),
    [("hsm-regauss", 1e-5), pytest.param("mixture-gauss", 1e-3, marks=pytest.mark.slow)],
)
def test_metacal_is_unbiased(tmp_path, estimator, sigma):
    assert_unbiased(tmp_path, Metacal(estimator=estimator), 10 if sigma < 1e-4 else 40, sigma)


def test_a_network_is_measured_like_any_estimator():
    class Network(torch.nn.Module):
        """`Moments` with the interface of a network."""

        def forward(self, images, psf, sigma):
            assert psf.shape == images.shape[1:]
            sizes.add(len(images))
            ids = np.arange(len(images)) + 4
            stamps = StampBatch(images.numpy(), psf.numpy(), float(sigma), SCALE, ids, ids)
            found = Moments().measure(stamps)
            return SimpleNamespace(shapes=torch.from_numpy(np.stack([found.g1, found.g2], 1)))

    sizes = set()
    batch = _batch(_galaxies(3), PSFS["gaussian"])
    found = measure_response(NetworkMeasurer(Network()), batch)
    assert len(sizes) == 1
    NetworkMeasurer(Network()).measure(_batch(_galaxies(3) * 25, PSFS["gaussian"]))
    assert len(sizes) == 1, "rounding depends on the size of the batch"
    expected = measure_response(Moments(), batch)
    assert (found.flag == 0).all()
    np.testing.assert_allclose(found.g1, expected.g1, atol=1e-7)
    np.testing.assert_allclose(found.extra["R22"], expected.extra["R22"], atol=1e-4)


def test_a_network_must_be_one_of_the_run():
    given = {"populations": {"exp_gauss": {}}, "variants": {"pooled": {}}}
    with pytest.raises(ConfigError, match="did you mean 'pooled'"):
        resolve({**given, "estimators": {"metacal-network": {"network": "poled"}}})
    config = resolve({**given, "estimators": {"metacal-network": {}}})
    assert config.estimator("metacal-network").unavailable() is None


def test_it_is_available_where_the_estimator_inside_is(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "conda" in (Metacal(estimator="ngmix-gauss").unavailable() or "")
    assert Metacal(estimator="mixture-gauss").unavailable() is None


@pytest.mark.ngmix
@pytest.mark.parametrize("name", list(PSFS))
def test_images_are_those_of_ngmix(name):
    import ngmix

    batch = _batch(_galaxies(2), PSFS[name], sigma=1e-4)
    kernel = Kernel(batch, 0.01)
    kernel._images[len(batch) :] = 0  # the second noise is drawn otherwise in ngmix
    width = SCALE * gaussian_width(batch.psf[None])[0]
    jacobian = ngmix.DiagonalJacobian(row=(SIZE - 1) / 2, col=(SIZE - 1) / 2, scale=SCALE)
    weight = np.ones((SIZE, SIZE))
    for index, image in enumerate(batch.images):
        psf = ngmix.Observation(batch.psf.astype(float), weight=weight, jacobian=jacobian)
        observation = ngmix.Observation(image.astype(float), weight=weight, jacobian=jacobian, psf=psf)
        theirs = ngmix.metacal.get_all_metacal(
            observation,
            psf=galsim.Gaussian(sigma=width, flux=batch.psf.sum(dtype=float)),
            fixnoise=False,
            rng=np.random.RandomState(0),
            types=["noshear", "1p", "1m", "2p", "2m"],
        )
        shears = {"noshear": (0, 0), "1p": (0.01, 0), "1m": (-0.01, 0), "2p": (0, 0.01), "2m": (0, -0.01)}
        for kind, shear in shears.items():
            ours = kernel.shear(*map(float, shear)).images[index]
            # The two end the deconvolution at slightly other modes, which hold a tenth of the noise.
            assert np.std(ours - theirs[kind].image) < 0.1 * batch.sigma, kind


@pytest.mark.ngmix
def test_the_response_is_that_of_ngmix():
    from shearbench.estimators.ngmix import Ngmix, NgmixMetacal

    batch = _batch(
        [galsim.Exponential(half_light_radius=0.7, flux=3).shear(g1=0.1, g2=0.2)] * 6,
        PSFS["gaussian"],
        sigma=1e-6,
    )
    theirs = NgmixMetacal(model="gauss").measure(batch)
    ours = measure_response(Ngmix(model="gauss"), batch)
    assert (theirs.flag == 0).all()
    assert (ours.flag == 0).all()
    for name in ("R11", "R12", "R21", "R22"):
        # Noise of 5e-5 of the peak is added to the PSF image by ngmix; fits stop at 1e-5.
        np.testing.assert_allclose(ours.extra[name], theirs.extra[name], atol=3e-3)
    np.testing.assert_allclose(ours.g1, theirs.g1, atol=1e-3)


@pytest.mark.ngmix
@pytest.mark.parametrize(
    ("galaxies", "sigma"),
    [
        (4, 1e-5),
        pytest.param(40, 1e-5, marks=pytest.mark.slow),
        pytest.param(100, 1e-3, marks=pytest.mark.slow),
    ],
)
def test_metacal_of_ngmix_is_unbiased(tmp_path, galaxies, sigma):
    from shearbench.estimators.ngmix import NgmixMetacal

    estimator = NgmixMetacal(**NgmixMetacal.presets["ngmix-metacal"])
    assert_unbiased(tmp_path, estimator, galaxies, sigma, precision=1e-3)
