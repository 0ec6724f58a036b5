"""Locally connected networks: convolutions whose weights differ from position to position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from shearbench.networks.head import DenseHead, cannot_be_halved
from shearbench.networks.terms import Depth, Width, too_wide

if TYPE_CHECKING:
    from torch import nn


class LocallyConnected(DenseHead):
    """Layers of 3x3 kernels that differ from position to position, and a dense head.

    Each layer halves the image by a stride of 2.
    """

    kind: ClassVar[str] = "locally-connected"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # Muon would take the kernels of all positions for one matrix.
        "locally-connected": {
            "options": {"activation": "relu"},
            "training": {"data": "rendered", "optimiser": "adamw"},
        },
    }

    fold: Depth = Field(
        2,
        description="Before the first layer, squares of `fold` by `fold` pixels are rearranged into "
        "channels, which loses no information; 1 leaves the image as it is.",
    )
    width: Width = Field(2, description="Channels of the first layer.")
    growth: Depth = Field(4, description="Factor by which the number of channels grows at each layer.")
    layers: Depth = Field(2, description="Number of layers; each halves the image.")
    shared: bool = Field(
        False, description="Use the same kernels at all positions, which makes the layers convolutions."
    )
    projection: Width | None = Field(
        None,
        description="A last 1x1 convolution reduces the features to this number of channels before the dense "
        "layers; null: no such convolution.",
    )

    def objection(self, shape: tuple[int, int]) -> str | None:
        """Return why the network cannot take stamps of this shape (rows, columns), or None if it can."""
        problem = cannot_be_halved(shape, self.fold, self.layers + 1)
        if problem is not None:
            return problem.replace(
                f"options.stages: {self.layers + 1} stages", f"options.layers: {self.layers} layers"
            )
        return too_wide(self.width, self.growth, self.layers)

    def build(self, channels: int, shape: tuple[int, int], outputs: int) -> nn.Module:
        """Build the network; see `Architecture.build`."""
        from torch import nn

        from shearbench.networks.modules import convolution

        steps: list[nn.Module] = [nn.PixelUnshuffle(self.fold)] if self.fold > 1 else []
        incoming, sides = channels * self.fold**2, [side // self.fold for side in shape]
        for layer in range(self.layers):
            width, sides = self.width * self.growth**layer, [-(-side // 2) for side in sides]
            if self.shared:
                steps.append(nn.Conv2d(incoming, width, 3, stride=2, padding=1))
            else:
                steps.append(convolution.LocallyConnected(incoming, width, sides[0] * sides[1]))
            steps.append(convolution.activation(self.activation))
            incoming = width
        return self.with_head([*steps, *self.project(incoming)], channels, shape, outputs)
