"""The small network in Keras 3, on the backend JAX, by the functional API; with a skip connection too."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import numpy as np
from numpy.typing import NDArray

from shearbench.frameworks.base import BETA1, BETA2, EPSILON, LAYERS, Sizes, Weights, check_weights

Array = NDArray[np.floating]

jax.config.update("jax_default_matmul_precision", "highest")


def functional(sizes: Sizes, dtype: str) -> keras.Model:
    """Return the small network as a model of Keras.

    Parameters
    ----------
    sizes : Sizes
    dtype : {'float64', 'float32'}
    """
    from keras import layers

    pooling = layers.MaxPooling2D if sizes.pooling == "max" else layers.AveragePooling2D
    # The weights are set afterwards.
    same: dict[str, Any] = {"activation": "relu", "dtype": dtype, "kernel_initializer": "zeros"}
    images = keras.Input(sizes.shape, dtype=dtype)
    x = layers.Reshape((*sizes.shape, 1), dtype=dtype)(images)
    x = layers.Conv2D(sizes.width, 3, padding="same", name="convolution1", **same)(x)
    x = before = pooling(2, dtype=dtype)(x)
    x = layers.Conv2D(2 * sizes.width, 3, padding="same", name="convolution2", **same)(x)
    if sizes.skip:
        x = layers.Add(dtype=dtype)([x, layers.Concatenate(dtype=dtype)([before, before])])
    x = layers.Flatten(dtype=dtype)(pooling(2, dtype=dtype)(x))
    x = layers.Dense(sizes.hidden, name="dense1", **same)(x)
    return keras.Model(images, layers.Dense(sizes.outputs, name="dense2", dtype=dtype)(x))


class KerasNetwork:
    """The small network in Keras; see `shearbench.frameworks.base.SmallNetwork`.

    Keras adds the epsilon of Adam to the root of the mean square before it corrects this mean, the other
    frameworks after it. For gradients much larger than epsilon, 1e-8, this makes no difference.

    Parameters
    ----------
    sizes : Sizes
    weights : dict of str to ndarray
    precision : {'float64', 'float32'}
        ``float64`` switches JAX's numbers of 64 bits on for the whole process.
    """

    def __init__(self, sizes: Sizes, weights: Weights, precision: str = "float32") -> None:
        check_weights(sizes, weights)
        if precision == "float64":
            jax.config.update("jax_enable_x64", True)
        self.dtype = np.dtype(precision)
        self.model = functional(sizes, precision)
        for name in LAYERS:
            self.model.get_layer(name).set_weights([weights[f"{name}.kernel"], weights[f"{name}.bias"]])
        adam = keras.optimizers.Adam(beta_1=BETA1, beta_2=BETA2, epsilon=EPSILON)
        self.model.compile(optimizer=adam, loss="mse", jit_compile=True)

    def forward(self, images: Array) -> Array:
        """Return the outputs for some images; see `SmallNetwork.forward`."""
        return np.array(self.model.predict_on_batch(np.asarray(images, self.dtype)))

    def gradients(self, images: Array, targets: Array) -> tuple[float, Weights]:
        """Return the loss and its derivatives; see `SmallNetwork.gradients`."""
        model, x, t = self.model, np.asarray(images, self.dtype), np.asarray(targets, self.dtype)

        def loss(trainable: Any) -> Any:
            y, _ = model.stateless_call(trainable, model.non_trainable_variables, x)
            return ((y - t) ** 2).mean()

        variables = model.trainable_variables
        value, found = jax.jit(jax.value_and_grad(loss))([variable.value for variable in variables])
        names = {id(variable): name for name, variable in self._variables().items()}
        return float(value), {names[id(v)]: np.array(g) for v, g in zip(variables, found)}

    def step(self, images: Array, targets: Array, rate: float) -> float:
        """Change the weights by one step of Adam; see `SmallNetwork.step`."""
        self.model.optimizer.learning_rate = rate
        self.model.reset_metrics()  # otherwise the loss is a mean over all steps
        loss = self.model.train_on_batch(np.asarray(images, self.dtype), np.asarray(targets, self.dtype))
        return float(loss)

    def weights(self) -> Weights:
        """Return the weights as they are now."""
        return {name: np.array(variable.value) for name, variable in self._variables().items()}

    def _variables(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in LAYERS:
            layer = self.model.get_layer(name)
            found |= {f"{name}.kernel": layer.kernel, f"{name}.bias": layer.bias}
        return found
