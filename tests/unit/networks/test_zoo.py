"""The architectures: sizes, symmetry, gradients, precision, reproducibility."""

import copy
import math
import re
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import shearbench.networks
from shearbench.errors import ConfigError
from shearbench.networks.attention import Attention
from shearbench.networks.convnet import ConvNet
from shearbench.networks.dense import Dense
from shearbench.networks.equivariant import Equivariant
from shearbench.networks.locally_connected import LocallyConnected
from shearbench.networks.modules import attention, convolution, dihedral, equivariant, heads
from shearbench.networks.modules.bodies import Normalised
from shearbench.networks.psf_branch import PsfBranch
from shearbench.networks.residual import Residual
from shearbench.networks.resnet import ResNet
from shearbench.networks.terms import LEVELS, Activation, Initialisation, Kernel, Pooling, Shortcut
from shearbench.networks.unet import UNet
from shearbench.training.recipe import Recipe
from shearbench.training.together import Stacked
from shearbench.training.variants import resolve_variant

SHAPE = (24, 24)
ZOO = {
    cls.kind: cls
    for cls in (
        ConvNet,
        Residual,
        ResNet,
        UNet,
        PsfBranch,
        Attention,
        Equivariant,
        Dense,
        LocallyConnected,
    )
}
ELEMENT = st.integers(0, dihedral.ORDER - 1)


@pytest.fixture(autouse=True)
def _own_random_state():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        yield


def noise(n, channels=1, shape=SHAPE, dtype=torch.float32):
    return torch.randn(n, channels, *shape, dtype=dtype), torch.randn(n, LEVELS, dtype=dtype)


def size(module):
    return sum(weight.numel() for weight in module.parameters())


# -- The group ------------------------------------------------------------------------------------


@given(first=ELEMENT, second=ELEMENT)
def test_products_and_inverses_are_those_of_the_images(first, second):
    image = torch.arange(9).reshape(3, 3)
    both = dihedral.transform_images(dihedral.transform_images(image, second), first)
    assert torch.equal(both, dihedral.transform_images(image, dihedral.product(first, second)))
    assert dihedral.product(first, dihedral.inverse(first)) == 0


@pytest.mark.parametrize(("outputs", "targets"), [(2, ("g1", "g2")), (5, ("g1", "g2"))])
@pytest.mark.parametrize("normalisation", ["none", "batch", "group", "layer"])
@pytest.mark.parametrize(("side", "blocks"), [(24, 0), (21, 1), (18, 1)])
def test_an_equivariant_network_follows_the_stamp_exactly(outputs, targets, normalisation, side, blocks):
    options = Equivariant(blocks=blocks, normalisation=normalisation, width=2, hidden=[6, 5])
    network = options.build(2, (side, side), outputs).double().eval()
    x, level = noise(3, 2, (side, side), torch.float64)
    with torch.no_grad():
        before = network(x, level)
        assert before.abs().min() > 1e-4
        for k in range(dihedral.ORDER):
            after = network(dihedral.transform_images(x, k), level)
            # Rounding of float64, and nothing else.
            expected = dihedral.transform_answer(before, k, targets)
            torch.testing.assert_close(after, expected, rtol=0, atol=1e-13)


def test_an_equivariant_network_follows_positions_and_sizes_too():
    targets = ("flux", "x", "y", "hlr", "g1", "g2")
    body = Equivariant().body(SHAPE, False, targets, 6).double().eval()
    x, level = noise(3, dtype=torch.float64)
    with torch.no_grad():
        before = body.network(x, level)
        for k in range(dihedral.ORDER):
            after = body.network(dihedral.transform_images(x, k), level)
            expected = dihedral.transform_answer(before, k, targets)
            torch.testing.assert_close(after, expected, rtol=0, atol=1e-13)


def test_the_additive_bias_of_an_equivariant_network_is_zero_by_symmetry():
    network = Equivariant().build(1, SHAPE, 2).eval()
    x, level = noise(4)
    turned = torch.stack([network(dihedral.transform_images(x, k), level) for k in range(dihedral.ORDER)])
    # To the rounding of float32.
    assert turned.mean(0).abs().max() < 1e-6 * turned.abs().max()
    round_stamp = torch.stack([dihedral.transform_images(x, k) for k in range(dihedral.ORDER)]).mean(0)
    assert network(round_stamp, level).abs().max() < 1e-6 * turned.abs().max()
    # Another architecture has no such luck: the test can fail.
    other = ConvNet().build(1, SHAPE, 2).eval()
    assert other(round_stamp, level).abs().max() > 1e-3


@settings(max_examples=15, deadline=None)
@given(
    side=st.integers(3, 9),
    kernel=st.sampled_from([1, 3, 5]),
    lifting=st.booleans(),
    element=ELEMENT,
    seed=st.integers(0, 99),
)
def test_group_convolutions_turn_and_permute(side, kernel, lifting, element, seed):
    torch.manual_seed(seed)
    layer = equivariant.GroupConvolution(2, 3, kernel, padding=kernel // 2, lifting=lifting).double()
    depth = 1 if lifting else dihedral.ORDER
    x = torch.randn(2, 2, depth, side, side, dtype=torch.float64)

    def act(fields):
        fields = dihedral.transform_images(fields, element)
        if fields.shape[2] == 1:
            return fields
        back = dihedral.inverse(element)
        return fields[:, :, [dihedral.product(back, h) for h in range(dihedral.ORDER)]]

    after = layer(act(x).flatten(1, 2)).unflatten(1, (3, dihedral.ORDER))
    torch.testing.assert_close(after, act(layer(x.flatten(1, 2)).unflatten(1, (3, dihedral.ORDER))))


# -- Sizes ----------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    kind=st.sampled_from(sorted(ZOO)),
    side=st.integers(4, 40),
    channels=st.integers(1, 2),
    outputs=st.sampled_from([2, 5]),
)
def test_a_stamp_is_refused_or_gives_numbers_that_all_depend_on_it(kind, side, channels, outputs):
    options = ZOO[kind]()
    if (reason := options.objection((side, side))) is not None:
        assert reason.startswith("options.")
        assert f"{side} by {side} pixels" in reason
        return
    torch.manual_seed(3)
    module = options.build(channels, (side, side), outputs).eval()
    x, level = noise(2, channels, (side, side))
    x.requires_grad_()
    answer = module(x, level)
    assert answer.shape == (2, outputs)
    answer.square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad.abs().sum((0, 2, 3)) > 0).all()


@pytest.mark.parametrize(
    ("options", "shape", "said"),
    [
        (Residual(stages=4), (24, 24), "options.stages: 4"),
        (Residual(fold=5), (24, 24), "options.fold: 5"),
        (UNet(scales=4), (24, 24), "options.scales: 4"),
        (UNet(fold=3, scales=3), (21, 21), "odd number of pixels"),
        (Attention(patch=7), (24, 24), "options.patch: 7"),
        (Equivariant(), (24, 20), "rotated"),
        (Equivariant(stages=5), (24, 24), "options.stages: 5"),
        (ResNet(stages=4), (24, 24), "options.stages: 4"),
        (LocallyConnected(layers=4), (24, 24), "options.layers: 4 layers halve"),
        (LocallyConnected(fold=5), (24, 24), "options.fold: 5"),
    ],
)
def test_what_does_not_fit_is_refused(options, shape, said):
    assert said in options.objection(shape)


def test_parameters_are_counted_by_hand():
    level = LEVELS
    conv = ConvNet(width=2, stages=2, blocks=0, projection=3, hidden=[5]).build(1, (8, 8), 2)
    assert size(conv) == (9 + 1) * 2 + (9 * 2 + 1) * 4 + (4 + 1) * 3 + (3 * 16 + level + 1) * 5 + (5 + 1) * 2
    residual = Residual(fold=1, width=2, stages=1, blocks=3, projection=None, hidden=[]).build(1, (4, 4), 2)
    assert size(residual) == (9 + 1) * 2 + 3 * 2 * (9 * 2 + 1) * 2 + (2 * 16 + level + 1) * 2
    equivariant = Equivariant(width=2, stages=1, hidden=[3]).build(1, (8, 8), 2)
    # One kernel for 8 orientations: the weights of a field are those of one image, times 8 behind the first.
    assert size(equivariant) == (16 + 1) * 2 + (8 * 16 * 2 + 1) * 3 + level * 3 + 3 * 2
    dense = Dense(hidden=[7]).build(2, (8, 8), 3)
    assert size(dense) == (2 * 64 + level + 1) * 7 + (7 + 1) * 3
    local = LocallyConnected(fold=1, width=2, layers=2, hidden=[])
    # 4 by 4 and 2 by 2 positions, each with kernels of its own.
    counted = 16 * (9 + 1) * 2 + 4 * (9 * 2 + 1) * 8
    assert size(local.build(1, (8, 8), 2)) == counted + (4 * 8 + level + 1) * 2
    shared = local.model_copy(update={"shared": True}).build(1, (8, 8), 2)
    assert size(shared) == (9 + 1) * 2 + (9 * 2 + 1) * 8 + (4 * 8 + level + 1) * 2
    width, tokens = 8, 16
    block = 3 * width**2 + (width + 1) * width + (width + 1) * 2 * width + (2 * width + 1) * width + 4 * width
    attention = Attention(patch=6, width=width, heads=2, depth=2, projection=1, hidden=[])
    counted = (36 + 1) * width + tokens * width + 2 * block + 2 * width + (width + 1)
    assert size(attention.build(1, SHAPE, 2)) == counted + (tokens + level + 1) * 2


def test_downsampling_of_a_residual_network_is_an_option():
    for downsampling in ("squeeze", "strided", "average"):
        module = Residual(downsampling=downsampling, width=4, blocks=1).build(1, SHAPE, 2)
        assert module.features(torch.zeros(1, 1, *SHAPE)).shape == (1, 8, 3, 3)


# -- Meaning --------------------------------------------------------------------------------------


def test_a_psf_of_its_own_has_a_branch_of_its_own_and_one_for_all_has_none():
    two, one = (PsfBranch().build(channels, SHAPE, 2) for channels in (2, 1))
    assert isinstance(two, heads.WithPsfBranch)
    assert size(one) == size(ConvNet(downsampling="strided").build(1, SHAPE, 2))
    x, level = noise(2, 2)
    galaxy, psf = two.features(x[:, :1]), two.psf(x[:, 1:])
    swapped = x.clone()
    swapped[:, 1] = swapped[[1, 0], 1]
    assert torch.equal(two.features(swapped[:, :1]), galaxy)
    assert not torch.equal(two(swapped, level), two(x, level))
    assert psf.shape[1:] == galaxy.shape[1:]


def test_attention_sees_places_and_not_only_contents():
    module = Attention().build(1, SHAPE, 2).eval()
    x, level = noise(1)
    moved = x.roll(6, 3)
    assert not torch.allclose(module(x, level), module(moved, level), atol=1e-4)


def test_self_attention_is_torchs_own():
    ours, theirs = attention.SelfAttention(8, 2), nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.mixed.weight)
        theirs.in_proj_bias.zero_()
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0])


def test_cbam_weighs_between_zero_and_one_and_keeps_the_sign():
    x = torch.randn(2, 8, 6, 6)
    weight = attention.Cbam(8, "gelu")(x) / x
    assert (weight > 0).all()
    assert (weight < 1).all()


@pytest.mark.parametrize("gate", [attention.ChannelWeights(8, "gelu"), attention.PixelWeights()])
def test_attention_of_channels_or_pixels_gives_one_weight_to_each(gate):
    x = torch.randn(2, 8, 6, 6)
    weight = gate(x) / x
    axes = (2, 3) if isinstance(gate, attention.ChannelWeights) else (1,)
    assert ((weight > 0) & (weight < 1)).all()
    for axis in axes:  # the same along these axes, and not the same along the others
        torch.testing.assert_close(weight, weight.mean(axis, keepdim=True).expand_as(weight))
    assert weight.std(0).max() > 1e-3
    assert weight.flatten(1).std(1).min() > 1e-3


@pytest.mark.parametrize("kind", ["none", "channel", "spatial", "cbam", "self"])
@pytest.mark.parametrize("downsampling", ["max", "dilated"])
def test_attention_of_a_convolutional_network_is_an_option(kind, downsampling):
    options = ConvNet(attention=kind, downsampling=downsampling, width=6, fold=4, stages=2)
    module = options.build(1, SHAPE, 2)
    x, level = noise(3)
    module(x, level).square().sum().backward()
    assert all(weight.grad is not None for weight in module.parameters())
    plain = ConvNet(downsampling=downsampling, width=6, fold=4, stages=2).build(1, SHAPE, 2)
    assert (size(module) > size(plain)) == (kind != "none")


def test_the_weights_of_cbam_have_the_names_of_its_saved_models():
    module = ConvNet(attention="cbam", stages=1).build(1, SHAPE, 2)
    names = {name.removeprefix("features.3.") for name in module.state_dict() if "features.3" in name}
    channels = {"channels.0.weight", "channels.0.bias", "channels.2.weight"}
    assert names == {*channels, "pixels.weight", "pixels.bias"}


@pytest.mark.parametrize(("old", "new"), [(True, "cbam"), (False, "none")])
def test_the_former_option_cbam_is_answered_with_the_one_that_replaces_it(old, new):
    with pytest.raises(ConfigError, match=rf"variants\.mine\.options\.cbam: .*`attention: {new}`"):
        resolve_variant("mine", {"base": "dilated", "options": {"cbam": old}}, Recipe())


def test_cross_attention_to_itself_is_self_attention():
    ours, other = attention.SelfAttention(8, 2), attention.CrossAttention(8, 8, 2)
    with torch.no_grad():
        other.query.weight.copy_(ours.mixed.weight[:8])
        other.mixed.weight.copy_(ours.mixed.weight[8:])
        other.out.load_state_dict(ours.out.state_dict())
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(other(x, x), ours(x))


@pytest.mark.parametrize("position", ["none", "learned", "sinusoidal", "concatenated"])
def test_without_an_encoding_a_transformer_does_not_know_positions(position):
    options = Attention(patch=8, position=position, width=16, heads=2, depth=1)
    features = options.build(1, SHAPE, 2).features.eval()
    x, _ = noise(1)
    with torch.no_grad():
        moved = features(x.roll(8, 3)).roll(-1, 3)
        assert torch.allclose(moved, features(x), atol=1e-5) == (position == "none")


def test_sinusoids_tell_rows_and_columns_apart_and_depend_on_distance_alone():
    code = attention.sinusoids((4, 5), 16)
    assert code.shape == (20, 16)
    gram = (code @ code.T).reshape(4, 5, 4, 5)
    # Vaswani et al. 2017, section 3.5: the product of two codes is a function of the distance.
    torch.testing.assert_close(gram[0, 0, 1, 2], gram[2, 1, 3, 3])
    assert (gram.flatten(2).flatten(0, 1) < gram[0, 0, 0, 0] + 1e-4).all()
    assert gram[0, 0, 0, 1] < gram[0, 0, 0, 0] - 0.1
    hand = torch.tensor([math.sin(3.0), math.cos(3.0), math.sin(2.0), math.cos(2.0)])
    torch.testing.assert_close(attention.sinusoids((4, 5), 4)[3 * 5 + 2], hand)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"position": "sinusoidal", "width": 6, "heads": 2}, "width: 6 is not a multiple of 4"),
        ({"position": "concatenated", "width": 4}, "width: 4 features are too few"),
    ],
)
def test_an_encoding_that_does_not_fit_the_features_is_refused(options, said):
    with pytest.raises(ConfigError, match=rf"variants\.attention\.options\.{said}"):
        resolve_variant("attention", {"options": options}, Recipe())


def test_dense_layers_can_take_the_features_of_all_stages():
    options = ConvNet(scales="all", stages=3, projection=2)
    module = options.build(1, SHAPE, 2).eval()
    x, _ = noise(2)
    assert module.features(x).shape == (2, 2 * (24**2 + 12**2 + 6**2))
    # The last features are those of the same stages, one after the other.
    stages = module.features[-1]
    last = stages.outputs[-1](nn.Sequential(*stages.stages)(x))
    assert torch.equal(module.features(x)[:, -2 * 6**2 :], last.flatten(1))


@pytest.mark.parametrize("psf", ["none", "channel", "branch", "attention"])
def test_a_network_is_given_the_psf_as_its_option_says(psf):
    targets = ("g1", "g2")
    body = PsfBranch(psf=psf).body(SHAPE, True, targets, 2).eval()
    x, level = noise(2, 2)
    one = torch.ones(2)

    def answer(kernel):
        return body(Normalised(x[:, 0], kernel, torch.ones(SHAPE), one, one, one, level))

    with torch.no_grad():
        seen = (answer(x[:, 1]) - answer(x[[1, 0], 1])).abs().max()
    assert (seen > 1e-5) == (psf != "none")
    same = PsfBranch(psf=psf).body(SHAPE, False, targets, 2)
    assert size(same) == size(ConvNet(downsampling="strided").build(1, SHAPE, 2))


def test_cross_attention_takes_the_last_stage():
    with pytest.raises(ConfigError, match=r"variants\.psf-branch\.options\.scales: found all"):
        resolve_variant("psf-branch", {"options": {"psf": "attention", "scales": "all"}}, Recipe())


def test_a_residual_block_with_no_weights_is_the_identity():
    block = convolution.preactivated(3, "relu", "batch")
    for weight in block.parameters():
        nn.init.zeros_(weight)
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("name", get_args(Activation))
def test_every_activation_is_its_function(name):
    x = torch.linspace(-4, 4, 101)
    by_hand = {
        "relu": x.clamp_min(0),
        "leaky_relu": torch.maximum(x, 0.01 * x),
        "elu": torch.where(x > 0, x, x.exp() - 1),
        "gelu": x * (1 + torch.erf(x / 2**0.5)) / 2,
        "silu": x / (1 + (-x).exp()),
        "swish": x / (1 + (-x).exp()),
        "mish": x * torch.tanh((1 + x.exp()).log()),
        "tanh": (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
    }
    torch.testing.assert_close(convolution.activation(name)(x), by_hand[name], rtol=1e-4, atol=1e-5)


def test_swish_learns_its_beta():
    swish = convolution.activation("swish")
    x = torch.linspace(-4, 4, 101)
    (swish(x) - convolution.activation("relu")(x)).square().sum().backward()
    assert swish.beta.grad < 0  # towards ReLU, which has an infinite beta
    with torch.no_grad():
        swish.beta.fill_(50.0)
    torch.testing.assert_close(swish(x), x.clamp_min(0), rtol=0, atol=0.01)


def test_frozen_statistics_are_those_of_batch_normalisation_until_they_are_frozen(monkeypatch):
    monkeypatch.setattr(convolution, "FROZEN_AFTER", 3)
    (frozen,), (usual,) = (convolution.normalisation(name, 4) for name in ("batch_frozen", "batch"))
    for step in range(5):
        x = (2 + step) * torch.randn(6, 4, 5, 5) + step
        before = {name: value.clone() for name, value in frozen.state_dict().items()}
        answers = [layer.train()(x) for layer in (frozen, usual)]
        if step < 3:
            torch.testing.assert_close(*answers)
            for name, value in usual.state_dict().items():
                torch.testing.assert_close(frozen.state_dict()[name], value)
        else:
            assert not torch.allclose(*answers, atol=0.1)
            for name in ("running_mean", "running_var"):
                assert torch.equal(frozen.state_dict()[name], before[name])
            torch.testing.assert_close(answers[0], frozen.eval()(x))


def test_frozen_statistics_of_networks_computed_at_once_are_those_of_each(monkeypatch):
    monkeypatch.setattr(convolution, "FROZEN_AFTER", 2)
    alone = [convolution.FrozenBatchNorm(4) for _ in range(2)]
    together = Stacked(copy.deepcopy(alone))
    for _ in range(4):
        x = torch.randn(2, 6, 4, 5, 5)
        expected = torch.cat([layer(part) for layer, part in zip(alone, x)])
        torch.testing.assert_close(together(x.flatten(0, 1)), expected)


@pytest.mark.parametrize("name", get_args(Initialisation))
@pytest.mark.parametrize("kind", sorted(set(ZOO) - {"equivariant"}))
def test_every_initialisation_builds_and_learns(kind, name):
    module = ZOO[kind](initialisation=name).build(2, SHAPE, 2)
    x, level = noise(8, 2)
    first = module(x, level)
    assert torch.equal(first, torch.zeros_like(first)) == (name == "last_zero")
    optimiser = torch.optim.Adam(module.parameters(), 1e-3)
    for _ in range(2):  # a step in between, as the gradient goes through the last layer
        optimiser.zero_grad()
        (module(x, level) - 1).square().mean().backward()
        optimiser.step()
    assert all(torch.isfinite(weight.grad).all() for weight in module.parameters())
    assert all(weight.grad.abs().sum() > 0 for weight in module.parameters() if weight.ndim > 1)


def test_initial_weights_have_the_variance_of_their_papers():
    def layers(name):
        module = ConvNet(width=32, growth=1, hidden=[256], initialisation=name).build(1, SHAPE, 2)
        return [layer for layer in module.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]

    for name, expected in (("xavier", lambda n, m: 2 / (n + m)), ("he", lambda n, m: 2 / n)):
        for layer in layers(name):
            matrix = layer.weight.flatten(1)
            kernel = layer.weight[0, 0].numel()
            variance = expected(matrix.shape[1], matrix.shape[0] * kernel)
            # 4.5 times the error of the variance of a sample.
            assert abs(matrix.var() / variance - 1) < 4.5 * (2 / matrix.numel()) ** 0.5
            assert not layer.bias.any()
    for layer in layers("orthogonal"):
        values = torch.linalg.svdvals(layer.weight.flatten(1))
        torch.testing.assert_close(values, torch.full_like(values, 2**0.5))
    torch.manual_seed(3)
    usual = layers("torch")
    torch.manual_seed(3)
    *inner, last = layers("last_zero")
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(inner, usual))
    assert not last.weight.any()
    assert not last.bias.any()


@pytest.mark.parametrize("kernel", get_args(Kernel))
def test_the_receptive_field_grows_with_the_kernel(kernel):
    features = ConvNet(kernel=kernel, width=2, stages=1, blocks=1).build(1, (48, 48), 2).features
    x = torch.randn(1, 1, 48, 48, requires_grad=True)
    y = features(x)
    assert y.shape[2:] == (48, 48)
    y[0, :, 24, 24].sum().backward()
    seen = (x.grad[0, 0] != 0).nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [2 * kernel - 1] * 2


def test_a_blur_before_subsampling_is_zhangs_and_keeps_the_symmetry():
    (layer,) = convolution.halving("blur")
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    y = layer(x)
    most = nn.functional.max_pool2d(x, 2, 1)
    row = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 4
    kernel = torch.outer(row, row).expand(3, 1, 3, 3)
    expected = nn.functional.conv2d(most, kernel, stride=2, padding=1, groups=3)
    torch.testing.assert_close(y, expected)
    for k in range(dihedral.ORDER):
        turned = layer(dihedral.transform_images(x, k))
        torch.testing.assert_close(turned, dihedral.transform_images(y, k))


def test_a_blur_makes_a_shift_by_a_pixel_matter_less():
    smooth = torch.nn.functional.avg_pool2d(torch.randn(64, 1, 40, 40), 3, 1)

    def change(downsampling):
        (layer,) = convolution.halving(downsampling)
        # Two pixels are one pixel of the output; one pixel is half of one.
        first, half, whole = (layer(smooth[..., k : k + 32]) for k in range(3))
        inner = (..., slice(2, -2), slice(2, -2))
        return float((half - (first + whole) / 2)[inner].square().mean())

    assert change("blur") < 0.5 * change("max")


@pytest.mark.parametrize("pooling", get_args(Pooling))
@pytest.mark.parametrize("kind", ["convnet", "residual", "unet", "psf-branch", "attention", "resnet"])
def test_pooled_features_are_means_or_maxima_and_a_permutation_of_pixels_is_not_seen(kind, pooling):
    module = ZOO[kind](pooling=pooling, projection=5).build(2, SHAPE, 3).eval()
    x, level = noise(4, 2)
    features = module.features(x if kind != "psf-branch" else x[:, :1])
    found = heads.gathered(features, pooling)
    flat = features.flatten(2)
    expected = {"none": flat.flatten(1), "average": flat.mean(2), "max": flat.max(2).values}[pooling]
    torch.testing.assert_close(found, expected)
    assert torch.allclose(heads.gathered(features.flip(3), pooling), found) == (pooling != "none")
    answer = module.train()(x, level)
    assert answer.shape == (4, 3)
    answer.square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in module.parameters())


@pytest.mark.parametrize("shortcut", get_args(Shortcut))
@pytest.mark.parametrize("normalisation", ["none", "batch"])
def test_a_block_without_weights_is_its_shortcut(shortcut, normalisation):
    x = torch.randn(2, 3, 6, 6).abs()
    for outgoing, stride in ((3, 1), (5, 2)):
        block = nn.Sequential(
            *convolution.residual(3, outgoing, "relu", normalisation, shortcut, stride)
        ).eval()
        body = block[0] if shortcut == "plain" else block[0].body
        for weight in body.parameters():
            nn.init.zeros_(weight)
        y = block(x)
        assert y.shape == (2, outgoing, 6 // stride, 6 // stride)
        if shortcut == "plain":
            assert not y.any()
        elif shortcut == "all_projected" or (shortcut == "projected" and stride == 2):
            torch.testing.assert_close(y, block[0].shortcut(x).relu())
            assert block[0].shortcut[0].weight.shape == (outgoing, 3, 1, 1)
        else:
            assert torch.equal(y[:, :3], x[:, :, ::stride, ::stride])
            assert not y[:, 3:].any()


@pytest.mark.parametrize("blocks", [1, 2, 4, 8])
def test_layers_and_weights_of_residual_networks_are_as_in_the_paper(blocks):
    plain, padded, projected, all_projected = (
        ResNet(blocks=blocks, shortcut=shortcut, normalisation="none").build(1, SHAPE, 2)
        for shortcut in get_args(Shortcut)
    )
    layers = [layer for layer in plain.features.modules() if isinstance(layer, nn.Conv2d)]
    assert sum(layer.kernel_size == (3, 3) for layer in layers) == 4 * blocks + 1
    assert size(padded) == size(plain)
    assert size(projected) == size(plain) + (8 + 1) * 16
    within = blocks * (8 + 1) * 8 + (blocks - 1) * (16 + 1) * 16
    assert size(all_projected) == size(projected) + within


def test_a_locally_connected_layer_with_equal_kernels_is_a_convolution():
    for shape in ((12, 12), (7, 10)):
        usual = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        expected = usual(x := torch.randn(2, 3, *shape))
        layer = convolution.LocallyConnected(3, 4, expected[0, 0].numel())
        with torch.no_grad():
            layer.weight.copy_(usual.weight.flatten(1).expand_as(layer.weight))
            layer.bias.copy_(usual.bias.repeat(len(layer.weight)))
        torch.testing.assert_close(layer(x), expected)
        with torch.no_grad():
            layer.weight[0] = 0
            layer.bias[:4] = 0
        assert not layer(x)[:, :, 0, 0].any()
        torch.testing.assert_close(layer(x)[:, :, 1:], expected[:, :, 1:])


def test_networks_of_new_layers_are_computed_at_once_as_alone():
    x, level = noise(6)
    for options in (
        LocallyConnected(),
        Dense(),
        ResNet(),
        ConvNet(activation="swish", downsampling="blur", pooling="max"),
    ):
        alone = [options.build(1, SHAPE, 2) for _ in range(2)]
        together = Stacked(copy.deepcopy(alone))
        expected = torch.cat([one(x, level) for one in alone])
        found = together(torch.cat([x, x]), torch.cat([level, level]))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# -- Training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(ZOO))
def test_dropout_is_random_in_training_alone(kind):
    module = ZOO[kind](dropout=0.5).build(1, SHAPE, 2)
    x, level = noise(4)
    with torch.no_grad():
        assert not torch.equal(module.train()(x, level), module(x, level))
        assert torch.equal(module.eval()(x, level), module(x, level))
    assert not any(isinstance(layer, nn.Dropout) for layer in ZOO[kind]().build(1, SHAPE, 2).modules())


@pytest.mark.parametrize("kind", sorted(ZOO))
def test_same_seed_same_weights_and_answers(kind):
    answers = []
    x, level = noise(2)
    for _ in range(2):
        torch.manual_seed(5)
        answers.append(ZOO[kind]().build(1, SHAPE, 2).eval()(x, level))
    assert torch.equal(*answers)


@pytest.mark.parametrize("kind", sorted(ZOO))
def test_float32_loses_nothing_that_noise_would_not(kind):
    module = ZOO[kind]().build(1, SHAPE, 2).eval()
    x, level = noise(16)
    with torch.no_grad():
        single = module(x, level)
        double = module.double()(x.double(), level.double())
    # Inputs and answers are of order one; the bound at S/N 2e4 is a few 1e-4 of the shapes' spread.
    assert (single - double).abs().max() < 3e-6


@pytest.mark.trains
@pytest.mark.parametrize("kind", sorted(ZOO))
def test_a_few_steps_fit_a_few_stamps(kind):
    module = ZOO[kind]().build(1, SHAPE, 2).train()
    x, level = noise(8)
    # A quantity that turns as a shape does, so that every architecture can know it.
    y, x_grid = torch.meshgrid(*[torch.linspace(-1, 1, 24)] * 2, indexing="ij")
    target = torch.stack([(x[:, 0] * w).mean((1, 2)) for w in (x_grid**2 - y**2, 2 * x_grid * y)], 1)
    target = target / target.std()
    optimiser = torch.optim.Adam(module.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        loss = (module(x, level) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_features_of_all_stages_are_not_pooled():
    with pytest.raises(
        ConfigError, match=r"variants\.convnet\.options\.pooling: found max, but with scales: all"
    ):
        resolve_variant("convnet", {"options": {"pooling": "max", "scales": "all"}}, Recipe())


def test_heads_divide_the_width():
    with pytest.raises(
        ConfigError, match=r"variants\.attention\.options\.heads: 5 does not divide width, which is 48"
    ):
        resolve_variant("attention", {"options": {"heads": 5}}, Recipe())


def test_the_readmes_architecture_is_one_file_and_one_entry(tmp_path, monkeypatch):
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    section = readme.split("**An architecture**")[1].split("**An estimator**")[0]
    name = re.search(r"src/shearbench/networks/(\w+)\.py", section).group(1)
    (tmp_path / f"{name}.py").write_text(re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1))
    entry = yaml.safe_load(re.search(r"`(variants: .*)`", section).group(1))
    monkeypatch.setattr(shearbench.networks, "__path__", [*shearbench.networks.__path__, str(tmp_path)])
    try:
        for variant, changes in entry["variants"].items():
            module = resolve_variant(variant, changes, Recipe()).make().build(2, SHAPE, 2)
            assert module(*noise(3, 2)).shape == (3, 2)
    finally:
        sys.modules.pop(f"shearbench.networks.{name}", None)
