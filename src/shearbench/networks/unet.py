"""Networks that look at all scales at once: a U-Net and a dense head."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from shearbench.networks.head import DenseHead, cannot_be_halved
from shearbench.networks.terms import Depth, Normalisation, Width, too_wide

if TYPE_CHECKING:
    from torch import nn


class UNet(DenseHead):
    """Convolutions at each scale, and what the coarser scales found beside the finer ones.

    The image is halved from scale to scale by averaging, and brought back by turning channels into pixels.
    Ronneberger et al. 2015, arXiv:1505.04597.
    """

    kind: ClassVar[str] = "unet"

    fold: Depth = Field(2, description="Side of the squares of pixels turned into channels at first.")
    width: Width = Field(12, description="Channels at the finest scale; twice as many at the next.")
    scales: Depth = Field(3, description="Scales; the image is halved between them.")
    blocks: Depth = Field(1, description="Convolutions at each scale, on the way down and up each.")
    normalisation: Normalisation = Field("none", description="Normalisation after each convolution.")
    projection: Width | None = Field(
        4,
        description="Channels that a last 1x1 convolution leaves for the dense layers; null: all of them.",
    )

    def refuses(self, shape: tuple[int, int]) -> str | None:
        """Return why stamps of so many rows and columns cannot be its input, or None if they can."""
        problem = cannot_be_halved(shape, self.fold, self.scales, exactly=True)
        if problem is not None:
            return problem.replace("options.stages", "options.scales")
        return too_wide(self.width, 2, self.scales)

    def build(self, channels: int, shape: tuple[int, int], outputs: int) -> nn.Module:
        """Build the network; see `Architecture.build`."""
        from torch import nn

        steps: list[nn.Module] = [nn.PixelUnshuffle(self.fold)] if self.fold > 1 else []
        steps += self._scale(channels * self.fold**2, self.width, self.scales)
        return self.with_head([*steps, *self.project(self.width)], channels, shape, outputs)

    def _scale(self, incoming: int, width: int, scales: int) -> list[nn.Module]:
        """Return what is done at one scale, all coarser ones included, to an image of `width` channels."""
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
