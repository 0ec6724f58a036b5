"""The mixture fit compared with stored results of ngmix; its errors compared with its scatter."""

from __future__ import annotations

from pathlib import Path

import galsim
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shearbench.data.shapes import Flag
from shearbench.data.stamps import StampBatch
from shearbench.estimators import make_estimator
from shearbench.measurement.mixture.fit import fit_galaxies, fit_psf
from shearbench.measurement.mixture.models import model_image
from shearbench.simulation.catalog import sample_catalog
from shearbench.simulation.galsim_stamps import draw_stamps
from shearbench.simulation.populations import Population

REFERENCE = Path(__file__).parents[1] / "data" / "ngmix_reference.h5"
SCALE = 0.2
MATCHED = {("exp_gausspsf", "exp"), ("gauss_gausspsf", "gauss")}


def _cases():
    with h5py.File(REFERENCE) as file:
        for name, population in file.items():
            for level in ("1e-05", "0.001", "0.01"):
                for fit in population[f"sigma_{level}"]:
                    if fit != "images":
                        model, psf, prior = fit.split("-")
                        yield name, level, model, psf.removeprefix("psf_"), prior


CASES = list(_cases())


def _compare(name, level, model, psf_model, prior):
    """Return our fit, ngmix's parameters, errors and flags, and the objective as a function of parameters."""
    with h5py.File(REFERENCE) as file:
        level_group = file[name][f"sigma_{level}"]
        images, psf_image = level_group["images"][:], file[name]["psf_image"][:]
        reference = {
            key: values[:] for key, values in level_group[f"{model}-psf_{psf_model}-{prior}"].items()
        }
    sigma = float(level)
    psf = fit_psf(psf_image, SCALE, psf_model)
    fit = fit_galaxies(images, psf, sigma, SCALE, model, "ba" if prior == "prior" else "none")

    def objective(pars):
        total = ((images - model_image(pars, psf.mixture, (48, 48), SCALE, model)) ** 2).sum(
            (1, 2)
        ) / sigma**2
        if prior == "prior":
            gg = pars[:, 2] ** 2 + pars[:, 3] ** 2
            total += (pars[:, 0] ** 2 + pars[:, 1] ** 2) / 0.2**2 + gg / 0.3**2 - 4 * np.log1p(-gg)
        return total

    return fit, reference, objective


@pytest.mark.parametrize("case", [case for case in CASES if (case[0], case[2]) in MATCHED], ids="-".join)
def test_agrees_with_ngmix_where_its_model_is_right(case):
    fit, reference, _ = _compare(*case)
    assert (fit.flag == 0).all()
    difference = np.abs(fit.pars - reference["pars"])
    difference[:, 4:] /= np.abs(reference["pars"][:, 4:])
    errors = np.sqrt(np.einsum("nii->ni", fit.covariance))
    _, level, _, _, prior = case
    if prior == "noprior" and level == "1e-05":
        for values in (difference[:, 2:4], difference[:, 4], difference[:, 5]):
            assert np.median(values) <= 1e-6
            assert np.percentile(values, 99) <= 1e-5
    if prior == "noprior" and level == "0.001":
        for values in (difference[:, 2:4], difference[:, 4], difference[:, 5]):
            assert np.median(values) <= 5e-6
    if level != "0.01":
        np.testing.assert_allclose(errors, reference["pars_err"], rtol=1e-2)
    in_errors = np.abs(fit.pars - reference["pars"]) / reference["pars_err"]
    assert np.median(in_errors) <= 0.02
    # Little signal and no prior: ngmix stops elsewhere in a flat valley for each seed, see below.
    if (level, prior) != ("0.01", "noprior"):
        assert np.percentile(in_errors, 90) <= 0.05
    np.testing.assert_allclose(np.median(errors / reference["pars_err"], axis=0), 1, rtol=1e-2)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_fits_no_worse_than_ngmix_and_fails_no_more(case):
    # With a wrong model, or little signal, ngmix stops where chi^2 falls by less than 1e-5 of itself: up to a
    # tenth of an error away from the best fit, a different tenth for each seed, and at times in another
    # minimum. What can be asked everywhere is that our end is at least as good.
    fit, reference, objective = _compare(*case)
    good = reference["flags"] == 0
    assert (fit.flag[good] == 0).all()
    ours, theirs = objective(fit.pars)[good], objective(reference["pars"])[good]
    assert (ours <= theirs + 2e-3 + 1e-9 * theirs).all()
    in_errors = (np.abs(fit.pars - reference["pars"]) / reference["pars_err"])[good]
    assert np.median(in_errors) <= 0.05


shapes = st.builds(
    lambda g, angle: (g * np.cos(angle), g * np.sin(angle)), st.floats(0, 0.6), st.floats(0, 2 * np.pi)
)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.floats(-0.15, 0.15), st.floats(-0.15, 0.15)),
    shapes,
    st.floats(0.1, 2.0),
    st.floats(0.1, 100.0),
    st.sampled_from(["gauss", "exp", "dev"]),
    st.sampled_from(["gauss", "coellip3"]),
)
def test_finds_the_parameters_of_its_own_noiseless_images(centre, shape, size, flux, model, psf_model):
    pars = np.array([*centre, *shape, size, flux])
    beta = 2.5 if psf_model == "coellip3" else 50
    distance = (np.arange(48) - 23.5)[:, None] ** 2 + (np.arange(48) - 23.5) ** 2
    psf = fit_psf((1 + distance / (3.4 * beta)) ** -beta, SCALE, psf_model)
    image = model_image(pars, psf.mixture, (48, 48), SCALE, model)
    fit = fit_galaxies(image[None], psf, 1e-5, SCALE, model, "none")
    assert fit.flag[0] == 0
    np.testing.assert_allclose(fit.pars[0], pars, rtol=2e-5, atol=2e-6)  # float32 pixels
    assert fit.iterations[0] < 30


@pytest.mark.parametrize(("profile", "model"), [(galsim.Gaussian, "gauss"), (galsim.Exponential, "exp")])
def test_quoted_errors_are_the_scatter_of_the_estimates(profile, model):
    # GalSim's images, which no mixture draws exactly. 1200 fits: their scatter is known to 1.4%.
    psf = galsim.Gaussian(fwhm=0.6)
    sigma, repeats = 3e-3, 200
    rng = np.random.default_rng(8)
    psf_fit = fit_psf(psf.drawImage(nx=48, ny=48, scale=SCALE).array, SCALE)
    pulls, covered = [], []
    for g1, g2, hlr, flux in [
        (0.0, 0.0, 0.6, 2.0),
        (0.2, -0.1, 0.8, 3.0),
        (-0.3, 0.2, 0.7, 3.0),
        (0.1, 0.4, 0.9, 4.0),
        (0.05, 0.0, 1.1, 5.0),
        (-0.1, -0.2, 0.5, 1.0),
    ]:
        galaxy = (
            profile(half_light_radius=hlr, flux=flux).shear(g1=g1, g2=g2).shift(*rng.uniform(-0.1, 0.1, 2))
        )
        image = galsim.Convolve(galaxy, psf).drawImage(nx=48, ny=48, scale=SCALE).array
        images = image + sigma * rng.standard_normal((repeats, 48, 48), dtype=np.float32)
        fit = fit_galaxies(images, psf_fit, sigma, SCALE, model, "none")
        assert (fit.flag == 0).all()
        errors = np.sqrt(np.einsum("nii->ni", fit.covariance))[:, 2:4]
        pulls.append((fit.pars[:, 2:4] - fit.pars[:, 2:4].mean(0)) / errors)
        covered.append(np.abs(fit.pars[:, 2:4] - [g1, g2]) < errors)
        assert fit.chi2_per_dof.mean() == pytest.approx(1, abs=5 * np.sqrt(2 / 2298 / repeats))
    assert np.std(pulls) == pytest.approx(1, abs=0.06)
    assert np.mean(covered) == pytest.approx(0.683, abs=0.03)


@pytest.mark.ngmix
@pytest.mark.parametrize("model", ["gauss", "exp", "dev"])
def test_agrees_with_ngmix_run_to_full_convergence(model):
    ngmix = pytest.importorskip("ngmix")
    with h5py.File(REFERENCE) as file:
        images = file["exp_gausspsf/sigma_1e-05/images"][:6]
        psf_image = file["exp_gausspsf/psf_image"][:]
    rng = np.random.RandomState(3)
    tight = {"maxfev": 4000, "ftol": 1e-13, "xtol": 1e-13}
    jacobian = ngmix.DiagonalJacobian(row=23.5, col=23.5, scale=SCALE)
    psf = ngmix.Observation(psf_image, weight=np.full((48, 48), 1e10), jacobian=jacobian)
    ngmix.runners.PSFRunner(
        ngmix.fitting.Fitter("gauss", fit_pars=tight), ngmix.guessers.SimplePSFGuesser(rng=rng), ntry=4
    ).go(psf)
    runner = ngmix.runners.Runner(
        ngmix.fitting.Fitter(model, fit_pars=tight), ngmix.guessers.TPSFFluxGuesser(rng=rng, T=0.5), ntry=4
    )
    fit = fit_galaxies(images, fit_psf(psf_image, SCALE, "gauss"), 1e-5, SCALE, model, "none")
    for image, pars, covariance in zip(images, fit.pars, fit.covariance):
        observation = ngmix.Observation(
            image.astype(float), weight=np.full((48, 48), 1e10), jacobian=jacobian, psf=psf
        )
        result = runner.go(observation)
        assert result["flags"] == 0
        # ngmix's exponential is good to 2e-6.
        np.testing.assert_allclose(pars[:4], result["pars"][:4], atol=1e-6)
        np.testing.assert_allclose(pars[4:], result["pars"][4:], rtol=1e-5)
        np.testing.assert_allclose(np.sqrt(np.diag(covariance)), result["pars_err"], rtol=2e-3)


@pytest.mark.ngmix
def test_agrees_with_ngmix_on_galaxies_of_free_gaussians():
    ngmix = pytest.importorskip("ngmix")
    psf_image = galsim.Gaussian(fwhm=0.7).drawImage(nx=48, ny=48, scale=SCALE).array
    psf_fit = fit_psf(psf_image, SCALE, "gauss")
    truth = np.array(
        [[0.03, -0.05, 0.15, -0.2, 0.3, 1.5, 0.8, 1.2], [0.0, 0.1, -0.1, 0.05, 0.5, 2.5, 1.0, 1.0]]
    )
    images = model_image(truth, psf_fit.mixture, (48, 48), SCALE, "coellip2")
    images += 1e-4 * np.random.default_rng(4).standard_normal(images.shape)
    images = images.astype(np.float32)
    fit = fit_galaxies(images, psf_fit, 1e-4, SCALE, "coellip2", "none")
    jacobian = ngmix.DiagonalJacobian(row=23.5, col=23.5, scale=SCALE)
    psf = ngmix.Observation(psf_image, weight=np.full((48, 48), 1e10), jacobian=jacobian)
    tight = {"maxfev": 4000, "ftol": 1e-13, "xtol": 1e-13}
    guesser = ngmix.guessers.SimplePSFGuesser(rng=np.random.RandomState(3))
    ngmix.runners.PSFRunner(ngmix.fitting.Fitter("gauss", fit_pars=tight), guesser, ntry=4).go(psf)
    assert (fit.flag == 0).all()
    for image, pars, covariance, start in zip(images, fit.pars, fit.covariance, truth):
        observation = ngmix.Observation(
            image.astype(float), weight=np.full((48, 48), 1e8), jacobian=jacobian, psf=psf
        )
        result = ngmix.fitting.CoellipFitter(2, fit_pars=tight).go(obs=observation, guess=start * 1.02)
        assert result["flags"] == 0
        np.testing.assert_allclose(pars[:4], result["pars"][:4], atol=2e-6)
        np.testing.assert_allclose(pars[4:], result["pars"][4:], rtol=1e-5)
        np.testing.assert_allclose(np.sqrt(np.diag(covariance)), result["pars_err"], rtol=5e-3)


@pytest.mark.parametrize("kind", ["mixture", pytest.param("ngmix", marks=pytest.mark.ngmix)])
@pytest.mark.parametrize("model", ["exp", "gauss"])
def test_without_a_prior_a_negative_size_is_flagged(tmp_path, kind, model):
    options = Population(profile="exponential", half_light_radius_arcsec=(0.02, 0.15))
    galaxies = 40 if kind == "ngmix" else 300
    catalog = sample_catalog(options, "small", "test", galaxies, 1, 0.2)
    ((images, psf),) = draw_stamps(catalog, options, (48, 48), 0.2, block=galaxies)
    noise = 1e-2 * np.random.default_rng(1).standard_normal(images.shape)
    ids = np.arange(galaxies)
    batch = StampBatch((images + noise).astype(np.float32), psf, 1e-2, 0.2, ids, ids)
    free, held = (
        make_estimator({"kind": kind, "model": model, "prior": prior}).measure(batch)
        for prior in ("none", "standard" if kind == "ngmix" else "ba")
    )
    flagged = free.flag == Flag.OUT_OF_RANGE
    assert 0.02 < flagged.mean() < 0.3
    assert (free.extra["T"][free.flag == 0] > 0).all()
    # With the prior these galaxies get a shape near zero, and keep it.
    assert (held.flag == 0).all()
    narrow = held.extra["T"] <= 0
    assert narrow.any()
    assert np.hypot(held.g1, held.g2)[narrow].mean() < 0.25
