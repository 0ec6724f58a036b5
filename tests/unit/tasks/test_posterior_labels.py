"""Labels shifted by the noise: the posterior mean where stamps are linear, and unbiased given the stamp."""

import numpy as np
import pytest
import torch

from shearbench.data.observing import Observing
from shearbench.errors import ConfigError
from shearbench.simulation.catalog import sample_catalog
from shearbench.simulation.galsim_stamps import draw_stamps
from shearbench.simulation.populations import PRESETS, Population
from shearbench.tasks.shear.data import Rendered, draw_batch
from shearbench.tasks.shear.labels import Prior, posterior_shift
from shearbench.tasks.shear.train import ShearTask
from shearbench.training.recipe import Recipe
from shearbench.training.variants import architecture_for, resolve_variant

SIDE, SCALE = 32, 0.3
TARGETS = ("flux", "x", "y", "hlr", "g1", "g2")
POSTERIOR = {"data": "rendered", "augmentation": [], "labels": "posterior"}


def linear(count, sigma=2.0, seed=0):
    """Return the parameters, derivatives, prior, noise and noise levels of linear stamps."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.tensor([1.0, 2.0, 3.0])
    derivatives = torch.randn(1, 3, 6, 6, generator=generator).expand(count, -1, -1, -1)
    parameters = torch.randn(count, 3, generator=generator) * spread + 1
    prior = Prior(torch.ones(3).double(), spread.double().square(), torch.arange(3))
    noise = torch.randn(count, 6, 6, generator=generator)
    return parameters, derivatives, prior, noise, torch.full((count,), sigma)


def shift_of(parameters, derivatives, prior, noise, level):
    flat = derivatives.flatten(2)
    score = (flat @ noise.flatten(1)[:, :, None])[:, :, 0]
    return posterior_shift(parameters, flat @ flat.mT, score, prior, level)


@pytest.mark.parametrize("sigma", [0.03, 1.0, 30.0])
def test_labels_of_linear_stamps_are_the_posterior_mean(sigma):
    parameters, derivatives, prior, noise, level = linear(50, sigma)
    shift = shift_of(parameters, derivatives, prior, noise, level)
    flat = derivatives[0].flatten(1).double()
    stamps = parameters.double() @ flat + sigma * noise.flatten(1).double()
    # In the form with the covariance of the pixels, and not that of the parameters.
    prior_pixels = flat.mT * prior.variance @ flat
    gain = prior.variance[:, None] * flat @ torch.linalg.inv(prior_pixels + sigma**2 * torch.eye(36))
    mean = prior.mean + (stamps - prior.mean @ flat) @ gain.mT
    posterior = prior.variance.diag() - gain @ flat.mT * prior.variance
    known = 1 - (posterior.diagonal() / prior.variance).mean()
    assert 0 < known < 1 + 1e-9
    torch.testing.assert_close(shift.double(), known * (mean - parameters), rtol=2e-4, atol=1e-5)


def test_labels_have_less_scatter_about_the_same_answer():
    parameters, derivatives, prior, noise, level = linear(20000)
    labels = parameters + shift_of(parameters, derivatives, prior, noise, level)
    stamps = (parameters[:, :, None, None] * derivatives).sum(1) + level[:, None, None] * noise
    # The best linear answer is that from the true values, up to the error of 20,000 draws.
    inputs = torch.cat([stamps.flatten(1), torch.ones(20000, 1)], 1).double()
    scatter = []
    answers = []
    for values in (parameters, labels):
        answer = torch.linalg.lstsq(inputs, values.double()).solution
        scatter.append((values - inputs @ answer).square().mean(0))
        answers.append(inputs[:200] @ answer)
    assert (scatter[1] < 0.5 * scatter[0]).all()
    error = (scatter[0] * inputs.shape[1] / len(inputs)).sqrt()
    assert ((answers[0] - answers[1]).square().mean(0).sqrt() < 2 * error).all()


def rendered(shifted):
    population = Population(**PRESETS["exp_gauss"])
    catalog = sample_catalog(population, "exp_gauss", "train", 200, 5, SCALE)
    psf = torch.from_numpy(next(draw_stamps(catalog.iloc[:2], population, (SIDE, SIDE), SCALE))[1])
    source = Rendered(population, "exp_gauss", catalog, psf, SCALE, TARGETS, 200, [1], shifted=shifted)
    source.start(0)
    return source


@pytest.mark.parametrize("sigma", [1e-5, 1e-3])
def test_shifts_have_the_size_of_the_smallest_possible_error(sigma):
    recipe = Recipe(**POSTERIOR, noise=sigma)
    batches = {}
    for shifted in (False, True):
        source = rendered(shifted)
        batches[shifted] = draw_batch(source, slice(0, 200), recipe, TARGETS, [1], 3, torch.Generator())[:4]
    (images, _, _, truth), (same, _, _, shifted) = batches[False], batches[True]
    torch.testing.assert_close(images, same, rtol=0, atol=2e-6)
    information = source.renderer.information(source.parameters[0], source.constant)
    error = sigma * torch.linalg.inv(information).diagonal(dim1=1, dim2=2).sqrt()
    shift = (shifted - truth) / error
    at = [TARGETS.index("g1"), TARGETS.index("g2")]
    assert shift[:, at].square().mean().sqrt() == pytest.approx(1, abs=4 / np.sqrt(2 * 400))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "stored"}, ["data", "rendered"]),
        ({"augmentation": ["d4"]}, ["augmentation", "d4"]),
        ({"loss": "nll"}, ["a loss other than nll"]),
    ],
)
def test_labels_that_cannot_be_shifted_are_refused(changes, words):
    with pytest.raises(ConfigError) as error:
        resolve_variant("a", {"base": "whitened", "training": {**POSTERIOR, **changes}}, Recipe())
    assert all(word in str(error.value) for word in ["labels", *words])


def test_correlated_noise_is_refused():
    chosen = resolve_variant("a", {"base": "whitened", "training": POSTERIOR}, Recipe())
    plain = PRESETS["exp_gauss"]
    assert architecture_for("variants.a", chosen, Population(**plain), (48, 48), 1000)
    assert architecture_for("variants.a", chosen, Population(**plain, masks={"columns": 1}), (48, 48), 1000)
    correlated = Population(**plain, noise={"correlation_pixels": 0.5})
    with pytest.raises(ConfigError, match=r"variants\.a: training\.labels"):
        architecture_for("variants.a", chosen, correlated, (48, 48), 1000)


def test_masked_pixels_shift_no_label():
    recipe, source, part = Recipe(**POSTERIOR, noise=1e-3), rendered(True), slice(0, 50)
    truth = source.take(part).truth
    labels = {}
    for fraction in (0.0, 0.3, 1.0):
        masks = Observing(masked_fraction=fraction)
        drawn = draw_batch(source, part, recipe, TARGETS, [1], 3, torch.Generator(), observing=masks)
        labels[fraction] = drawn[3]
    assert torch.equal(labels[1.0], truth)
    assert not torch.isin(labels[0.3], labels[0.0]).any()
    assert not torch.isin(labels[0.3], truth).any()


@pytest.mark.parametrize(
    ("training", "population", "shifted"),
    [
        ({"data": "rendered", "augmentation": []}, {}, True),
        ({"data": "rendered", "augmentation": [], "loss": "nll"}, {}, False),
        ({"data": "rendered", "augmentation": []}, {"noise": {"correlation_pixels": 0.5}}, False),
        ({"data": "stored", "augmentation": []}, {}, False),
        ({"data": "rendered", "augmentation": ["d4"]}, {}, False),
        ({"data": "rendered", "augmentation": [], "labels": "truth"}, {}, False),
    ],
)
def test_the_best_labels_are_shifted_where_this_is_possible(training, population, shifted):
    entry = {"base": "whitened", "training": {"labels": "best", **training}}
    if training.get("loss") == "nll":
        entry["options"] = {"head": "gaussian"}
    chosen = resolve_variant("a", entry, Recipe())
    kind = Population(**{**PRESETS["exp_gauss"], **population})
    architecture = architecture_for("variants.a", chosen, kind, (48, 48), 1000)
    assert ShearTask(None, chosen, architecture, kind, "a").shifted == shifted
