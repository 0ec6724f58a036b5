"""One small network in all frameworks: from the same weights, the same outputs, gradients and training."""

import importlib
import importlib.util

import numpy as np
import pytest

from shearbench.frameworks.base import Sizes, check_weights, xavier
from shearbench.frameworks.numpy_network import Adam, NumpyNetwork

CLASSES = {"torch": "TorchNetwork", "jax": "JaxNetwork", "keras": "KerasNetwork"}
NEEDS = {"torch": ("torch",), "jax": ("jax", "flax", "optax"), "keras": ("jax", "keras")}
FORWARD = {"float32": 1e-5, "float64": 1e-10}
GRADIENTS = {"float32": 1e-4, "float64": 1e-8}
# The last row and column of the stamps have no partner to be pooled with.
SHAPE = (13, 11)
frameworks = pytest.mark.parametrize(
    "framework",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                not all(map(importlib.util.find_spec, packages)), reason=f"needs {', '.join(packages)}"
            ),
        )
        for name, packages in NEEDS.items()
    ],
)


def network(framework, sizes, weights, precision):
    module = importlib.import_module(f"shearbench.frameworks.{framework}_network")
    return getattr(module, CLASSES[framework])(sizes, weights, precision)


def data(n, shape=SHAPE, seed=1):
    """Return images, and targets that depend on them, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(n, *shape))
    targets = np.stack([images[:, 2:5, 2:5].mean((1, 2)), images[:, 5:9].std((1, 2))], axis=1)
    return images, targets


def near(found, expected, tolerance):
    """Compare arrays; the tolerance is relative to the largest number."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def weights_of(sizes):
    """Return initial weights; biases are not zero, so that those of one layer cannot pass for another's."""
    rng = np.random.default_rng(5)
    return {
        name: rng.normal(size=value.shape) / 10 if name.endswith("bias") else value
        for name, value in xavier(sizes, 3).items()
    }


def networks(framework):
    """Return the kinds of the network that a framework has, as (pooling, skip)."""
    return [("average", False), ("max", framework == "keras")]


@pytest.mark.parametrize("precision", ["float32", "float64"])
@frameworks
def test_outputs_and_gradients_are_those_of_numpy(framework, precision):
    images, targets = data(6)
    for pooling, skip in networks(framework):
        sizes = Sizes(SHAPE, width=3, hidden=7, pooling=pooling, skip=skip)
        weights = weights_of(sizes)
        reference = NumpyNetwork(sizes, weights)
        other = network(framework, sizes, weights, precision)
        assert other.forward(images).dtype == precision
        near(other.forward(images), reference.forward(images), FORWARD[precision])
        loss, gradients = other.gradients(images, targets)
        expected, of_numpy = reference.gradients(images, targets)
        assert loss == pytest.approx(expected, rel=GRADIENTS[precision])
        assert list(gradients) == list(of_numpy)
        for name, value in of_numpy.items():
            near(gradients[name], value, GRADIENTS[precision])
        for name, value in other.weights().items():
            near(value, weights[name], FORWARD[precision])


@frameworks
def test_the_loss_after_a_hundred_steps_is_that_of_numpy(framework):
    images, targets = data(400)
    sizes = Sizes(SHAPE, width=3, hidden=7, skip=framework == "keras")
    weights = weights_of(sizes)
    both = NumpyNetwork(sizes, weights, "float32"), network(framework, sizes, weights, "float32")
    for step in range(100):
        batch = slice(step % 20 * 20, step % 20 * 20 + 20)
        losses = [one.step(images[batch], targets[batch], 3e-3 * (1 - step / 200)) for one in both]
    ends = [one.gradients(images, targets)[0] for one in both]
    assert ends[0] < NumpyNetwork(sizes, weights).gradients(images, targets)[0] / 2
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert ends[1] == pytest.approx(ends[0], rel=1e-3)


@pytest.mark.parametrize("pooling", ["average", "max"])
@pytest.mark.parametrize("skip", [False, True])
def test_numpys_gradients_are_finite_differences(pooling, skip):
    sizes = Sizes((9, 8), width=2, hidden=3, pooling=pooling, skip=skip)
    images, targets = data(3, sizes.shape)
    one = NumpyNetwork(sizes, weights_of(sizes))
    _, gradients = one.gradients(images, targets)
    step = 1e-6
    for name, values in one.weights().items():
        difference = np.empty_like(values)
        for place in np.ndindex(values.shape):
            before = values[place]
            ends = []
            for sign in (1, -1):
                values[place] = before + sign * step
                ends.append(np.mean((one.forward(images) - targets) ** 2))
            values[place] = before
            difference[place] = (ends[0] - ends[1]) / (2 * step)
        near(gradients[name], difference, 1e-7)


@pytest.mark.parametrize("pooling", ["average", "max"])
def test_the_derivative_of_a_layer_with_respect_to_its_input(pooling):
    """The first layer's is not needed by a training, so the test of the weights does not see it."""
    sizes = Sizes((9, 8), width=2, hidden=3, pooling=pooling, skip=True)
    one = NumpyNetwork(sizes, weights_of(sizes))
    x = np.random.default_rng(2).normal(size=(2, 9, 8, 1))
    for layer in one.layers:
        y = layer.forward(x)
        towards = np.random.default_rng(3).normal(size=y.shape)
        change = np.random.default_rng(4).normal(size=x.shape)
        slope = (layer.backward(towards) * change).sum()
        ends = [(towards * layer.forward(x + sign * 1e-6 * change)).sum() for sign in (1, -1)]
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)
        x = np.random.default_rng(6).normal(size=y.shape)  # without the zeros that a rectifier makes


def test_equal_pixels_divide_the_derivative_of_max_pooling():
    from shearbench.frameworks.numpy_network import MaxPooling

    layer = MaxPooling()
    assert layer.forward(np.ones((1, 2, 2, 1))).item() == 1
    assert layer.backward(np.full((1, 1, 1, 1), 4.0)).ravel().tolist() == [1, 1, 1, 1]


def test_float32_stays_float32():
    sizes = Sizes(SHAPE, width=3, hidden=7)
    one = NumpyNetwork(sizes, weights_of(sizes), "float32")
    images, targets = data(4)
    one.step(images, targets, 1e-3)
    assert {value.dtype for value in one.weights().values()} == {np.dtype("float32")}
    assert {value.dtype for value in one.gradients(images, targets)[1].values()} == {np.dtype("float32")}
    assert one.forward(images).dtype == np.float32


def test_initial_weights_have_xaviers_variance():
    sizes = Sizes((24, 24), width=16, hidden=64)
    weights = xavier(sizes, 1)
    check_weights(sizes, weights)
    assert weights["dense1.kernel"].var() == pytest.approx(2 / (6 * 6 * 32 + 64), rel=0.02)
    assert weights["convolution2.kernel"].var() == pytest.approx(2 / (9 * (16 + 32)), rel=0.05)
    assert not any(weights[name].any() for name in weights if name.endswith("bias"))
    assert (xavier(sizes, 1)["dense1.kernel"] == weights["dense1.kernel"]).all()
    assert (xavier(sizes, 2)["dense1.kernel"] != weights["dense1.kernel"]).any()


def test_the_first_step_of_adam_is_the_rate_times_the_sign():
    gradients = {"a": np.array([3.0, -1e-3])}
    assert Adam(gradients).changes(gradients, 0.1)["a"] == pytest.approx([0.1, -0.1], rel=1e-4)


def test_weights_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"weights have the shapes"):
        NumpyNetwork(Sizes(SHAPE, width=3), xavier(Sizes(SHAPE, width=4), 1))
