"""The small network written out in NumPy, with its own backward pass. docs/frameworks.md walks through it.

Images are arrays [galaxy, row, column, channel]. Each layer has two methods. ``forward`` computes the
output from the input and keeps what the way back needs. ``backward`` takes the derivative of the loss with
respect to the output, stores that with respect to its own kernel and bias, and returns that with respect to
the input.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from shearbench.frameworks.base import BETA1, BETA2, EPSILON, LAYERS, Sizes, Weights, check_weights

Array = NDArray[np.floating]


class Layer:
    """A layer without weights; those with weights have a kernel, a bias and their derivatives."""

    kernel: Array
    bias: Array
    kernel_gradient: Array
    bias_gradient: Array

    def forward(self, x: Array) -> Array:
        """Return the output of the layer."""
        raise NotImplementedError

    def backward(self, dy: Array) -> Array:
        """Return the derivative of the loss with respect to the input, from that to the output."""
        raise NotImplementedError


class Convolution(Layer):
    """A convolution: y[r, c, o] = b[o] + sum over i, j, k of x[r + i - 1, c + j - 1, k] K[i, j, k, o].

    Outside of the image, x is zero.
    """

    def __init__(self, kernel: Array, bias: Array) -> None:
        self.kernel, self.bias = kernel, bias

    def forward(self, x: Array) -> Array:
        """Convolve by one product of matrices (im2col): a row of `columns` has the neighbours of a pixel."""
        rows, columns = x.shape[1:3]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifted = [padded[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
        self.columns = np.concatenate(shifted, axis=3)
        return self.columns @ self._matrix + self.bias

    def backward(self, dy: Array) -> Array:
        """Give the derivative of each pixel's neighbours back to the pixels they came from (col2im)."""
        outputs, (rows, columns) = dy.shape[3], dy.shape[1:3]
        flat = dy.reshape(-1, outputs)
        self.kernel_gradient = (self.columns.reshape(len(flat), -1).T @ flat).reshape(self.kernel.shape)
        self.bias_gradient = flat.sum(axis=0)
        shifted = np.split(dy @ self._matrix.T, 9, axis=3)
        padded = np.zeros((len(dy), rows + 2, columns + 2, self.kernel.shape[2]), dy.dtype)
        for number, part in enumerate(shifted):
            i, j = divmod(number, 3)
            padded[:, i : i + rows, j : j + columns] += part
        return padded[:, 1:-1, 1:-1]

    @property
    def _matrix(self) -> Array:
        return self.kernel.reshape(-1, self.kernel.shape[3])


class Relu(Layer):
    """The rectifier: y = max(x, 0)."""

    def forward(self, x: Array) -> Array:
        """Set negative numbers to zero; the mask has the places of the others."""
        self.mask = x > 0
        return x * self.mask

    def backward(self, dy: Array) -> Array:
        """Let the derivative pass where the input was positive."""
        return dy * self.mask


class Pooling(Layer):
    """A square of 2x2 pixels becomes one; an odd last row or column is left out."""

    def forward(self, x: Array) -> Array:
        """Pool the squares, which are the axes 2 and 4 of `squares`."""
        n, rows, columns, channels = self.shape = x.shape
        rows, columns = rows // 2, columns // 2
        squares = x[:, : 2 * rows, : 2 * columns].reshape(n, rows, 2, columns, 2, channels)
        y = self.pool(squares)
        return y[:, :, 0, :, 0]

    def backward(self, dy: Array) -> Array:
        """Give each pixel its share of the derivative of its square."""
        n, rows, columns, channels = dy.shape
        dx = np.zeros(self.shape, dy.dtype)
        squares = self.mask * dy[:, :, None, :, None]
        dx[:, : 2 * rows, : 2 * columns] = squares.reshape(n, 2 * rows, 2 * columns, channels)
        return dx

    mask: Array
    """The share of each pixel in its square, which sums to 1 over the square."""

    def pool(self, squares: Array) -> Array:
        """Return one number for each square, with its axes kept, and set the mask."""
        raise NotImplementedError


class AveragePooling(Pooling):
    """The mean of a square: each pixel has a share of 1/4."""

    def pool(self, squares: Array) -> Array:
        """Return the mean of each square."""
        self.mask = np.full((1, 1, 2, 1, 2, 1), 0.25, squares.dtype)
        return squares.mean(axis=(2, 4), keepdims=True)


class MaxPooling(Pooling):
    """The largest pixel of a square: it has the whole share; equal ones divide it."""

    def pool(self, squares: Array) -> Array:
        """Return the largest pixel of each square."""
        largest = squares.max(axis=(2, 4), keepdims=True)
        self.mask = (squares == largest).astype(squares.dtype)
        self.mask /= self.mask.sum(axis=(2, 4), keepdims=True)
        return largest


class Flatten(Layer):
    """All pixels and channels in one row, for the dense layers."""

    def forward(self, x: Array) -> Array:
        """Return an array [galaxy, number of the pixel and channel]."""
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, dy: Array) -> Array:
        """Return the derivative as an image again."""
        return dy.reshape(self.shape)


class Dense(Layer):
    """A dense layer: y[o] = b[o] + sum over i of x[i] K[i, o]."""

    def __init__(self, kernel: Array, bias: Array) -> None:
        self.kernel, self.bias = kernel, bias

    def forward(self, x: Array) -> Array:
        """Multiply by the kernel and add the bias."""
        self.x = x
        return x @ self.kernel + self.bias

    def backward(self, dy: Array) -> Array:
        """Multiply by the transposed kernel."""
        self.kernel_gradient = self.x.T @ dy
        self.bias_gradient = dy.sum(axis=0)
        return dy @ self.kernel.T


class Skip(Layer):
    """Layers with a way around them: the input, its channels twice, is added to their output."""

    def __init__(self, *layers: Layer) -> None:
        self.layers = layers

    def forward(self, x: Array) -> Array:
        """Add the input to the output of the layers."""
        y = np.concatenate([x, x], axis=3)
        for layer in self.layers:
            x = layer.forward(x)
        return y + x

    def backward(self, dy: Array) -> Array:
        """Add the derivatives of both ways."""
        first, second = np.split(dy, 2, axis=3)
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return dy + first + second


class NumpyNetwork:
    """The small network in NumPy; see `shearbench.frameworks.base.SmallNetwork`.

    Parameters
    ----------
    sizes : Sizes
    weights : dict of str to ndarray
    precision : {'float64', 'float32'}
        Type of all numbers.
    """

    def __init__(self, sizes: Sizes, weights: Weights, precision: str = "float64") -> None:
        check_weights(sizes, weights)
        self.dtype = np.dtype(precision)
        own = {name: np.array(value, self.dtype) for name, value in weights.items()}
        first, second = (
            Convolution(own[f"{name}.kernel"], own[f"{name}.bias"])
            for name in ("convolution1", "convolution2")
        )
        dense = [Dense(own[f"{name}.kernel"], own[f"{name}.bias"]) for name in ("dense1", "dense2")]
        pooling = MaxPooling if sizes.pooling == "max" else AveragePooling
        block: list[Layer] = [second, Relu()]
        self.layers: list[Layer] = [
            first,
            Relu(),
            pooling(),
            *([Skip(*block)] if sizes.skip else block),
            pooling(),
            Flatten(),
            dense[0],
            Relu(),
            dense[1],
        ]
        self.with_weights = dict(zip(LAYERS, [first, second, *dense]))
        self.adam = Adam(self.weights())

    def forward(self, images: Array, rounded: Callable[[Array], Array] | None = None) -> NDArray[np.floating]:
        """Return the outputs for some images.

        Parameters
        ----------
        images : ndarray, shape (n, ny, nx)
        rounded : callable, optional
            Function that the output of every layer is replaced by, to round it.

        Returns
        -------
        ndarray, shape (n, outputs)
        """
        x = np.asarray(images, self.dtype)[..., None]
        for layer in self.layers:
            x = layer.forward(x)
            if rounded is not None:
                x = rounded(x)
        return x

    def gradients(self, images: Array, targets: Array) -> tuple[float, Weights]:
        """Return the loss L, the mean of (y - t)^2, and its derivatives, from dL/dy = 2 (y - t) / count."""
        difference = self.forward(images) - np.asarray(targets, self.dtype)
        dy = 2 * difference / difference.size
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        found: Weights = {}
        for name, layer in self.with_weights.items():
            found |= {f"{name}.kernel": layer.kernel_gradient, f"{name}.bias": layer.bias_gradient}
        return float(np.mean(difference**2)), found

    def step(self, images: Array, targets: Array, rate: float) -> float:
        """Change the weights by one step of Adam; return the loss before it."""
        loss, gradients = self.gradients(images, targets)
        weights = self.weights()
        for name, change in self.adam.changes(gradients, rate).items():
            weights[name] -= change
        return loss

    def weights(self) -> Weights:
        """Return the weights as they are now; a change of these arrays changes the network."""
        found: Weights = {}
        for name, layer in self.with_weights.items():
            found |= {f"{name}.kernel": layer.kernel, f"{name}.bias": layer.bias}
        return found


class Adam:
    """The optimiser Adam (Kingma & Ba 2015, arXiv:1412.6980): a step of its own size for every weight.

    ``m`` is a running mean of the gradient g, ``v`` one of its square. A weight changes by
    rate * m / (sqrt(v) + epsilon), with m and v divided by the sum of the weights of their means, which is
    1 - beta^t after t steps.

    Parameters
    ----------
    weights : dict of str to ndarray
        Arrays of the shapes and types of the weights.
    """

    def __init__(self, weights: Weights) -> None:
        self.steps = 0
        self.m = {name: np.zeros_like(value) for name, value in weights.items()}
        self.v = {name: np.zeros_like(value) for name, value in weights.items()}

    def changes(self, gradients: Weights, rate: float) -> Weights:
        """Return the numbers to subtract from the weights."""
        self.steps += 1
        found: Weights = {}
        for name, g in gradients.items():
            self.m[name] = BETA1 * self.m[name] + (1 - BETA1) * g
            self.v[name] = BETA2 * self.v[name] + (1 - BETA2) * g**2
            m = self.m[name] / (1 - BETA1**self.steps)
            v = self.v[name] / (1 - BETA2**self.steps)
            found[name] = rate * m / (np.sqrt(v) + EPSILON)
        return found
