"""Parts of the mixture fit: model, derivatives, and stamps that cannot be fitted."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shearbench.data.observing import Observing
from shearbench.data.shapes import Flag
from shearbench.data.stamps import StampBatch
from shearbench.estimators.mixture import Mixture
from shearbench.measurement.mixture import batched
from shearbench.measurement.mixture.fit import _convolved, fit_galaxies, fit_psf, measure_shapes
from shearbench.measurement.mixture.kernels import SPAN, chain, correlate
from shearbench.measurement.mixture.models import components, covariance, model_image, parts

SCALE = 0.2
PSF = np.array([[0.6, 0.06, 0.004, 0.055], [0.4, 0.15, 0.01, 0.1375]])  # two Gaussians
TRUTH = np.array([0.03, -0.05, 0.15, -0.2, 0.9, 2.0])


def _psf_image(shape=(48, 48), mixture=PSF):
    """A star: a Gaussian without size, convolved with the PSF."""
    return model_image(np.array([0.0, 0, 0, 0, 0, 1]), mixture, shape, SCALE, "gauss")


def _truth(n, model):
    """Return parameters of different galaxies; the parts of a model have equal fluxes and different sizes."""
    pars, _ = _stamps(n)
    count = parts(model)
    sizes = pars[:, 4:5] * np.linspace(0.5, 2, count) if count > 1 else pars[:, 4:5]
    return np.concatenate([pars[:, :4], sizes, np.repeat(pars[:, 5:] / count, count, axis=1)], axis=1)


def _stamps(n, sigma=1e-3, model="exp", seed=1):
    rng = np.random.default_rng(seed)
    pars = np.tile(TRUTH, (n, 1))
    pars[:, :2] = rng.uniform(-0.1, 0.1, (n, 2))
    pars[:, 2:4] = rng.uniform(-0.4, 0.4, (n, 2))
    pars[:, 4] = rng.uniform(0.3, 1.5, n)
    images = model_image(pars, PSF, (48, 48), SCALE, model)
    return pars, (images + sigma * rng.standard_normal(images.shape)).astype(np.float32)


def _batch(images, psf=None, sigma=1e-3):
    ids = np.arange(len(images))
    psf = _psf_image().astype(np.float32) if psf is None else psf
    return StampBatch(images, psf, sigma, SCALE, ids, ids)


def test_errors_are_those_of_correlated_noise():
    n, sigma, observing, shape = 100, 1e-3, Observing(correlation=0.8, masked_fraction=0.05), (32, 32)
    rng, ids = np.random.default_rng(2), np.arange(n)
    truth = np.tile([0.0, 0.0, 0.1, -0.2, 0.4, 2.0], (n, 1))
    truth[:, :2] = rng.uniform(-0.1, 0.1, (n, 2))
    images = model_image(truth, PSF[:1], shape, SCALE, "gauss") + sigma * observing.unit_noise(1, ids, shape)
    batch = _batch(np.float32(images), _psf_image(shape, PSF[:1]).astype(np.float32), sigma)
    batch = replace(batch, mask=observing.masks(1, ids, shape))
    pulls = {}
    for correlation in (0.0, 0.8):
        found = measure_shapes(replace(batch, correlation=correlation), "gauss", "gauss", "none")
        assert (found.flag == 0).all()
        wrong = np.stack([found.g1 - truth[:, 2], found.g2 - truth[:, 3]])
        pulls[correlation] = np.sqrt(((wrong / np.stack([found.g1_err, found.g2_err])) ** 2).mean())
    assert pulls[0.0] > 1.4
    assert pulls[0.8] == pytest.approx(1, abs=4 / np.sqrt(4 * n))


@pytest.mark.parametrize(("model", "count"), [("gauss", 1), ("exp", 6), ("dev", 10)])
def test_profiles_are_normalised(model, count):
    weight, scale = components(model)
    assert len(weight) == count
    assert weight.sum() == pytest.approx(1)
    assert weight @ scale == pytest.approx(1)


def test_model_image_has_the_flux_the_centre_and_the_moments_of_its_parameters():
    row, col, g1, g2, size, flux = TRUTH
    image = model_image(TRUTH, PSF, (96, 96), SCALE, "gauss")
    x = SCALE * (np.arange(96) - 47.5)
    # The roll-off takes exp(-11) of every Gaussian's flux, and 12 times as much of its second moments.
    assert image.sum() == pytest.approx(flux, rel=3e-5)
    assert image.sum(1) @ x / image.sum() == pytest.approx(row, abs=1e-6)
    assert image.sum(0) @ x / image.sum() == pytest.approx(col, abs=1e-6)
    yy = image.sum(1) @ (x - row) ** 2 / image.sum()
    xx = image.sum(0) @ (x - col) ** 2 / image.sum()
    xy = (x - row) @ image @ (x - col) / image.sum()
    psf = PSF[:, 0] @ PSF[:, 1:]
    expected = covariance(np.float64(g1), np.float64(g2), np.float64(size)) + psf
    np.testing.assert_allclose([yy, xy, xx], expected, rtol=4e-4)
    e1, e2 = 2 * g1 / (1 + g1**2 + g2**2), 2 * g2 / (1 + g1**2 + g2**2)
    no_psf = np.array([yy, xy, xx]) - psf
    np.testing.assert_allclose(
        [(no_psf[2] - no_psf[0]) / size, 2 * no_psf[1] / size, no_psf[0] + no_psf[2]],
        [e1, e2, size],
        atol=5e-4,
    )


@settings(max_examples=25, deadline=None)
@given(
    st.floats(-2, 2),
    st.floats(-2, 2),
    st.floats(-0.6, 0.6),
    st.floats(-0.6, 0.6),
    st.floats(1, 60),
    st.sampled_from([(48, 48), (41, 45), (50, 33)]),
    st.sampled_from(["gauss", "exp"]),
)
def test_compiled_derivatives_are_those_of_the_image(row, col, g1, g2, size, shape, model):
    # In pixels. The kernel gives the products of the model, its derivatives and the data, summed over pixels.
    ny, nx = shape
    stride = -(-nx // 8) * 8
    psf = PSF / [1, *[SCALE**2] * 3]
    data = np.random.default_rng(0).standard_normal(shape)
    padded = np.zeros((ny, stride))
    padded[:, :nx] = data
    matrix = np.empty((7, 7))
    mean = covariance(np.float64(g1), np.float64(g2), np.float64(size))
    table = _convolved(model, psf[None])[0]
    assert correlate(padded.ravel(), ny, nx, stride, row, col, mean[None], table, np.empty(6 * SPAN), matrix)
    to_shape = np.empty((3, 3))
    chain(g1, g2, size, to_shape)
    basis = np.zeros((6, 6))  # value, row, col, g1, g2, T from the kernel's
    basis[:3, :3] = np.eye(3)
    basis[3:, 3:] = to_shape.T
    full = np.triu(matrix[:6, :6]) + np.triu(matrix[:6, :6], 1).T
    products, with_data = basis @ full @ basis.T, basis @ matrix[:6, 6]

    pars = np.array([row, col, g1, g2, size, 1.0])
    images = [model_image(pars, psf, shape, 1.0, model)]
    for index in range(5):
        step = 1e-4 * np.eye(6)[index]
        up, down = (model_image(pars + sign * step, psf, shape, 1.0, model) for sign in (1, -1))
        images.append((up - down) / 2e-4)
    flat = np.reshape(images, (6, -1))
    norms = np.linalg.norm(flat, axis=1)
    # Central differences of step 1e-4 are good to 1e-8 of the third derivative.
    np.testing.assert_allclose(
        products / np.outer(norms, norms), flat @ flat.T / np.outer(norms, norms), atol=1e-6
    )
    np.testing.assert_allclose(with_data / norms, flat @ data.ravel() / norms, atol=1e-5)


def test_psf_fit_finds_the_mixture_it_is_shown():
    shape = covariance(np.full(2, 0.05), np.full(2, -0.03), np.array([0.12, 0.5]))
    mixture = np.column_stack([[0.7, 0.3], shape])
    fit = fit_psf(_psf_image(mixture=mixture), SCALE, "coellip2")
    assert fit.good.all()
    order = np.argsort(fit.mixture[0, :, 1])
    np.testing.assert_allclose(fit.mixture[0, order], mixture, rtol=1e-4, atol=1e-6)  # float32 pixels
    assert fit.residual[0] < 1e-6


def test_auto_takes_one_gaussian_where_that_will_do():
    one = fit_psf(_psf_image(mixture=np.array([[1.0, 0.07, 0.0, 0.06]])), SCALE, "auto")
    three = fit_psf(_psf_image(), SCALE, "auto")
    assert (one.mixture[0, :, 0] > 0).sum() == 1
    assert one.residual[0] < 1e-6
    assert (three.mixture[0, :, 0] != 0).sum() == 3


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_every_number_of_psf_gaussians_improves_on_fewer(count):
    distance = (np.arange(48) - 23.5)[:, None] ** 2 + (np.arange(48) - 23.5) ** 2
    moffat = (1 + distance / 6) ** -2.5
    moffat /= moffat.sum()
    residual = [fit_psf(moffat, SCALE, f"coellip{k}").residual[0] for k in (max(count - 1, 1), count)]
    assert count == 1 or residual[1] < 0.5 * residual[0]


@pytest.mark.parametrize("prior", ["ba", "none"])
def test_batches_of_any_size_give_the_same_answers(prior):
    _, images = _stamps(7, sigma=1e-2)
    psf = fit_psf(_psf_image(), SCALE, "coellip2")
    whole = fit_galaxies(images, psf, 1e-2, SCALE, "exp", prior)
    for size in (1, 2, 3):
        pieces = [
            fit_galaxies(images[i : i + size], psf, 1e-2, SCALE, "exp", prior) for i in range(0, 7, size)
        ]
        np.testing.assert_array_equal(whole.pars, np.concatenate([piece.pars for piece in pieces]))
        np.testing.assert_array_equal(
            whole.covariance, np.concatenate([piece.covariance for piece in pieces])
        )


def test_a_psf_for_each_stamp_is_the_same_as_one_for_all():
    _, images = _stamps(3)
    image = _psf_image().astype(np.float32)
    one = Mixture().measure(_batch(images, image))
    each = Mixture().measure(_batch(images, np.stack([image] * 3)))
    np.testing.assert_array_equal(one.g1, each.g1)
    # Rounding of the covariance may hang on where in memory an array lies: seen at 2e-14.
    np.testing.assert_allclose(one.extra["T_err"], each.extra["T_err"], rtol=1e-12)


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (lambda stamp: stamp.__setitem__((3, 5), np.nan), Flag.BAD_PIXELS),
        (lambda stamp: stamp.__setitem__((40, 47), np.inf), Flag.BAD_PIXELS),
        (lambda stamp: stamp.fill(0), Flag.SINGULAR | Flag.OUT_OF_RANGE),
        (lambda stamp: stamp.fill(1e30), ~Flag.GOOD),
        (lambda stamp: np.multiply(stamp, 1e30, out=stamp), Flag.OUT_OF_RANGE),
    ],
)
def test_a_bad_stamp_is_flagged_and_leaves_its_neighbours_alone(spoil, cause):
    _, images = _stamps(5)
    expected = Mixture().measure(_batch(images))
    spoiled = images.copy()
    spoil(spoiled[2])
    result = Mixture().measure(_batch(spoiled))
    assert result.flag[2] & cause
    assert np.isnan([result.g1[2], result.g2_err[2], result.extra["flux"][2]]).all()
    others = [0, 1, 3, 4]
    assert (result.flag[others] == 0).all()
    np.testing.assert_array_equal(result.g1[others], expected.g1[others])
    np.testing.assert_array_equal(result.extra["T"][others], expected.extra["T"][others])


def test_a_bad_psf_is_flagged_and_leaves_the_others_alone():
    _, images = _stamps(3)
    psf = np.stack([_psf_image()] * 3).astype(np.float32)
    psf[1] = 0
    result = Mixture().measure(_batch(images, psf))
    assert result.flag.tolist() == [0, Flag.FAILED, 0]
    assert np.isnan(result.g1[1])


def test_without_a_prior_the_noise_level_does_not_matter():
    _, images = _stamps(4)
    psf = fit_psf(_psf_image(), SCALE, "coellip2")
    low, high = (fit_galaxies(images, psf, sigma, SCALE, "exp", "none") for sigma in (1e-5, 1e-2))
    np.testing.assert_allclose(low.pars, high.pars, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(low.covariance, high.covariance, rtol=1e-5, atol=1e-12)


def test_the_prior_pulls_shapes_inwards_where_the_data_say_little():
    _, images = _stamps(20, sigma=0.05)
    psf = fit_psf(_psf_image(), SCALE, "coellip2")
    with_prior, without = (fit_galaxies(images, psf, 0.05, SCALE, "exp", prior) for prior in ("ba", "none"))
    good = (with_prior.flag == 0) & (without.flag == 0)
    size = [np.hypot(fit.pars[good, 2], fit.pars[good, 3]).mean() for fit in (with_prior, without)]
    assert size[0] < 0.8 * size[1]


def test_what_cannot_be_is_refused():
    _, images = _stamps(3)
    psf = fit_psf(_psf_image(), SCALE, "gauss")
    with pytest.raises(ValueError, match="sigma is 0"):
        fit_galaxies(images, psf, 0.0, SCALE)
    two = fit_psf(np.stack([_psf_image()] * 2), SCALE, "gauss")
    with pytest.raises(ValueError, match="2 PSFs for 3 stamps"):
        fit_galaxies(images, two, 1e-3, SCALE)
    with pytest.raises(ValueError, match="600 pixels wide"):
        fit_psf(np.zeros((4, 600)), SCALE)
    with pytest.raises(ValueError, match="model"):
        Mixture(model="sersic")


def test_options_need_no_heavy_package():
    code = (
        "import sys, shearbench.estimators.mixture as m;"
        "m.Mixture(**m.Mixture.presets['mixture-gauss']);"
        "print(sorted({'numba', 'scipy', 'galsim', 'torch', 'h5py'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


@pytest.mark.slow
def test_just_compiled_and_loaded_from_the_cache_answer_alike(tmp_path):
    code = (
        "import numpy as np, sys; from shearbench.measurement.mixture.fit import fit_galaxies, fit_psf\n"
        "y, x = np.mgrid[-15.5:16, -15.5:16]; psf = np.exp(-(x**2 + y**2) / 8); psf /= psf.sum()\n"
        "noise = np.random.default_rng(1).normal(size=(20, 32, 32)) * 1e-4\n"
        "images = np.exp(-(x**2 + 0.3 * x * y + 2 * y**2) / 40) / 100 + noise\n"
        "fit = fit_galaxies(images, fit_psf(psf, 0.2), 1e-4, 0.2)\n"
        "sys.stdout.write(fit.pars.tobytes().hex())"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (
        subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, check=True, text=True
        ).stdout
        for _ in range(2)
    )
    assert list(tmp_path.rglob("*.nbc")), "nothing was cached"
    assert len(first) == 20 * 6 * 8 * 2
    assert first == second


@pytest.mark.parametrize(
    ("model", "prior", "sigma", "tolerance"),
    # Where all is noise, fits creep along valleys, and rounding moves where they stop.
    [
        ("exp", "ba", 1e-3, 1e-8),
        ("exp", "none", 1e-2, 1e-8),
        ("coellip2", "ba", 1e-4, 1e-7),
        ("gauss", "ba", 0.3, 2e-3),
    ],
)
def test_torch_fits_as_compiled_code_does(model, prior, sigma, tolerance):
    _, images = _stamps(24, sigma)
    images[3, 4, 5] = np.nan
    psf = fit_psf(_psf_image(), SCALE, "coellip2")
    one = fit_galaxies(images, psf, sigma, SCALE, model, prior)
    other = fit_galaxies(images, psf, sigma, SCALE, model, prior, torch.device("cpu"))
    np.testing.assert_array_equal(other.flag, one.flag)
    np.testing.assert_array_equal(other.iterations, one.iterations)
    errors = np.sqrt(np.einsum("nii->ni", one.covariance))
    np.testing.assert_allclose(other.pars / errors, one.pars / errors, rtol=1e-10, atol=tolerance)
    scale = errors[:, :, None] * errors[:, None]
    np.testing.assert_allclose(other.covariance / scale, one.covariance / scale, atol=10 * tolerance)
    np.testing.assert_allclose(other.chi2_per_dof, one.chi2_per_dof, rtol=1e-9)


@pytest.mark.parametrize(("model", "prior"), [("exp", "none"), ("coellip2", "ba")])
def test_torch_fails_where_compiled_code_does(model, prior):
    rng = np.random.default_rng(7)
    noise = rng.standard_normal((2, 48, 48))
    far = np.roll(_stamps(4, 1e-3)[1], 20, axis=2)
    images = np.stack([np.zeros((48, 48)), -np.abs(noise[0]), np.eye(48), *noise, *far]).astype(np.float32)
    mixtures = fit_psf(np.stack([_psf_image()] * 8 + [np.zeros((48, 48))]), SCALE, "coellip2")
    flags = [
        fit_galaxies(images, mixtures, 1e-3, SCALE, model, prior, d).flag for d in (None, torch.device("cpu"))
    ]
    np.testing.assert_array_equal(*flags)
    assert flags[0][0] != 0
    assert flags[0][8] == Flag.FAILED


def test_torch_takes_up_stamps_as_others_leave(monkeypatch):
    _, images = _stamps(9)
    psf = fit_psf(np.stack([_psf_image()] * 9), SCALE, "coellip2")
    whole = fit_galaxies(images, psf, 1e-3, SCALE, device=torch.device("cpu"))
    monkeypatch.setattr(batched, "_MOST", 2)
    few = fit_galaxies(images, psf, 1e-3, SCALE, device=torch.device("cpu"))
    np.testing.assert_allclose(few.pars, whole.pars, rtol=1e-9, atol=1e-11)
    np.testing.assert_array_equal(few.iterations, whole.iterations)


def test_the_gpu_of_a_job_is_used_unless_the_options_say_otherwise(monkeypatch):
    _, images = _stamps(3)
    batch = _batch(images, _psf_image().astype(np.float32))
    expected = Mixture().measure(batch)
    assert Mixture().batch_size() is None
    monkeypatch.setattr("shearbench.measurement.mixture.fit.job_gpu", lambda: torch.device("cpu"))
    calls = []
    fit = batched.fit_stamps
    monkeypatch.setattr(batched, "fit_stamps", lambda *a, **k: (calls.append(k["device"]), fit(*a, **k)))
    np.testing.assert_allclose(Mixture().measure(batch).g1, expected.g1, atol=1e-10)
    assert calls == [torch.device("cpu")]
    assert Mixture().batch_size() > 10000
    np.testing.assert_array_equal(Mixture(device="cpu").measure(batch).g1, expected.g1)
    assert len(calls) == 1
    assert Mixture(device="cpu").batch_size() is None


@pytest.mark.slow
def test_fused_drawing_is_drawing():
    centre = torch.randn(3, 2).double()
    weight, scale = torch.rand(3, 2, 1).double(), torch.rand(3, 2, 1).double()
    covariance = torch.tensor([2.0, 0.5, 3.0]).double().expand(3, 2, 1, 3) * (1 + scale[..., None])
    arguments = torch.arange(-8.0, 8).double(), torch.arange(-9.0, 9).double(), centre
    fused = batched._fused()(*arguments, weight, scale, covariance)
    drawn = batched._draw(*arguments, weight, scale, covariance)
    torch.testing.assert_close(fused, drawn, rtol=1e-12, atol=1e-14)


@pytest.mark.gpu
def test_a_gpu_fits_as_the_cpu_does():
    _, images = _stamps(2000)
    psf = fit_psf(_psf_image(mixture=np.array([[1.0, 0.07, 0.0, 0.06]])), SCALE, "gauss")
    gpu = torch.device("cuda")
    one, other = fit_galaxies(images, psf, 1e-3, SCALE), fit_galaxies(images, psf, 1e-3, SCALE, device=gpu)
    np.testing.assert_allclose(other.pars[:, 2:4], one.pars[:, 2:4], atol=1e-8)
