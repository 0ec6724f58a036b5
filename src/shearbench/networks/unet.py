"""A U-Net with a dense head: features of fine and coarse scales together."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from shearbench.networks.head import DenseHead, cannot_be_halved
from shearbench.networks.terms import Depth, Normalisation, Width, too_wide

if TYPE_CHECKING:
    from torch import nn


class UNet(DenseHead):
    """Convolutions at each scale; features of the coarser scales are joined to those of the finer ones.

    On the way down, the image is halved by average pooling. On the way up, channels are rearranged into
    pixels. Ronneberger et al. 2015, arXiv:1505.04597.
    """

    kind: ClassVar[str] = "unet"

    fold: Depth = Field(
        2,
        description="Before the first convolution, squares of `fold` by `fold` pixels are rearranged into "
        "channels, which loses no information; 1 leaves the image as it is.",
    )
    width: Width = Field(
        12,
        description="Channels at the finest scale; each coarser scale has twice as many as the one before.",
    )
    scales: Depth = Field(3, description="Number of scales; the image is halved between them.")
    blocks: Depth = Field(
        1, description="Number of convolutions at each scale, on the way down and again on the way up."
    )
    normalisation: Normalisation = Field("none", description="Normalisation after each convolution.")
    projection: Width | None = Field(
        4,
        description="A last 1x1 convolution reduces the features to this number of channels before the dense "
        "layers; null: no such convolution.",
    )

    def objection(self, shape: tuple[int, int]) -> str | None:
        """Return why the network cannot take stamps of this shape (rows, columns), or None if it can."""
        problem = cannot_be_halved(shape, self.fold, self.scales, exactly=True)
        if problem is not None:
            return problem.replace("stages", "scales")
        return too_wide(self.width, 2, self.scales)

    def build(self, channels: int, shape: tuple[int, int], outputs: int) -> nn.Module:
        """Build the network; see `Architecture.build`."""
        from torch import nn

        steps: list[nn.Module] = [nn.PixelUnshuffle(self.fold)] if self.fold > 1 else []
        steps += self._scale(channels * self.fold**2, self.width, self.scales)
        return self.with_head([*steps, *self.project(self.width)], channels, shape, outputs)

    def _scale(self, incoming: int, width: int, scales: int) -> list[nn.Module]:
        """Return the modules of one scale and of all coarser ones; their output has `width` channels."""
        from torch import nn

        from shearbench.networks.modules import convolution

        def convolutions(incoming: int) -> list[nn.Module]:
            steps = []
            for block in range(self.blocks):
                given = width if block else incoming
                steps += convolution.convolution(given, width, self.activation, self.normalisation)
            return steps

        if scales == 1:
            return convolutions(incoming)
        coarser = self._scale(width, 2 * width, scales - 1)
        up = [nn.Conv2d(2 * width, 4 * width, 1), nn.PixelShuffle(2)]
        return [
            *convolutions(incoming),
            convolution.Beside(nn.Sequential(nn.AvgPool2d(2), *coarser, *up)),
            *convolutions(2 * width),
        ]
