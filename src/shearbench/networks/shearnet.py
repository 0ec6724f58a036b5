"""ShearNet, a small published network: two convolutions, average pooling, two dense layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from shearbench.networks.base import Architecture
from shearbench.networks.terms import Activation, Width

if TYPE_CHECKING:
    from torch import nn


class ShearNet(Architecture):
    """Two 3x3 convolutions, each with 2x2 average pooling, and two dense layers (ShearNet's ``cnn``)."""

    kind: ClassVar[str] = "shearnet"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # With Muon, the update of the large dense layer would take longer than the network itself.
        "shearnet": {"training": {"optimiser": "adamw"}},
        # As published: one scale for all pixels, the same noise in every epoch, no augmentation.
        "plain": {
            "options": {"input_scaling": "global"},
            "training": {"optimiser": "adamw", "fresh_noise": False, "augmentation": []},
        },
    }

    width: Width = Field(16, description="Channels of the first convolution; the second has twice as many.")
    hidden: Width = Field(128, description="Units of the first dense layer.")
    activation: Activation = Field("relu", description="Activation function.")

    def objection(self, shape: tuple[int, int]) -> str | None:
        """Return why the network cannot take stamps of this shape (rows, columns), or None if it can."""
        return (
            None if min(shape) >= 4 else f"stamps of {shape[0]} by {shape[1]} pixels cannot be halved twice"
        )

    def build(self, channels: int, shape: tuple[int, int], outputs: int) -> nn.Module:
        """Build the network; see `Architecture.build`."""
        from torch import nn

        from shearbench.networks.modules import convolution, heads

        features = nn.Sequential(
            nn.Conv2d(channels, self.width, 3, padding=1),
            convolution.activation(self.activation),
            nn.AvgPool2d(2),
            nn.Conv2d(self.width, 2 * self.width, 3, padding=1),
            convolution.activation(self.activation),
            nn.AvgPool2d(2),
        )
        return heads.WithHead(features, channels, shape, [self.hidden], outputs, self.activation)
