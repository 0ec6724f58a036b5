"""Equivariant networks: when the stamp is rotated or mirrored, the output shape changes accordingly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from shearbench.networks.base import Architecture
from shearbench.networks.terms import Activation, Depth, Further, Normalisation, Width, too_wide

if TYPE_CHECKING:
    from torch import nn

    from shearbench.networks.modules.bodies import ComponentBody, ImageBody


class Equivariant(Architecture):
    """Group convolutions over the 8 rotations and mirrors of a square, and a head with a spin-2 output.

    Each kernel is applied in its 8 orientations (Cohen & Welling 2016, arXiv:1602.07576). The output for a
    rotated stamp is the rotated output, up to rounding errors and even before training. The mean output over
    random orientations is therefore zero, and so is the additive bias c.
    """

    kind: ClassVar[str] = "equivariant"

    width: Width = Field(4, description="Number of fields of the first stage; a field has 8 channels.")
    growth: Depth = Field(2, description="Factor by which the number of fields grows at each stage.")
    stages: Depth = Field(3, description="Number of stages; each begins by halving the image.")
    blocks: Further = Field(0, description="Number of further 3x3 convolutions in each stage.")
    activation: Activation = Field("gelu", description="Activation function.")
    normalisation: Normalisation = Field("none", description="Normalisation after each convolution.")
    hidden: Annotated[list[Width], Field(min_length=1, max_length=100)] = Field(
        [16], description="Number of fields of each dense layer; a field has 8 units."
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Fraction of the units set to zero at random in each training step."
    )

    def objection(self, shape: tuple[int, int]) -> str | None:
        """Return why the network cannot take stamps of this shape (rows, columns), or None if it can."""
        size = f"stamps of {shape[0]} by {shape[1]} pixels"
        if shape[0] != shape[1]:
            return f"{size} are not square, and cannot be rotated by 90 degrees"
        if shape[0] < 2**self.stages:
            return f"options.stages: {self.stages} stages halve {size} to less than one pixel"
        return too_wide(self.width, self.growth, self.stages)

    def build(self, channels: int, shape: tuple[int, int], outputs: int) -> nn.Module:
        """Build the network; see `Architecture.build`."""
        return self._network(channels, shape, self.targets, outputs)

    def body(
        self, shape: tuple[int, int], per_galaxy_psf: bool, targets: tuple[str, ...], outputs: int
    ) -> ImageBody | ComponentBody:
        """Build the network; see `Architecture.body`.

        The names of the targets are needed because position, size and shape change differently when the
        stamp is rotated.
        """
        from shearbench.networks.modules.bodies import ImageBody

        network = self._network(1 + per_galaxy_psf, shape, targets, outputs)
        return ImageBody(network, shape, per_galaxy_psf, self.input_scaling == "pixel")

    def classifier(self, channels: int, shape: tuple[int, int], classes: int) -> nn.Module:
        """Build a classifier that gives a rotated or mirrored image the same logits."""
        return self._network(channels, shape, None, classes)

    def _network(
        self, channels: int, shape: tuple[int, int], targets: tuple[str, ...] | None, outputs: int
    ) -> nn.Module:
        from torch import nn

        from shearbench.networks.modules import equivariant

        steps: list[nn.Module] = []
        incoming, width, side = channels, self.width, shape[0]
        for stage in range(self.stages):
            halved = equivariant.symmetric_halving(side)
            steps += equivariant.group_convolution(
                incoming, width, self.activation, self.normalisation, lifting=stage == 0, **halved
            )
            for _ in range(self.blocks):
                steps += equivariant.group_convolution(
                    width, width, self.activation, self.normalisation, kernel=3, padding=1
                )
            incoming, width, side = width, width * self.growth, -(-side // 2)
        return equivariant.WithGroupHead(
            nn.Sequential(*steps),
            channels,
            shape[0],
            self.hidden,
            targets,
            outputs,
            self.activation,
            self.dropout,
        )
