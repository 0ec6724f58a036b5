"""The small network in JAX: flax.nnx for the layers, optax for Adam, compiled by XLA."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from numpy.typing import NDArray

from shearbench.frameworks.base import BETA1, BETA2, EPSILON, LAYERS, Sizes, Weights, check_weights

Array = NDArray[np.floating]

# On a GPU, products of float32 would otherwise be computed with 10 bits.
jax.config.update("jax_default_matmul_precision", "highest")


class Layers(nnx.Module):
    """The layers of the small network."""

    def __init__(self, sizes: Sizes, dtype: Any) -> None:
        # The weights are set afterwards.
        zeros = nnx.initializers.zeros
        same: dict[str, Any] = {
            "dtype": dtype,
            "param_dtype": dtype,
            "kernel_init": zeros,
            "rngs": nnx.Rngs(0),
        }
        rows, columns, channels = sizes.pooled
        self.convolution1 = nnx.Conv(1, sizes.width, (3, 3), padding="SAME", **same)
        self.convolution2 = nnx.Conv(sizes.width, channels, (3, 3), padding="SAME", **same)
        self.dense1 = nnx.Linear(rows * columns * channels, sizes.hidden, **same)
        self.dense2 = nnx.Linear(sizes.hidden, sizes.outputs, **same)
        self.max = sizes.pooling == "max"

    def __call__(self, images: jax.Array) -> jax.Array:
        """Map images [n, ny, nx] to outputs [n, outputs]."""
        pool = nnx.max_pool if self.max else nnx.avg_pool
        x = pool(nnx.relu(self.convolution1(images[..., None])), (2, 2), (2, 2))
        x = pool(nnx.relu(self.convolution2(x)), (2, 2), (2, 2))
        return self.dense2(nnx.relu(self.dense1(x.reshape(len(x), -1))))


class JaxNetwork:
    """The small network in JAX; see `shearbench.frameworks.base.SmallNetwork`.

    Parameters
    ----------
    sizes : Sizes
    weights : dict of str to ndarray
    precision : {'float64', 'float32'}
        ``float64`` switches JAX's numbers of 64 bits on for the whole process.

    Raises
    ------
    ValueError
        A skip connection is asked for.
    """

    def __init__(self, sizes: Sizes, weights: Weights, precision: str = "float32") -> None:
        check_weights(sizes, weights)
        if sizes.skip:
            raise ValueError("the network in JAX has no skip connection")
        if precision == "float64":
            jax.config.update("jax_enable_x64", True)
        self.dtype = np.dtype(precision)
        layers = Layers(sizes, self.dtype)
        for name in LAYERS:
            layer = getattr(layers, name)
            layer.kernel[...] = jax.numpy.asarray(weights[f"{name}.kernel"], self.dtype)
            layer.bias[...] = jax.numpy.asarray(weights[f"{name}.bias"], self.dtype)
        graph, self.state = nnx.split(layers)
        adam = optax.scale_by_adam(BETA1, BETA2, EPSILON)
        self.adam_state = adam.init(self.state)

        def outputs(state: Any, images: jax.Array) -> jax.Array:
            return nnx.merge(graph, state)(images)

        def loss(state: Any, images: jax.Array, targets: jax.Array) -> jax.Array:
            return ((outputs(state, images) - targets) ** 2).mean()

        def step(state: Any, adam_state: Any, images: jax.Array, targets: jax.Array, rate: jax.Array) -> Any:
            value, gradients = jax.value_and_grad(loss)(state, images, targets)
            directions, adam_state = adam.update(gradients, adam_state)
            changes = jax.tree.map(lambda direction: -rate * direction, directions)
            return optax.apply_updates(state, changes), adam_state, value

        self._outputs = jax.jit(outputs)
        self._gradients = jax.jit(jax.value_and_grad(loss))
        self._step = jax.jit(step, donate_argnums=(0, 1))

    def forward(self, images: Array) -> Array:
        """Return the outputs for some images; see `SmallNetwork.forward`."""
        return np.array(self._outputs(self.state, self._array(images)))

    def gradients(self, images: Array, targets: Array) -> tuple[float, Weights]:
        """Return the loss and its derivatives; see `SmallNetwork.gradients`."""
        loss, gradients = self._gradients(self.state, self._array(images), self._array(targets))
        return float(loss), _named(gradients)

    def step(self, images: Array, targets: Array, rate: float) -> float:
        """Change the weights by one step of Adam; see `SmallNetwork.step`."""
        self.state, self.adam_state, loss = self._step(
            self.state, self.adam_state, self._array(images), self._array(targets), self.dtype.type(rate)
        )
        return float(loss)

    def weights(self) -> Weights:
        """Return the weights as they are now."""
        return _named(self.state)

    def _array(self, values: Array) -> Array:
        return np.asarray(values, self.dtype)


def _named(state: Any) -> Weights:
    return {
        f"{name}.{part}": np.array(state[name][part][...]) for name in LAYERS for part in ("kernel", "bias")
    }
