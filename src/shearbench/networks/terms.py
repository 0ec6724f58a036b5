"""Terms that architectures and their modules share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

LEVELS = 2
"""Numbers by which a network is told the noise: of the stamp relative to its flux, and absolute."""

MAX_WIDTH = 10**4
Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
"""Units of a layer, or channels of an image."""
Depth = Annotated[int, Field(ge=1, le=100)]
"""Layers, blocks or stages that follow each other."""
Further = Annotated[int, Field(ge=0, le=100)]
"""The same, where none is enough."""
Activation = Literal["relu", "leaky_relu", "gelu", "silu"]
Normalisation = Literal["none", "batch", "group", "layer"]


def too_wide(width: int, growth: int, stages: int, option: str = "width") -> str | None:
    """Return why channels that are multiplied from stage to stage become too many, or None if they do not."""
    if width * growth ** (stages - 1) <= MAX_WIDTH:
        return None
    return (
        f"options.{option}: {width} channels, times {growth} in each of {stages} stages but the first, are "
        f"more than {MAX_WIDTH} in the last"
    )
