"""Types and limits of options that architectures and their torch modules share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

LEVELS = 2
"""How many numbers tell a network the noise level: relative to the stamp's flux, and to the median flux."""

MAX_WIDTH = 10**4
Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
"""Number of units of a layer, or of channels of an image."""
Depth = Annotated[int, Field(ge=1, le=100)]
"""Number of layers, blocks or stages, one after the other; at least one."""
Further = Annotated[int, Field(ge=0, le=100)]
"""Number of layers or blocks, which may be zero."""
Activation = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "swish", "mish", "tanh"]
"""Name of an activation function. `swish` is x sigmoid(b x) with a learned b, `silu` the same with b = 1."""
Normalisation = Literal["none", "batch", "batch_frozen", "group", "layer"]
"""Name of a normalisation. `batch_frozen` uses the statistics of the first steps in all later ones."""
Initialisation = Literal["torch", "xavier", "he", "orthogonal", "last_zero"]
"""Name of a distribution of the weights before training; `torch` is the default of each layer of torch."""
Encoding = Literal["none", "learned", "sinusoidal", "concatenated"]
"""How the tokens of a transformer are told their positions."""
Pooling = Literal["none", "average", "max"]
"""How the dense layers take the features of an image: each position's, or one number for all positions."""
Downsampling = Literal["max", "average", "strided", "blur", "dilated"]
"""How the receptive field of convolutions doubles from stage to stage."""
Shortcut = Literal["plain", "padded", "projected", "all_projected"]
"""Shortcut around the convolutions of a residual block; `plain` is a block without one."""
Kernel = Literal[1, 3, 5, 7, 9, 11]
"""Side of a kernel [pixels]; it is odd, so that an image keeps its size."""


def too_wide(width: int, growth: int, stages: int, option: str = "width") -> str | None:
    """Return why the last stage has too many channels, or None if it has not.

    Parameters
    ----------
    width : int
        Channels of the first stage.
    growth : int
        Factor by which the number of channels grows at each stage.
    stages : int
    option : str
        Name of the option that gives `width`, for the message.
    """
    if width * growth ** (stages - 1) <= MAX_WIDTH:
        return None
    return (
        f"options.{option}: {width} channels, times {growth} in each of {stages} stages but the first, give "
        f"more than {MAX_WIDTH} in the last stage; use a smaller {option}, growth or number of stages"
    )
