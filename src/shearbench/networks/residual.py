"""Residual convolutional networks with pre-activation."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from shearbench.networks.head import DenseHead, cannot_be_halved
from shearbench.networks.terms import Depth, Further, Normalisation, Width, too_wide

if TYPE_CHECKING:
    from torch import nn


class Residual(DenseHead):
    """Stages of residual blocks, with normalisation and activation before each of two 3x3 convolutions.

    From each stage to the next the image is halved and the number of channels doubled. He et al. 2016,
    arXiv:1603.05027.
    """

    kind: ClassVar[str] = "residual"

    downsampling: Literal["squeeze", "strided", "average"] = Field(
        "squeeze",
        description="How the image is halved: `squeeze` rearranges each square of 2 by 2 pixels into "
        "channels and loses no information; `strided` is a convolution of stride 2; `average` is average "
        "pooling.",
    )
    fold: Depth = Field(
        2,
        description="Before the first convolution, squares of `fold` by `fold` pixels are rearranged into "
        "channels, which loses no information; 1 leaves the image as it is.",
    )
    width: Width = Field(12, description="Channels of the first stage.")
    stages: Depth = Field(3, description="Number of stages; the image is halved between them.")
    blocks: Further = Field(2, description="Number of residual blocks in each stage.")
    normalisation: Normalisation = Field("none", description="Normalisation before each activation.")

    def objection(self, shape: tuple[int, int]) -> str | None:
        """Return why the network cannot take stamps of this shape (rows, columns), or None if it can."""
        problem = cannot_be_halved(shape, self.fold, self.stages, exactly=self.downsampling == "squeeze")
        return problem or too_wide(self.width, 2, self.stages)

    def build(self, channels: int, shape: tuple[int, int], outputs: int) -> nn.Module:
        """Build the network; see `Architecture.build`."""
        from torch import nn

        from shearbench.networks.modules import convolution

        width = self.width
        steps: list[nn.Module] = [nn.PixelUnshuffle(self.fold)] if self.fold > 1 else []
        steps.append(nn.Conv2d(channels * self.fold**2, width, 3, padding=1))
        for stage in range(self.stages):
            if stage:
                if self.downsampling == "strided":
                    steps.append(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1))
                elif self.downsampling == "squeeze":
                    steps += [nn.PixelUnshuffle(2), nn.Conv2d(4 * width, 2 * width, 1)]
                else:
                    steps += [nn.AvgPool2d(2), nn.Conv2d(width, 2 * width, 1)]
                width *= 2
            steps += [
                convolution.preactivated(width, self.activation, self.normalisation)
                for _ in range(self.blocks)
            ]
        steps += [
            *convolution.normalisation(self.normalisation, width),
            convolution.activation(self.activation),
        ]
        return self.with_head([*steps, *self.project(width)], channels, shape, outputs)
