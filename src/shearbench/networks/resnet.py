"""Residual networks with the shortcuts of the paper that introduced them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from shearbench.networks.head import DenseHead, cannot_be_halved
from shearbench.networks.terms import Depth, Normalisation, Shortcut, Width, too_wide

if TYPE_CHECKING:
    from torch import nn


class ResNet(DenseHead):
    """A 3x3 convolution, then stages of blocks of two 3x3 convolutions with a shortcut around them.

    From each stage to the next the image is halved by a stride of 2, and the number of channels doubled. He
    et al. 2016, arXiv:1512.03385. In the blocks of `residual`, a later version, normalisation and activation
    come before the convolutions.
    """

    kind: ClassVar[str] = "resnet"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # As `baseline`, it is trained on endless galaxies. It is so small that studies can make it deep.
        "resnet": {"options": {"activation": "relu", "fold": 6}, "training": {"data": "rendered"}},
    }

    fold: Depth = Field(
        4,
        description="Before the first convolution, squares of `fold` by `fold` pixels are rearranged into "
        "channels, which loses no information; 1 leaves the image as it is.",
    )
    width: Width = Field(8, description="Channels of the first stage.")
    stages: Depth = Field(2, description="Number of stages; the image is halved between them.")
    blocks: Depth = Field(2, description="Number of blocks in each stage, of two convolutions each.")
    shortcut: Shortcut = Field(
        "padded",
        description="What is added to the output of a block: nothing (`plain`); its input, with channels of "
        "zeros where there are more channels behind it (`padded`, option A of the paper); a 1x1 convolution "
        "of its input where the number of channels changes, otherwise its input (`projected`, option B); or "
        "such a convolution in all blocks (`all_projected`, option C).",
    )
    normalisation: Normalisation = Field("batch", description="Normalisation after each convolution.")

    def objection(self, shape: tuple[int, int]) -> str | None:
        """Return why the network cannot take stamps of this shape (rows, columns), or None if it can."""
        return cannot_be_halved(shape, self.fold, self.stages) or too_wide(self.width, 2, self.stages)

    def build(self, channels: int, shape: tuple[int, int], outputs: int) -> nn.Module:
        """Build the network; see `Architecture.build`."""
        from torch import nn

        from shearbench.networks.modules import convolution

        act, norm = self.activation, self.normalisation
        steps: list[nn.Module] = [nn.PixelUnshuffle(self.fold)] if self.fold > 1 else []
        steps += convolution.convolution(channels * self.fold**2, self.width, act, norm)
        incoming = self.width
        for block in range(self.stages * self.blocks):
            width = self.width * 2 ** (block // self.blocks)
            stride = 2 if width > incoming else 1
            steps += convolution.residual(incoming, width, act, norm, self.shortcut, stride)
            incoming = width
        return self.with_head([*steps, *self.project(incoming)], channels, shape, outputs)
