"""Gauss-Newton steps: order, gradient, errors, symmetry, and extreme inputs."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from shearbench.bounds.fisher import fisher
from shearbench.data.catalogs import PARAMETER_COLUMNS
from shearbench.forward_model.fourier import FLUX, G1, HLR, SERSIC_N, G, Grid, Renderer
from shearbench.networks.modules import dihedral
from shearbench.networks.modules.bodies import Normalised
from shearbench.networks.modules.refinement import Refinement
from shearbench.networks.terms import LEVELS
from shearbench.simulation.catalog import sample_catalog
from shearbench.simulation.galsim_stamps import draw_stamps
from shearbench.simulation.populations import PRESETS, Population
from shearbench.training.recipe import Recipe
from shearbench.training.variants import resolve_variant

SIDE, SCALE = 24, 0.3
SPREAD = {"exponential": [0.3, 0.08, 0.08, 0.2, 0.2, 0.2], "sersic": [0.3, 0.08, 0.08, 0.2, 0.2, 0.2, 0.8]}


@pytest.fixture(autouse=True)
def _own_random_state():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        yield


def truths(n, profile, dtype=torch.float64):
    low = torch.tensor([1.0, -0.15, -0.15, 0.5, -0.35, -0.35, 1.0], dtype=dtype)
    high = torch.tensor([5.0, 0.15, 0.15, 1.0, 0.35, 0.35, 3.0], dtype=dtype)
    count = len(SPREAD[profile])
    return low[:count] + (high - low)[:count] * torch.rand(n, count, dtype=dtype)


def refinement(profile="exponential", steps=1, damping=-60.0):
    """Return an untrained refinement with one damping for all parameters; exp(-60) is no damping."""
    made = Refinement(profile, (SIDE, SIDE), SCALE, steps, 1.0, Grid(40)).double()
    nn.init.constant_(made.damping[-1].bias, damping)
    made.fit(
        torch.tensor(SPREAD[profile]).double(),
        torch.tensor([1.0, 0, 0, 0.75, 0, 0, 2]).double()[: len(made.names)],
    )
    return made


def psf_image(g1=0.05, g2=-0.03):
    renderer = Renderer("gaussian", (SIDE, SIDE), SCALE, Grid(48, 3.0), torch.float64)
    point = torch.tensor([[1.0, 0, 0, 1e-4, 0, 0]], dtype=torch.float64)
    return renderer(point, renderer.psf({"profile": "gaussian"}, 0.7, g1, g2))[0]


def noiseless(model, truth, psf, sigma=1e-3):
    """Return stamps of galaxies of the model, and a mean of zero, which the refinement does not use."""
    with torch.no_grad():
        images = model.renderer(truth, model.renderer.psf_image(psf))
    return normalised(images, psf, truth[:, FLUX], sigma)


def normalised(images, psf, flux, sigma):
    level = torch.zeros(len(images), LEVELS, dtype=images.dtype)
    return Normalised(images, psf, torch.zeros_like(images[0]), flux, flux, sigma / flux, level)


@pytest.mark.parametrize("profile", ["exponential", "sersic"])
def test_undamped_each_step_squares_the_error(profile):
    model, truth = refinement(profile), truths(6, profile)
    stamps = noiseless(model, truth, psf_image())
    way = torch.randn_like(truth) * torch.tensor(SPREAD[profile]).double()
    way[:, FLUX] *= truth[:, FLUX]
    errors = []
    with torch.no_grad():
        for size in (0.04, 0.02, 0.01):
            shapes, _ = model(truth + size * way, stamps)
            errors.append((shapes - truth[:, G]).norm(dim=1))
    for coarse, fine in itertools.pairwise(errors):
        # Half the error before is a quarter after; 5 where terms of third order still count.
        assert ((coarse / fine > 3.4) & (coarse / fine < 5)).all()
    two = refinement(profile, steps=2)(truth + 0.04 * way, stamps)[0]
    assert ((two - truth[:, G]).norm(dim=1) < 0.02 * errors[0]).all()


def test_its_gradient_is_that_of_finite_differences_where_nothing_is_left_to_explain():
    model, truth = refinement(damping=6.0), truths(4, "exponential")
    stamps = noiseless(model, truth, psf_image(), sigma=1e-2)
    guess = truth.clone().requires_grad_()
    # Each stamp's answer depends on its own guess alone.
    gradients = [torch.autograd.grad(model(guess, stamps)[0][:, k].sum(), guess)[0] for k in (0, 1)]
    assert gradients[0][:, G1].min() > 0.001  # damped: some of the guess is left
    for parameter in range(6):
        step = torch.zeros_like(truth)
        step[:, parameter] = 1e-4
        with torch.no_grad():
            ahead, behind = (model(truth + sign * step, stamps)[0] for sign in (1, -1))
        difference = (ahead - behind) / 2e-4
        found = torch.stack([gradient[:, parameter] for gradient in gradients], 1)
        torch.testing.assert_close(found, difference, rtol=1e-4, atol=1e-6)


def test_its_errors_are_those_of_the_fisher_matrix():
    population = Population(**PRESETS["exp_gauss"])
    catalog = sample_catalog(population, "exp_gauss", "train", 8, 1, SCALE)
    _, psf = next(draw_stamps(catalog, population, (SIDE, SIDE), SCALE))
    matrices, names = fisher(catalog, SCALE, (SIDE, SIDE))
    bound = np.sqrt(np.linalg.inv(matrices).diagonal(axis1=1, axis2=2))[
        :, [names.index("g1"), names.index("g2")]
    ]
    model = refinement()
    truth = torch.from_numpy(catalog[[PARAMETER_COLUMNS[name] for name in names]].to_numpy())
    sigma = 1e-4
    stamps = noiseless(model, truth, torch.from_numpy(psf).double(), sigma)
    # The PSF's image is cut at the Nyquist frequency; the bound knows its formula.
    np.testing.assert_allclose(model(truth, stamps)[1].detach(), bound * sigma, rtol=5e-3)


@pytest.mark.parametrize("population", ["exp_gauss", "sersic_moffat"])
def test_one_step_arrives_at_the_shapes_that_galsim_drew(population):
    options = Population(**PRESETS[population])
    catalog = sample_catalog(options, population, "test", 100, 3, 0.2)
    images, psf = next(draw_stamps(catalog, options, (48, 48), 0.2))
    architecture = resolve_variant("refined", {}, Recipe()).make().adapted(options)
    model = architecture.refinement((48, 48), 0.2)
    nn.init.constant_(model.damping[-1].bias, -60.0)  # nothing of the guess is kept
    truth = torch.from_numpy(catalog[[PARAMETER_COLUMNS[name] for name in model.names]].to_numpy()).float()
    guess = truth + 1e-4 * torch.randn_like(truth)
    level, sigma = torch.zeros(len(truth), LEVELS), torch.tensor(1e-5)
    images, psf = torch.from_numpy(images), torch.from_numpy(psf)
    stamps = Normalised(
        images, psf, images.mean(0), truth[:, FLUX], truth[:, FLUX], sigma / truth[:, FLUX], level
    )
    with torch.no_grad():
        shapes, bound = model(guess, stamps)
    error = (shapes - truth[:, G]) / bound
    # Of the bound at a noise of 1e-5: what it adds to the RMSE is half its square.
    assert error.square().mean().sqrt() < 0.15


def test_damping_is_as_a_prior_of_that_precision():
    model, truth = refinement(damping=50.0), truths(5, "exponential")
    stamps, guess = noiseless(model, truth, psf_image()), truth * 1.05
    shapes, error = model(guess, stamps)
    torch.testing.assert_close(shapes, guess[:, G], rtol=0, atol=1e-9)
    torch.testing.assert_close(error, torch.full_like(error, 0.2 * np.exp(-25)), rtol=1e-6, atol=2e-7)


def test_what_is_learned_prefers_no_direction():
    model, truth = refinement(damping=3.0), truths(5, "exponential")
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.3)
    psf = psf_image()
    stamps = noiseless(model, truth, psf, sigma=0.05)
    stamps = stamps._replace(images=stamps.images + 0.05 * torch.randn_like(stamps.images))
    guess = truth + 0.05 * torch.randn_like(truth)
    with torch.no_grad():
        shapes, error = model(guess, stamps)
        model.correction[-1].bias += 1
        assert (model(guess, stamps)[0] - shapes).abs().max() > 1e-3  # there is a correction
        model.correction[-1].bias -= 1
        for k in range(dihedral.ORDER):
            turned = stamps._replace(
                images=dihedral.transform_images(stamps.images, k), psf=dihedral.transform_images(psf, k)
            )
            found, found_error = model(dihedral.transform_answer(guess, k, model.names), turned)
            torch.testing.assert_close(found, dihedral.transform_shapes(shapes, k), rtol=0, atol=1e-10)
            torch.testing.assert_close(found_error, error, rtol=1e-8, atol=0)


@pytest.mark.parametrize("profile", ["exponential", "sersic"])
def test_guesses_that_cannot_be_drawn_are_answered_from_the_nearest_that_can(profile):
    model, truth = refinement(profile), truths(4, profile)
    stamps = noiseless(model, truth, psf_image())
    guess = truth.clone()
    guess[0, HLR], guess[1, G], guess[2, FLUX] = -0.2, torch.tensor([0.9, 0.9]), -1.0
    if profile == "sersic":
        guess[3, SERSIC_N] = 7.0
    drawable = guess.clone()
    drawable[0, HLR], drawable[1, G] = 0.02, 0.95 / 2**0.5
    if profile == "sersic":
        drawable[3, SERSIC_N] = 6.2
    (shapes, error), (expected, _) = model(guess, stamps), model(drawable, stamps)
    assert torch.isfinite(shapes).all()
    assert torch.isfinite(error).all()
    # The longest step is measured from the guess itself, which matters where it is far off.
    near = (shapes - expected).abs().amax(1) < 1e-6
    assert near[2:].all()


def test_a_stamp_without_answer_leaves_the_others_alone():
    model, truth = refinement(), truths(4, "exponential")
    stamps = noiseless(model, truth, psf_image())
    guess = truth + 0.01
    clean = model(guess, stamps)[0]
    images = stamps.images.clone()
    images[1, 3, 4] = torch.nan
    guess[2, G1] = torch.nan
    shapes = model(guess, stamps._replace(images=images))[0]
    assert torch.isnan(shapes).any(1).tolist() == [False, True, True, False]
    assert torch.equal(shapes[[0, 3]], clean[[0, 3]])


@pytest.mark.parametrize("profile", ["exponential", "sersic"])
@pytest.mark.parametrize("sigma", [1e-6, 1e-5, 1e-1, 1.0])
def test_float32_is_enough(profile, sigma):
    model, truth = refinement(profile, damping=0.0), truths(16, profile)
    psf = psf_image()
    stamps = noiseless(model, truth, psf, sigma)
    stamps = stamps._replace(images=stamps.images + sigma * torch.randn_like(stamps.images))
    # As a network guesses: to a few errors at high noise, to a hundredth of the spread at best.
    guess = truth + 0.01 * torch.randn_like(truth) * torch.tensor(SPREAD[profile]).double()
    with torch.no_grad():
        double, error = model(guess, stamps)
        single, single_error = model.float()(guess.float(), Normalised(*(q.float() for q in stamps)))
    assert ((single - double).abs() < 0.1 * error.clamp_min(1e-5)).all()
    torch.testing.assert_close(single_error.double(), error, rtol=0.02, atol=0)
