"""What networks with a dense head have in common: its options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from shearbench.networks.base import Architecture
from shearbench.networks.terms import Activation, Width

if TYPE_CHECKING:
    from torch import nn


class DenseHead(Architecture):
    """Features of the image, and dense layers that make an answer of them."""

    activation: Activation = Field("gelu", description="The non-linearity.")
    projection: Width | None = Field(
        8,
        description="Channels that a last 1x1 convolution leaves for the dense layers; null: all of them.",
    )
    hidden: list[Width] = Field([128], max_length=100, description="Units of the dense layers.")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Part of the units left out at random at each step of the training."
    )

    def project(self, channels: int) -> list[nn.Module]:
        """Return the last convolution of images of so many channels: one module, or none."""
        from torch import nn

        return [] if self.projection is None else [nn.Conv2d(channels, self.projection, 1)]

    def with_head(
        self, steps: list[nn.Module], channels: int, shape: tuple[int, int], outputs: int
    ) -> nn.Module:
        """Put the dense layers after the steps that make the features."""
        from torch import nn

        from shearbench.networks.modules import heads

        features = nn.Sequential(*steps)
        return heads.WithHead(features, channels, shape, self.hidden, outputs, self.activation, self.dropout)


def cannot_be_halved(shape: tuple[int, int], fold: int, stages: int, exactly: bool = False) -> str | None:
    """Return why stamps cannot be folded, and then halved from each stage to the next, or None if they can.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of a stamp.
    fold : int
        Side of the squares of pixels that become channels.
    stages : int
        One more than there are halvings.
    exactly : bool
        Whether a side must be even to be halved.
    """
    size = f"stamps of {shape[0]} by {shape[1]} pixels"
    if any(side % fold for side in shape):
        return f"options.fold: {fold} does not divide {size}"
    folded = "" if fold == 1 else f" (folded by {fold})"
    if min(shape) // fold < 2 ** (stages - 1):
        return f"options.stages: {stages} halve {size}{folded} to nothing"
    if exactly and any(side // fold % 2 ** (stages - 1) for side in shape):
        return f"options.stages: {stages} halve {size}{folded} to half pixels"
    return None
