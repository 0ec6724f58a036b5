import subprocess
import sys
import textwrap
from typing import get_args

import galsim
import numpy as np
import pytest
import torch

import shearbench.networks
from shearbench.errors import ConfigError
from shearbench.forward_model.fourier import G, parameter_names
from shearbench.networks import architecture_kinds
from shearbench.networks.base import Architecture
from shearbench.networks.convnet import ConvNet
from shearbench.networks.modules import dihedral
from shearbench.networks.shearnet import ShearNet
from shearbench.networks.terms import LEVELS, Downsampling, Normalisation
from shearbench.tasks.shear.network import Answer, ShearNetwork
from shearbench.training.recipe import Recipe
from shearbench.training.variants import Variant, resolve_variant, variant_presets

SIDE, SCALE = 24, 0.3
NAMES = parameter_names("exponential")
# Those that see the stamp pixel by pixel: their architectures implement `build`.
IMAGE_PRESETS = sorted(
    name
    for name, preset in variant_presets().items()
    if architecture_kinds()[preset["architecture"]].build is not Architecture.build
    and resolve_variant(name, {}, Recipe()).make().objection((SIDE, SIDE)) is None
)
OTHERS = sorted(
    name
    for name, preset in variant_presets().items()
    if architecture_kinds()[preset["architecture"]].build is Architecture.build
)


def draw(g1, g2, psf_g1=0.0, psf_g2=0.0, hlr=0.7, flux=1.0, shift=(0.0, 0.0)):
    psf = galsim.Gaussian(fwhm=0.7).shear(g1=psf_g1, g2=psf_g2)
    galaxy = galsim.Exponential(half_light_radius=hlr, flux=flux).shear(g1=g1, g2=g2).shift(*shift)
    image, psf_image = (
        thing.drawImage(nx=SIDE, ny=SIDE, scale=SCALE).array for thing in (galsim.Convolve(galaxy, psf), psf)
    )
    return torch.from_numpy(image), torch.from_numpy(psf_image)


def stamps(n, seed=0):
    """Galaxies and PSFs of random shapes: images, PSF images, true parameters in the order of `NAMES`."""
    rng = np.random.default_rng(seed)
    drawn, truth = [], []
    for g in rng.uniform(-0.4, 0.4, (n, 2)):
        psf_g, hlr, flux = rng.uniform(-0.05, 0.05, 2), rng.uniform(0.5, 0.9), rng.uniform(0.5, 5)
        shift = rng.uniform(-0.1, 0.1, 2)
        drawn.append(draw(*g, *psf_g, hlr, flux, shift))
        truth.append([flux, *shift, hlr, *g])
    images, psf = (torch.stack(column) for column in zip(*drawn))
    return images, psf, torch.tensor(truth)


def wanted(truth, network):
    return truth[:, [NAMES.index(name) for name in network.targets]]


def fitted(architecture, per_galaxy_psf=True, seed=1):
    torch.manual_seed(seed)
    network = ShearNetwork(architecture, (SIDE, SIDE), SCALE, per_galaxy_psf)
    images, psf, truth = stamps(64)
    network.fit_scaling(images, psf if per_galaxy_psf else psf[0], wanted(truth, network))
    return network.eval()


@pytest.fixture(autouse=True)
def _own_random_state():
    with torch.random.fork_rng():
        yield


@pytest.mark.parametrize("element", range(dihedral.ORDER))
def test_shapes_follow_stamps_under_each_rotation_and_mirror(element):
    g, psf_g = torch.tensor([[0.31, -0.17]]), torch.tensor([[-0.04, 0.06]])
    turned, turned_psf = (
        dihedral.transform_images(x, element) for x in draw(*g[0].tolist(), *psf_g[0].tolist())
    )
    expected, expected_psf = draw(
        *dihedral.transform_shapes(g, element)[0].tolist(),
        *dihedral.transform_shapes(psf_g, element)[0].tolist(),
    )
    # 1e-6 of the flux: GalSim's own accuracy; a wrong sign anywhere moves pixels by 1e-3 or more.
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(turned_psf, expected_psf, rtol=0, atol=1e-6)


def test_the_eight_transformations_differ():
    image = torch.arange(16.0).reshape(4, 4)
    assert (
        len({tuple(dihedral.transform_images(image, k).flatten().tolist()) for k in range(dihedral.ORDER)})
        == 8
    )


def test_conventions_of_quarter_turn_mirrors_and_transposition():
    images = stamps(1)[0]

    def moments(image):
        found = galsim.hsm.FindAdaptiveMom(galsim.Image(image[0].numpy().copy(), scale=SCALE)).observed_shape
        return torch.tensor([found.g1, found.g2])

    g = moments(images)
    for image, sign in (
        (images.rot90(1, (1, 2)), [-1, -1]),
        (images.flip(2), [1, -1]),
        (images.flip(1), [1, -1]),
        (images.transpose(1, 2), [-1, 1]),
    ):
        torch.testing.assert_close(moments(image), g * torch.tensor(sign), rtol=0, atol=2e-5)


def test_augment_uses_each_element_and_keeps_stamps_with_their_psf_and_shape():
    images, psf, truth = stamps(16)
    shapes = truth[:, G]
    out, out_psf, out_shapes = dihedral.augment(images, psf, shapes, ("g1", "g2"))
    for i in range(16):
        k = i // 2
        torch.testing.assert_close(out[i], dihedral.transform_images(images[i], k))
        torch.testing.assert_close(out_psf[i], dihedral.transform_images(psf[i], k))
        torch.testing.assert_close(out_shapes[i : i + 1], dihedral.transform_shapes(shapes[i : i + 1], k))
    assert dihedral.augment(images, psf[0], shapes, ("g1", "g2"))[1] is not None


@pytest.mark.parametrize("element", range(dihedral.ORDER))
def test_positions_follow_stamps_under_each_rotation_and_mirror(element):
    truth = torch.tensor([[1.0, 0.21, -0.13, 0.7, 0.31, -0.17]])
    turned = dihedral.transform_images(draw(0.31, -0.17, shift=(0.21, -0.13))[0], element)
    _, x, y, _, *g = dihedral.transform_answer(truth, element, NAMES)[0].tolist()
    torch.testing.assert_close(turned, draw(*g, shift=(x, y))[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", IMAGE_PRESETS)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_preset_builds_and_all_its_weights_learn(name, channels):
    variant = resolve_variant(name, {}, Recipe())
    module = variant.make().build(channels, (SIDE, SIDE), 2)
    answer = module(torch.randn(5, channels, SIDE, SIDE), torch.randn(5, LEVELS))
    assert answer.shape == (5, 2)
    answer.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in module.parameters())


@pytest.mark.parametrize("per_galaxy_psf", [False, True])
@pytest.mark.parametrize("name", OTHERS)
def test_every_other_preset_builds_and_all_its_weights_learn(name, per_galaxy_psf):
    network = fitted(resolve_variant(name, {}, Recipe()).make(), per_galaxy_psf).train()
    images, psf, truth = stamps(12, seed=9)
    images, psf = images + 0.01 * torch.randn(images.shape), psf if per_galaxy_psf else psf[0]
    truth, weights, sigma = wanted(truth, network), list(network.parameters()), torch.tensor(0.01)
    at = network.targets.index("g1")
    for _ in range(2):  # a step in between, as some last layers start at zero
        answer = network(images, psf, sigma)
        residual = answer.standard - network.standardise(truth, images, psf, sigma)
        loss = residual.square().sum() + (answer.shapes - truth[:, at : at + 2]).square().sum()
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients):
                weight -= 0.1 * gradient / gradient.norm().clamp_min(1e-9)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("kind", sorted(architecture_kinds()))
def test_no_stamp_and_no_level_makes_an_answer_overflow(kind):
    network = fitted(architecture_kinds()[kind]())
    images, psf, _ = stamps(8, seed=5)
    for sigma in (1e-6, 1e-3, 1.0):
        noise = sigma * torch.randn(images.shape)
        for one in (images, -images, 1e3 * images, torch.zeros_like(images), noise):
            with torch.no_grad():
                answer = network(one, psf, torch.tensor(sigma))
            for part in (answer.shapes, answer.error, answer.snr, answer.standard):
                assert torch.isfinite(part).all()
            assert (answer.error > 0).all()


@pytest.mark.parametrize("downsampling", get_args(Downsampling))
@pytest.mark.parametrize("normalisation", get_args(Normalisation))
def test_convnet_options_build(downsampling, normalisation):
    options = ConvNet(
        downsampling=downsampling,
        normalisation=normalisation,
        width=4,
        skip=True,
        fold=2,
        projection=3,
        hidden=[8, 8],
    )
    module = options.build(1, (SIDE, SIDE), 5).train()
    assert module(torch.randn(4, 1, SIDE, SIDE), torch.zeros(4, LEVELS)).shape == (4, 5)


def test_dilation_keeps_the_view_of_pooling():
    def view(downsampling):
        features = (
            ConvNet(downsampling=downsampling, width=2, growth=1, stages=3, blocks=1)
            .build(1, (64, 64), 2)
            .features
        )
        for weight in features.parameters():
            torch.nn.init.constant_(weight, 0.1)
        x = torch.randn(1, 1, 64, 64, requires_grad=True)
        y = features(x)
        y[0, 0, y.shape[2] // 2, y.shape[3] // 2].backward()
        return int((x.grad[0, 0].abs().sum(0) > 0).sum())

    # Each of two convolutions adds 2, 4 and 8 pixels: 29 in all; halving the image adds a pixel or more.
    assert view("dilated") == 29
    assert 29 <= view("average") <= 33


@pytest.mark.parametrize(
    ("options", "shape", "said"),
    [
        (ConvNet(fold=5), (24, 24), "options.fold: 5"),
        (ConvNet(stages=6), (24, 24), "options.stages: 6"),
        (ShearNet(), (3, 3), "halved"),
    ],
)
def test_stamps_that_do_not_fit_are_refused(options, shape, said):
    assert said in options.objection(shape)
    assert type(options)().objection((24, 24)) is None


def test_networks_import_without_torch():
    code = """if True:
        import sys
        from shearbench.training.variants import variant_presets
        variant_presets()
        print({"torch", "galsim", "numba", "pandas"} & set(sys.modules))
        """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_new_architecture_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "linear.py").write_text(
        textwrap.dedent('''
        """A linear network."""

        from typing import ClassVar
        from shearbench.networks.base import Architecture


        class Linear(Architecture):
            """One dense layer."""

            kind: ClassVar[str] = "linear"

            def build(self, channels, shape, outputs):
                from torch import nn
                from shearbench.networks.modules.heads import WithHead

                return WithHead(nn.Identity(), channels, shape, [], outputs, "relu")
        ''')
    )
    monkeypatch.setattr(shearbench.networks, "__path__", [*shearbench.networks.__path__, str(tmp_path)])
    try:
        variant = resolve_variant("linear", {"options": {"symmetrise": "test"}}, Recipe())
        images, psf, _ = stamps(3)
        assert fitted(variant.make())(images, psf, torch.tensor(0.0))[0].shape == (3, 2)
    finally:
        sys.modules.pop("shearbench.networks.linear", None)


def test_variant_takes_preset_then_common_recipe_then_its_own():
    presets = variant_presets()
    variant = resolve_variant(
        "wide",
        {"base": "pooled", "options": {"width": 12}, "training": {"epochs": 3}},
        Recipe(batch_size=17, epochs=2),
    )
    assert variant.architecture == presets["pooled"]["architecture"]
    assert variant.options["width"] == 12
    assert variant.options["downsampling"] == "max"
    assert (variant.training.epochs, variant.training.batch_size) == (3, 17)
    for key, value in presets["pooled"]["training"].items():
        assert key in ("epochs", "batch_size") or getattr(variant.training, key) == value


def test_a_resolved_variant_resolves_to_itself():
    recipe = Recipe(epochs=7)
    variant = resolve_variant("dilated", {"training": {"noise": 1e-3}}, recipe)
    plain = variant.model_dump(mode="json")
    assert resolve_variant("anything", plain, recipe) == variant
    assert Variant.model_validate(plain) == variant


@pytest.mark.parametrize(
    ("name", "entry", "said"),
    [
        ("dialted", {}, ["variants.dialted", "'dialted'", "did you mean 'dilated'", "shearnet"]),
        ("a", {"base": "poold"}, ["variants.a.base", "did you mean 'pooled'"]),
        (
            "pooled",
            {"options": {"widht": 3}},
            ["variants.pooled.options.widht", "did you mean 'width'", "activation"],
        ),
        ("pooled", {"options": {"width": -3}}, ["variants.pooled.options.width", "-3", "at least 1"]),
        (
            "pooled",
            {"options": {"downsampling": "min"}},
            ["variants.pooled.options.downsampling", "'min'", "'max'"],
        ),
        ("pooled", {"training": {"epoch": 3}}, ["variants.pooled.training.epoch", "did you mean 'epochs'"]),
        ("pooled", {"training": {"noise": [1e-1, 1e-5]}}, ["variants.pooled.training", "[lowest, highest]"]),
        ("pooled", {"training": {"noise": -1.0}}, ["variants.pooled.training.noise", "-1.0"]),
        ("pooled", {"option": {}}, ["variants.pooled.option", "did you mean 'options'"]),
        ("pooled", [1], ["variants.pooled"]),
        ("pooled", {"options": 3}, ["variants.pooled.options"]),
        ("pooled", {"architecture": "vgg"}, ["variants.pooled.architecture", "'vgg'", "convnet"]),
    ],
)
def test_a_wrong_variant_is_said_in_plain_words(name, entry, said):
    with pytest.raises(ConfigError) as error:
        resolve_variant(name, entry, Recipe())
    for part in said:
        assert part in str(error.value)


@pytest.mark.parametrize("kind", sorted(architecture_kinds()))
def test_symmetrised_answers_turn_with_the_stamp(kind):
    # The scaling is symmetric to float32; the rest in float64, as an untrained answer is small.
    built_in = kind == "orbit"  # has no such option
    architecture = architecture_kinds()[kind](**({} if built_in else {"symmetrise": "always"}))
    network = fitted(architecture).double()
    images, psf = (x.double() for x in stamps(4, seed=3)[:2])
    sigma = torch.tensor(1e-3, dtype=torch.float64)
    with torch.no_grad():
        before = network(images, psf, sigma)[0]
        assert before.abs().max() > 1e-6  # untrained, it hardly tells shapes
        for k in range(dihedral.ORDER):
            after = network(dihedral.transform_images(images, k), dihedral.transform_images(psf, k), sigma)[0]
            torch.testing.assert_close(after, dihedral.transform_shapes(before, k), rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("scaling", ["pixel", "global"])
def test_input_is_of_order_one_at_every_noise_level_and_nothing_overflows(scaling):
    network = fitted(ShearNet(input_scaling=scaling), per_galaxy_psf=False)
    images, psf, _ = stamps(64, seed=5)
    for sigma in (0.0, 1e-5, 1e-3, 1e-1, 1e3):
        noisy = images + sigma * torch.randn(images.shape)
        scaled = network.normalise(noisy, psf[0], torch.tensor(sigma).expand(len(noisy)))
        x, level = network.body.scaled(scaled), scaled.level
        answer = network(noisy, psf[0], torch.tensor(sigma))
        assert 0.3 < x.square().mean().sqrt() < 3
        assert level.abs().max() < 5
        assert torch.isfinite(answer.shapes).all()
        assert (answer.snr >= 1).all()
    blank = torch.zeros_like(images)
    assert torch.isfinite(network(blank, psf[0], torch.tensor(1e-3))[0]).all()
    assert torch.isfinite(network(-images, psf[0], torch.tensor(1e-3))[0]).all()


def test_scaling_is_blind_to_the_unit_of_flux():
    images, psf, truth = stamps(64)
    answers = []
    for unit in (1.0, 1024.0):
        torch.manual_seed(2)
        network = ShearNetwork(ShearNet(), (SIDE, SIDE), SCALE, False)
        network.fit_scaling(unit * images, psf[0], wanted(truth, network))
        answers.append(network(unit * images, psf[0], torch.tensor(unit * 1e-3))[0])
    torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", IMAGE_PRESETS)
def test_float32_is_enough_at_the_lowest_noise(name):
    network = fitted(resolve_variant(name, {}, Recipe()).make())
    images, psf, _ = stamps(32, seed=7)
    sigma = torch.tensor(1e-5)
    with torch.no_grad():
        single = network(images, psf, sigma)[0]
        double = network.double()(images.double(), psf.double(), sigma.double())[0]
    # The bound at sigma 1e-5 is 1e-4.
    assert (single - double).abs().max() < 2e-6


@pytest.mark.parametrize("name", OTHERS)
def test_rounding_is_lost_in_the_lowest_noise(name):
    # What is whitened answers to the noise more than to anything else, and rounding is noise too. How much
    # differs between random weights by a factor of two, so there are several networks.
    images, psf, _ = stamps(32, seed=7)
    sigma = torch.tensor(1e-5)
    rounding = response = 0.0
    for seed in range(1, 9):
        network = fitted(resolve_variant(name, {}, Recipe()).make(), seed=seed)
        with torch.no_grad():
            single = network(images, psf, sigma).shapes
            noisy = network(images + sigma * torch.randn(images.shape), psf, sigma).shapes
            double = network.double()(images.double(), psf.double(), sigma.double()).shapes
        rounding += (single - double).square().mean()
        response += (noisy - single).square().mean()
    assert rounding.sqrt() < 0.03 * response.sqrt()


def errors_at(network, snr, sigma):
    """Return the errors of g1 from a network that estimates no errors."""
    snr = torch.as_tensor(snr)
    ones = torch.ones(len(snr), 2)
    both = network.errors(Answer(ones, ones, snr, ones, None), sigma)
    assert torch.equal(both[:, 0], both[:, 1])
    return both[:, 0]


def test_errors_are_those_of_validation():
    network = fitted(ShearNet(), per_galaxy_psf=False)
    sigmas, n = [1e-2, 1e-4], 20000
    snrs = [10 ** (1 + torch.rand(n)), 10 ** (3 + torch.rand(n))]
    residuals = [0.5 / snr[:, None] * torch.randn(n, 2) for snr in snrs]
    network.calibrate(sigmas, residuals, snrs)
    torch.testing.assert_close(
        errors_at(network, torch.tensor([30.0]), 1e-2), torch.tensor([0.5 / 30]), rtol=0.05, atol=0
    )
    torch.testing.assert_close(
        errors_at(network, torch.tensor([3e3]), 1e-4), torch.tensor([0.5 / 3e3]), rtol=0.05, atol=0
    )
    low, high = (float(errors_at(network, torch.tensor([1e9]), sigma)) for sigma in (1e-9, 1e9))
    assert low == pytest.approx(float(errors_at(network, torch.tensor([1e5]), 1e-4)))
    assert high == pytest.approx(float(errors_at(network, torch.tensor([1e5]), 1e-2)))
    # 68% of residuals lie within the error, whatever their distribution.
    for sigma, residual, snr in zip(sigmas, residuals, snrs):
        covered = (residual.abs() < errors_at(network, snr, sigma)[:, None]).float().mean()
        assert covered == pytest.approx(0.683, abs=0.02)


def test_errors_with_one_level():
    network = fitted(ShearNet(), per_galaxy_psf=False)
    network.calibrate([1e-3], [0.1 * torch.randn(4, 2)], [torch.tensor([5.0, 6.0, 7.0, 8.0])])
    assert torch.isfinite(errors_at(network, torch.tensor([1.0, 6.5, 100.0]), 1e-3)).all()


def test_galaxies_that_are_all_round_and_in_the_middle_have_a_scaling():
    network = ShearNetwork(architecture_kinds()["whitened"](), (SIDE, SIDE), SCALE, False)
    images, psf, truth = stamps(8)
    truth[:, [NAMES.index(name) for name in ("x", "y", "g1", "g2")]] = 0
    network.fit_scaling(images, psf[0], wanted(truth, network))
    assert (network.target_spread > 0).all()
    assert network.shape_spread.isfinite()
