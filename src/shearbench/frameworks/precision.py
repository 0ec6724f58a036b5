"""Errors of arithmetic: the NumPy network with the same weights in numbers of 64, 32 and 16 bits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from shearbench.frameworks.base import Sizes, Weights
from shearbench.frameworks.numpy_network import NumpyNetwork

Array = NDArray[np.floating]
Forward = Callable[[Array], Array]


def float16(x: Array) -> Array:
    """Round to float16: 11 bits, and no numbers above 65504 or below 6e-8."""
    return x.astype(np.float16).astype(np.float32)


def bfloat16(x: Array) -> Array:
    """Round to bfloat16: 8 bits, and the range of float32. Halves are rounded to the even neighbour."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    even = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + np.uint32(0x7FFF) + even) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


ROUNDED: dict[str, Callable[[Array], Array]] = {"float16": float16, "bfloat16": bfloat16}
"""Formats of 16 bits. Weights, input and the output of each layer are rounded. Sums inside a layer have 32
bits, as in the units of a GPU that multiply matrices."""

PRECISIONS = ("float64", "float32", *ROUNDED)


def in_precision(precision: str, sizes: Sizes, weights: Weights) -> Forward:
    """Return the function from scaled stamps to outputs of a network in one of `PRECISIONS`.

    Parameters
    ----------
    precision : str
    sizes : Sizes
    weights : dict of str to ndarray
    """
    if precision not in ROUNDED:
        return NumpyNetwork(sizes, weights, precision).forward
    rounded = ROUNDED[precision]
    network = NumpyNetwork(
        sizes, {name: rounded(np.asarray(value, np.float32)) for name, value in weights.items()}, "float32"
    )
    return lambda images: network.forward(rounded(np.asarray(images, np.float32)), rounded)
