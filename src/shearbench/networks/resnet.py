"""Residual networks with the shortcuts of the paper that introduced them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from shearbench.networks.head import DenseHead, cannot_be_halved
from shearbench.networks.terms import Depth, Normalisation, Shortcut, Width, too_wide

if TYPE_CHECKING:
    from torch import nn


class ResNet(DenseHead):
    """A 3x3 convolution, then stages of blocks of two 3x3 convolutions with a shortcut around them.

    From each stage to the next the number of channels is doubled, and the image halved by a stride of 2. He
    et al. 2016, arXiv:1512.03385. In the blocks of `residual`, a later version, normalisation and activation
    come before the convolutions.
    """

    kind: ClassVar[str] = "resnet"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # As `baseline`, it is trained on endless galaxies. It is so small that studies can make it deep.
        "resnet": {"options": {"activation": "relu", "fold": 6}, "training": {"data": "rendered"}},
        # ShearNet's `resnet` (github.com/s-Sayan/ShearNet, shearnet/core/models.py). Left out: the last tanh,
        # because the outputs here are in units of the spread of the true shapes and not below 1. Added: the
        # noise level. Nearly all weights are those of the first dense layer, which takes all pixels.
        "shearnet-resnet": {
            "options": {
                "input_scaling": "global",
                "fold": 1,
                "stem": 32,
                "width": 64,
                "blocks": 1,
                "halved": False,
                "shortcut": "projected",
                "normalisation": "none",
                "activation": "leaky_relu",
                "projection": None,
                "hidden": [128, 64],
            },
            # With Muon, the update of the large dense layer would take longer than the network itself.
            "training": {"optimiser": "adamw"},
        },
    }

    fold: Depth = Field(
        4,
        description="Before the first convolution, squares of `fold` by `fold` pixels are rearranged into "
        "channels, which loses no information; 1 leaves the image as it is.",
    )
    stem: Width | None = Field(
        None, description="Channels of the first convolution, at most `width`; null: as many as `width`."
    )
    width: Width = Field(8, description="Channels of the first stage.")
    stages: Depth = Field(2, description="Number of stages.")
    halved: bool = Field(True, description="Halve the image between the stages.")
    blocks: Depth = Field(2, description="Number of blocks in each stage, of two convolutions each.")
    shortcut: Shortcut = Field(
        "padded",
        description="What is added to the output of a block: nothing (`plain`); its input, with channels of "
        "zeros where there are more channels behind it (`padded`, option A of the paper); a 1x1 convolution "
        "of its input where the number of channels changes, otherwise its input (`projected`, option B); or "
        "such a convolution in all blocks (`all_projected`, option C).",
    )
    normalisation: Normalisation = Field("batch", description="Normalisation after each convolution.")

    @model_validator(mode="after")
    def _widens(self) -> ResNet:
        if self.stem is not None and self.stem > self.width:
            raise ValueError(f"stem: {self.stem} is more than width, which is {self.width}")
        return self

    def objection(self, shape: tuple[int, int]) -> str | None:
        """Return why the network cannot take stamps of this shape (rows, columns), or None if it can."""
        halved = self.stages if self.halved else 1
        return cannot_be_halved(shape, self.fold, halved) or too_wide(self.width, 2, self.stages)

    def build(self, channels: int, shape: tuple[int, int], outputs: int) -> nn.Module:
        """Build the network; see `Architecture.build`."""
        from torch import nn

        from shearbench.networks.modules import convolution

        act, norm = self.activation, self.normalisation
        steps: list[nn.Module] = [nn.PixelUnshuffle(self.fold)] if self.fold > 1 else []
        incoming = self.stem or self.width
        steps += convolution.convolution(channels * self.fold**2, incoming, act, norm)
        for block in range(self.stages * self.blocks):
            width = self.width * 2 ** (block // self.blocks)
            stride = 2 if self.halved and block and block % self.blocks == 0 else 1
            steps += convolution.residual(incoming, width, act, norm, self.shortcut, stride)
            incoming = width
        return self.with_head([*steps, *self.project(incoming)], channels, shape, outputs)
