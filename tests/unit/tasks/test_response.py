"""Responses in the loss of a training, and those that are computed through the layers of a network."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from shearbench.config.reading import resolve
from shearbench.data.stamps import StampBatch
from shearbench.errors import ConfigError
from shearbench.forward_model.changes import STEPS
from shearbench.forward_model.fourier import G1, G2, XY, G, X, Y
from shearbench.measurement.metacal import Kernel, analytic_response, measure_response
from shearbench.measurement.trained_network import NetworkMeasurer
from shearbench.networks.convnet import ConvNet
from shearbench.simulation.catalog import sample_catalog, shear_shape
from shearbench.simulation.galsim_stamps import draw_stamps
from shearbench.simulation.populations import PRESETS, Population
from shearbench.tasks.shear.data import Batch, Changed, Examples, Rendered, draw_batch
from shearbench.tasks.shear.network import ShearNetwork
from shearbench.tasks.shear.objective import ShearObjective
from shearbench.training.recipe import Recipe
from shearbench.training.together import stacked
from shearbench.training.variants import architecture_for, resolve_variant
from shearbench.training.workers import Workers

SIDE, SCALE, N = 32, 0.3, 40
TARGETS = ("g1", "g2")
ALL = {"shear": 0.1, "psf": 0.2, "shift": 0.3}
VARYING = Population(
    **{
        **PRESETS["exp_gauss"],
        "profile": "gaussian",  # a deconvolved stamp then has no light where its modes are cut off
        "half_light_radius_arcsec": [0.4, 0.7],
        "psf": {"fwhm_arcsec": [0.7, 0.9], "shape_sigma": 0.02},
    }
)


def recipe(**changes):
    return Recipe(**{"data": "rendered", "augmentation": [], "batch_size": N, "response": ALL, **changes})


@pytest.fixture(scope="module")
def catalog():
    return sample_catalog(VARYING, "exp_psfs", "train", 100, 5, SCALE)


@pytest.fixture(scope="module")
def source(catalog):
    psf = torch.from_numpy(next(draw_stamps(catalog.iloc[:2], VARYING, (SIDE, SIDE), SCALE))[1])
    source = Rendered(VARYING, "exp_psfs", catalog, psf, SCALE, TARGETS, N, [1])
    source.start(0)
    return source


def batch_of(source, chosen, workers=None):
    return draw_batch(source, slice(0, N), chosen, TARGETS, [1], 3, torch.Generator(), workers)


def moments(images):
    """Return the centroids [n, 2] and the second moments (xx - yy, 2 xy) [n, 2] of noiseless images."""
    x = torch.arange(SIDE, dtype=torch.float64) - (SIDE - 1) / 2
    window = torch.exp(-(x**2 + x[:, None] ** 2) / 60)
    weights = [x, x[:, None], x**2 - x[:, None] ** 2, 2 * x * x[:, None]]
    found = [(images.double() * window * weight).sum((1, 2)) for weight in weights]
    return torch.stack(found, 1).div((images.double() * window).sum((1, 2))[:, None]).split(2, 1)


@pytest.mark.parametrize("names", [[], ["d4"], ["rotation", "shift", "brightness"]])
def test_changed_stamps_have_the_same_noise_and_the_right_change_of_the_shape(source, names):
    batch = batch_of(source, recipe(noise=1e-6, augmentation=names))
    noisier = batch_of(source, recipe(noise=1e-3, augmentation=names))
    by_name = {one.name: one for one in batch.changed}
    assert list(by_name) == list(STEPS)
    for one, other in zip(batch.changed, noisier.changed):
        torch.testing.assert_close(
            one.images - batch.images, other.images - noisier.images, rtol=0, atol=1e-6
        )
    size, square = by_name["shear"].moved.norm(dim=1) / STEPS["shear"], batch.parameters.square().sum(1)
    assert ((size - 1).abs() < 1.05 * square + 0.05).all()  # |s - s* g^2| to first order
    assert not by_name["psf"].moved.any()
    assert not by_name["shift"].moved.any()
    (centre, second), found = moments(batch.images), {k: moments(v.images) for k, v in by_name.items()}
    change = {name: (one[0] - centre, one[1] - second) for name, one in found.items()}
    # The image moves along the change of the shape.
    both = torch.stack([change["shear"][1].flatten(), by_name["shear"].moved.double().flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.9
    assert (change["shift"][0].norm(dim=1) < STEPS["shift"] * 1.02).all()
    assert change["shift"][0].norm(dim=1).median() > 0.5 * STEPS["shift"]
    # Directions are random, and the image of the PSF changes with the stamp.
    assert np.ptp(torch.atan2(*by_name["shear"].moved.T).numpy()) > 5
    both = torch.stack([moments(by_name["psf"].psf)[1] - moments(batch.psf)[1], change["psf"][1]]).flatten(1)
    assert torch.corrcoef(both)[0, 1] > 0.9
    for name in ("shear", "shift"):
        assert torch.equal(by_name[name].psf, batch.psf)


def test_a_shear_in_the_loss_is_that_of_the_split_shear(source):
    angle = torch.linspace(0, 6, N)[None]
    taken, plain = source.changed(slice(0, N), "shear", angle), source.take(slice(0, N))
    shear = STEPS["shear"] * np.stack([np.cos(angle[0].numpy()), np.sin(angle[0].numpy())])
    expected = np.stack(shear_shape(*plain.truth.numpy().T.astype(float), *shear), 1)
    np.testing.assert_allclose(taken.truth.numpy(), expected, atol=1e-7)
    assert torch.equal(source.take(slice(0, N)).images, plain.images), "the galaxies themselves changed"


@pytest.mark.parametrize("realisations", [1, 2])
def test_shares_of_changed_stamps_are_together_the_batch(source, realisations):
    chosen = recipe(noise=1e-3, realisations=realisations, batch_size=N * realisations)
    whole = batch_of(source, chosen)
    for rank in range(3):
        workers = Workers(rank, 3)
        for one, other in zip(batch_of(source, chosen, workers).changed, whole.changed):
            for name in ("images", "psf", "moved"):
                expected = getattr(other, name).unflatten(0, (N, realisations))[workers.share].flatten(0, 1)
                torch.testing.assert_close(getattr(one, name), expected, rtol=0, atol=1e-6)


def network_of(seed, **options):
    """Return an untrained network whose answers depend smoothly on the pixels, with scaled outputs."""
    torch.manual_seed(seed)
    chosen = {"width": 4, "stages": 2, "activation": "gelu", "downsampling": "strided", "hidden": [16]}
    chosen["input_scaling"] = "global"  # galaxies have no light at the edges of the stamps
    return ShearNetwork(ConvNet(**{**chosen, **options}), (SIDE, SIDE), SCALE, True)


@pytest.fixture
def objective(source):
    plain = source.take(slice(0, N))
    examples = Examples(plain.images, plain.psf, plain.truth)

    def made(networks, **changes):
        for network in networks:
            network.fit_scaling(examples.images, examples.psf, examples.parameters)
        seeds = list(range(1, len(networks) + 1))
        return ShearObjective(networks, source, N, examples, recipe(**changes), seeds, Workers())

    return made


@pytest.mark.parametrize("changes", [{}, {"loss": "huber"}, {"loss": "msb", "realisations": 2}])
def test_the_loss_has_the_weighted_error_of_each_response_in_units_of_the_error(objective, source, changes):
    network = network_of(1)
    training = objective([network], noise=1e-3, **changes)
    realisations = training.recipe.realisations
    part = slice(0, N // realisations)
    batch = draw_batch(source, part, training.recipe, TARGETS, [1], 3, torch.Generator())
    rms = 0.01

    def loss(changed):
        training.mean_square.fill_((rms / float(network.shape_spread)) ** 2)
        return float(training.loss(network, batch._replace(changed=changed), 10**9))

    with torch.no_grad():
        plain = loss(())
        answers = network(batch.images, batch.psf, batch.sigma).shapes
        same = [
            one._replace(images=batch.images, psf=batch.psf, moved=0.0 * one.moved) for one in batch.changed
        ]
        assert loss(same) == pytest.approx(plain, rel=1e-6), "an answer that does not change is no error"
        for one in batch.changed:
            moved = network(one.images, one.psf, batch.sigma).shapes - answers
            assert loss([one._replace(moved=moved)]) == pytest.approx(plain, rel=1e-5)
            wrong = 0.02 * torch.randn(moved.shape, generator=torch.Generator().manual_seed(1))
            found = loss([one._replace(moved=moved - wrong)]) - plain
            unit = 1.0 if one.name == "shift" else float(network.shape_spread)
            # The running rms of the error has been updated.
            now = float(training.mean_square[..., -1].max().sqrt() * network.shape_spread)
            scaled = wrong * unit / STEPS[one.name] / now
            size = {
                "mse": scaled.square(),
                "huber": torch.nn.functional.huber_loss(scaled, 0 * scaled, reduction="none"),
                "msb": scaled.unflatten(0, (-1, realisations)).mean(1).square(),
            }[training.recipe.loss]
            assert found == pytest.approx(ALL[one.name] * float(size.mean()), rel=1e-3)


def test_several_trainings_at_once_have_the_losses_of_each_alone(objective, source):
    networks = [network_of(seed) for seed in (1, 2)]
    alone = []
    for network in networks:
        training = objective([network], noise=1e-3)
        batch = batch_of(source, training.recipe)
        alone.append(float(training.loss(network, batch, 0).detach()))
    together = objective(networks, noise=1e-3)
    both = Batch(
        *(torch.cat([values, values]) for values in batch[:4]),
        tuple(
            Changed(one.name, *(torch.cat([values, values]) for values in one[1:])) for one in batch.changed
        ),
    )
    found = float(together.loss(stacked(networks), both, 0).detach())
    assert found == pytest.approx(sum(alone), rel=1e-4)


def test_dropout_leaves_out_the_same_units_before_and_after_a_change(objective, source):
    network = network_of(1, dropout=0.5).train()
    training = objective([network], noise=1e-3)
    batch = batch_of(source, training.recipe)
    same = tuple(
        one._replace(images=batch.images, psf=batch.psf, moved=0 * one.moved) for one in batch.changed
    )
    losses = []
    for changed in ((), same):
        training.mean_square.fill_(1.0)
        torch.manual_seed(5)
        losses.append(float(training.loss(network, batch._replace(changed=changed), 0).detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_without_the_option_nothing_is_rendered_again(source, monkeypatch):
    monkeypatch.setattr(Rendered, "changed", None)
    assert batch_of(source, recipe(response={})).changed == ()
    assert batch_of(source, recipe(response={"shear": 0})).changed == ()


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"data": "stored"}, ["response", "'shear'", "data: rendered", "stored"]),
        ({"response": {"sheer": 0.1}}, ["response", "sheer"]),
        ({"response": {"shear": -1}}, ["response", "shear", "-1"]),
    ],
)
def test_a_response_that_cannot_be_trained_is_refused(training, words):
    given = {"data": "rendered", "response": {"shear": 0.1}, **training}
    with pytest.raises(ConfigError) as error:
        resolve_variant("a", {"base": "baseline", "training": given}, Recipe())
    assert all(word in str(error.value) for word in words), error.value


def test_a_response_to_the_psf_needs_psfs_that_differ():
    entry = {"base": "baseline", "training": {"data": "rendered", "response": {"psf": 0.1}}}
    chosen = resolve_variant("a", entry, Recipe())
    assert architecture_for("variants.a", chosen, VARYING, (48, 48), 10000)
    with pytest.raises(ConfigError, match=r"variants\.a: training\.response: 'psf'.*the same"):
        architecture_for("variants.a", chosen, Population(**PRESETS["exp_gauss"]), (48, 48), 10000)


# The analytic response of a trained network.


def stamps_of(source, sigma=1e-6, side=SIDE):
    plain = source.take(slice(0, N))
    noise = np.random.default_rng(0).standard_normal(plain.images.shape, dtype=np.float32)
    ids = np.arange(N)
    return StampBatch(plain.images.numpy() + sigma * noise, plain.psf.numpy(), sigma, SCALE, ids, ids)


def test_derivatives_of_stamps_are_the_limit_of_finite_differences(source):
    kernel = Kernel(stamps_of(source, 1e-12), 0.04)
    stamps, found = kernel.derivatives()
    np.testing.assert_allclose(stamps.images, kernel.shear(0.0, 0.0).images, atol=1e-7)
    assert np.array_equal(stamps.psf, kernel.psf)
    for i, direction in enumerate(np.eye(2)):
        errors = []
        for step in (0.04, 0.02):
            plus, minus = (kernel.shear(*(sign * step * direction)).images.astype(float) for sign in (1, -1))
            errors.append(np.std((plus - minus) / (2 * step) - found[:, i]))
        assert errors[1] < 2e-3 * found[:, i].std()
        assert 3 < errors[0] / errors[1] < 5  # of second order in the step


def test_the_analytic_response_is_the_limit_of_that_of_finite_steps(source, objective):
    network = objective([network_of(1)]).networks[0].eval()
    measurer, batch = NetworkMeasurer(network), stamps_of(source)
    analytic, finite = (
        measured(measurer, batch, 0.006) for measured in (analytic_response, measure_response)
    )
    names = ("R11", "R12", "R21", "R22")
    assert set(analytic.extra) == set(finite.extra) == set(names)
    scale = np.std([finite.extra[name] for name in names])
    np.testing.assert_allclose(analytic.g1, finite.g1, atol=1e-4)
    for name in names:
        np.testing.assert_allclose(analytic.extra[name], finite.extra[name], atol=5e-3 * scale)
    one = analytic_response(measurer, batch.select(slice(3, 4)), 0.006)
    assert one.extra["R12"] == pytest.approx(analytic.extra["R12"][3], rel=1e-4)


def test_the_protocols_agree(source, objective):
    """Responses through the layers, of scenes drawn again and of sheared stamps are the same."""
    measurer = NetworkMeasurer(objective([network_of(1)]).networks[0].eval())
    batch, parameters = stamps_of(source, sigma=1e-9), source.parameters[0]
    told, _ = Kernel(batch, 0.01).derivatives()
    transforms = source.renderer.psf_image(torch.from_numpy(told.psf))

    def answer(s1, s2):
        scene, (g1, g2) = parameters.clone(), shear_shape(*parameters[:, G].double().T, s1, s2)
        scene[:, G] = torch.from_numpy(np.stack([g1, g2], 1)).float()
        # A stamp is sheared about its centre, so that the galaxy moves too.
        scene[:, XY] = scene[:, XY] @ torch.tensor([[1 + s1, s2], [s2, 1 - s1]])
        found = measurer.measure(replace(told, images=source.renderer(scene, transforms).numpy()))
        return np.stack([found.g1, found.g2], 1)

    step = 0.004
    pairs = [(answer(step * a, step * b), answer(-step * a, -step * b)) for a, b in ((1, 0), (0, 1))]
    finite = np.stack([(plus - minus) / (2 * step) for plus, minus in pairs], 2)

    images, by = source.renderer.jacobian(parameters, transforms)
    g = torch.view_as_complex(parameters[:, G].contiguous())
    x, y = (values[:, None, None] for values in parameters[:, XY].T)
    along = torch.stack([1 - g**2, 1j * (1 + g**2)], 1)[:, :, None, None]  # d g / d shear
    shape = along.real * by[:, None, G1] + along.imag * by[:, None, G2]
    place = torch.stack([x * by[:, X] - y * by[:, Y], y * by[:, X] + x * by[:, Y]], 1)
    layers = measurer.respond(replace(told, images=images.numpy()), (shape + place).numpy())[1]

    sheared = analytic_response(measurer, batch, 0.01)
    stamps = np.array([[sheared.extra[f"R{i}{j}"] for j in (1, 2)] for i in (1, 2)]).transpose(2, 0, 1)
    scale = finite.std()
    assert scale > 1e-4
    np.testing.assert_allclose(layers, finite, atol=0.01 * scale)
    np.testing.assert_allclose(stamps, finite, atol=0.03 * scale)


def test_a_forward_model_has_no_analytic_response():
    given = {"populations": {"exp_gauss": {}}, "variants": {"pooled": {}, "refined": {}}}
    kinds = {"a": {"base": "anacal-network", "network": "pooled"}}
    assert resolve({**given, "estimators": kinds}).estimator("a").response == "analytic"
    kinds = {"a": {"base": "anacal-network", "network": "refined"}}
    with pytest.raises(ConfigError, match=r"estimators\.a\.network: found 'refined'.*forward model"):
        resolve({**given, "estimators": kinds})
