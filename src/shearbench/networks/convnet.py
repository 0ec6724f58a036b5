"""Convolutional networks that differ in how they widen their view: pooling, strides, or dilation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from shearbench.networks.head import DenseHead, cannot_be_halved
from shearbench.networks.terms import Depth, Further, Normalisation, Width, too_wide

if TYPE_CHECKING:
    from torch import nn

_DILATED: dict[str, Any] = {"downsampling": "dilated", "fold": 4, "width": 32, "growth": 1, "skip": True}


class ConvNet(DenseHead):
    """Stages of 3x3 convolutions and a dense head.

    From one stage to the next the view of a pixel doubles: because the image is halved (max, average,
    strided), or because the convolutions are spread out (dilated), which keeps every pixel.
    """

    kind: ClassVar[str] = "convnet"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "pooled": {"options": {"downsampling": "max"}},
        "strided": {"options": {"downsampling": "strided"}},
        "dilated": {"options": _DILATED},
        "cbam": {"options": {**_DILATED, "cbam": True}},
    }

    downsampling: Literal["max", "average", "strided", "dilated"] = Field(
        "max", description="How the view doubles from stage to stage."
    )
    fold: Depth = Field(
        1,
        description="Side of the squares of pixels turned into channels before anything else; loses nothing.",
    )
    width: Width = Field(8, description="Channels of the first stage.")
    growth: Depth = Field(2, description="By what the channels are multiplied from stage to stage.")
    stages: Depth = Field(3, description="Stages; the view doubles between them.")
    blocks: Further = Field(1, description="Further convolutions in each stage, after its first.")
    skip: bool = Field(False, description="Whether each of these is added to what it was given.")
    normalisation: Normalisation = Field("none", description="Normalisation after each convolution.")
    cbam: bool = Field(
        False,
        description="Whether a stage ends with channels and pixels weighed by their content.",
    )

    def refuses(self, shape: tuple[int, int]) -> str | None:
        """Return why stamps of so many rows and columns cannot be its input, or None if they can."""
        halved = 1 if self.downsampling == "dilated" else self.stages
        return cannot_be_halved(shape, self.fold, halved) or too_wide(self.width, self.growth, self.stages)

    def build(self, channels: int, shape: tuple[int, int], outputs: int) -> nn.Module:
        """Build the network; see `Architecture.build`."""
        return self.with_head(self.branch(channels, self.width), channels, shape, outputs)

    def branch(self, channels: int, width: int) -> list[nn.Module]:
        """Return the convolutions, from images of so many channels, with `width` in the first stage."""
        from torch import nn

        from shearbench.networks.modules import attention, convolution

        steps: list[nn.Module] = [nn.PixelUnshuffle(self.fold)] if self.fold > 1 else []
        incoming, dilation = channels * self.fold**2, 1
        for stage in range(self.stages):
            if stage and self.downsampling == "dilated":
                dilation *= 2
            elif stage and self.downsampling != "strided":
                steps.append(nn.MaxPool2d(2) if self.downsampling == "max" else nn.AvgPool2d(2))
            stride = 2 if stage and self.downsampling == "strided" else 1
            steps += convolution.convolution(
                incoming, width, self.activation, self.normalisation, stride, dilation
            )
            for _ in range(self.blocks):
                block = nn.Sequential(
                    *convolution.convolution(width, width, self.activation, self.normalisation, 1, dilation)
                )
                steps.append(convolution.Skip(block) if self.skip else block)
            if self.cbam:
                steps.append(attention.Cbam(width, self.activation))
            incoming, width = width, width * self.growth
        return [*steps, *self.project(incoming)]
