"""A perceptron: dense layers of all pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from shearbench.networks.base import Architecture
from shearbench.networks.terms import Activation, Initialisation, Width

if TYPE_CHECKING:
    from torch import nn


class Dense(Architecture):
    """Dense layers whose input is all pixels of the stamp, without convolutions."""

    kind: ClassVar[str] = "dense"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "dense": {"training": {"data": "rendered"}},
        # ShearNet's `mlp` (github.com/s-Sayan/ShearNet, shearnet/core/models.py), but for the noise level,
        # which it is not told. Trained with AdamW, as there.
        "mlp": {
            "options": {"hidden": [128, 64], "input_scaling": "global"},
            "training": {"optimiser": "adamw"},
        },
    }

    hidden: list[Width] = Field(
        [24, 24], max_length=100, description="Number of units of each dense layer before the output."
    )
    activation: Activation = Field("relu", description="Activation function.")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Fraction of the units set to zero at random in each training step."
    )
    initialisation: Initialisation = Field("torch", description="Weights before training, as for `convnet`.")

    def build(self, channels: int, shape: tuple[int, int], outputs: int) -> nn.Module:
        """Build the network; see `Architecture.build`."""
        from torch import nn

        from shearbench.networks.modules import heads, initialisation

        network = heads.WithHead(
            nn.Identity(), channels, shape, self.hidden, outputs, self.activation, self.dropout
        )
        return initialisation.initialise(network, self.initialisation)
