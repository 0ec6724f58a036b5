"""The small network in words that all frameworks share: its sizes, its weights, and how it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from shearbench.frameworks.options import NETWORKS, NetworkName

Weights = dict[str, NDArray[np.floating]]
"""Kernels and biases by layer, such as ``convolution1.kernel`` (`Sizes.weights` gives their shapes)."""

LAYERS = ("convolution1", "convolution2", "dense1", "dense2")
"""The layers with weights, from the image to the shape."""

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
"""The constants of Adam in all frameworks."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of the small network: two convolutions, each with 2x2 pooling, and two dense layers.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns of a stamp.
    width : int
        Channels of the first convolution; the second has twice as many.
    hidden : int
        Units of the first dense layer.
    outputs : int
        Numbers that the network computes from a stamp.
    pooling : {'average', 'max'}
        How a square of 2x2 pixels becomes one.
    skip : bool
        Whether the input of the second convolution, its channels twice, is added to its output.
    """

    shape: tuple[int, int]
    width: int = 16
    hidden: int = 128
    outputs: int = 2
    pooling: Literal["average", "max"] = "average"
    skip: bool = False

    @classmethod
    def of(cls, shape: tuple[int, int], options: Mapping[str, Any], name: NetworkName) -> Sizes:
        """Return the sizes of one of `NETWORKS`, with the options of the section `frameworks`."""
        width, hidden, pooling = (options[key] for key in ("width", "hidden", "pooling"))
        return cls(shape, width, hidden, pooling=pooling, skip=NETWORKS[name].skip)

    @property
    def pooled(self) -> tuple[int, int, int]:
        """Rows, columns and channels of the image that the dense layers take."""
        return self.shape[0] // 4, self.shape[1] // 4, 2 * self.width

    @property
    def weights(self) -> dict[str, tuple[int, ...]]:
        """The shape of each kernel and bias.

        A convolution has a kernel [row, column, input channel, output channel], a dense layer a kernel
        [input, output]; the first dense layer takes rows, columns and channels in this order.
        """
        rows, columns, channels = self.pooled
        shapes = [
            (3, 3, 1, self.width),
            (3, 3, self.width, channels),
            (rows * columns * channels, self.hidden),
            (self.hidden, self.outputs),
        ]
        found: dict[str, tuple[int, ...]] = {}
        for layer, shape in zip(LAYERS, shapes):
            found |= {f"{layer}.kernel": shape, f"{layer}.bias": shape[-1:]}
        return found


class SmallNetwork(Protocol):
    """The small network in one framework, with its optimiser Adam.

    It is made from `Sizes`, `Weights` and the name of its arithmetic, ``float32`` or ``float64``. Images have
    the shape (n, ny, nx), targets and outputs (n, outputs). The loss is the mean of the squared differences.
    """

    def forward(self, images: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the outputs for some images."""
        ...

    def gradients(self, images: NDArray[np.floating], targets: NDArray[np.floating]) -> tuple[float, Weights]:
        """Return the loss, and its derivative with respect to every weight."""
        ...

    def step(self, images: NDArray[np.floating], targets: NDArray[np.floating], rate: float) -> float:
        """Change the weights by one step of Adam with this learning rate; return the loss before it."""
        ...

    def weights(self) -> Weights:
        """Return the weights as they are now."""
        ...


def xavier(sizes: Sizes, seed: int) -> Weights:
    """Return initial weights, uniform between plus and minus the square root of 6 / (inputs + outputs).

    Glorot & Bengio 2010 (PMLR 9, 249): with this variance, 2 / (inputs + outputs), neither the signal on its
    way forward nor the gradient on its way back grows or fades from layer to layer. Biases are zero.

    Parameters
    ----------
    sizes : Sizes
    seed : int

    Returns
    -------
    dict of str to ndarray of float64
    """
    rng = np.random.default_rng([seed, 0])
    found: Weights = {}
    for name, shape in sizes.weights.items():
        if name.endswith("bias"):
            found[name] = np.zeros(shape)
            continue
        window = int(np.prod(shape[:-2]))  # 9 for a convolution, 1 for a dense layer
        limit = np.sqrt(6 / (window * (shape[-2] + shape[-1])))
        found[name] = rng.uniform(-limit, limit, shape)
    return found


def check_weights(sizes: Sizes, weights: Weights) -> None:
    """Check that weights have the shapes of a network.

    Raises
    ------
    ValueError
        A kernel or bias is missing, or has another shape.
    """
    found = {name: np.shape(value) for name, value in weights.items()}
    if found != sizes.weights:
        raise ValueError(f"weights have the shapes {found}, expected {sizes.weights}")
