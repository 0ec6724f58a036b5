"""Networks whose shape follows a turned or mirrored stamp exactly, by construction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from shearbench.networks.base import Architecture
from shearbench.networks.terms import Activation, Depth, Further, Normalisation, Width, too_wide

if TYPE_CHECKING:
    from torch import nn

    from shearbench.networks.modules.bodies import ComponentBody, ImageBody


class Equivariant(Architecture):
    """Group convolutions over the 8 turns and mirrors of a square, and a head with a spin-2 answer.

    Every kernel is used in its 8 orientations. The answer for a turned stamp is the turned answer, to
    rounding, before any training: a mean over random orientations is zero, and so is the additive bias c.
    Cohen & Welling 2016, arXiv:1602.07576.
    """

    kind: ClassVar[str] = "equivariant"

    width: Width = Field(4, description="Fields, of 8 images each, of the first stage.")
    growth: Depth = Field(2, description="By what the fields are multiplied from stage to stage.")
    stages: Depth = Field(3, description="Stages; each begins by halving the image.")
    blocks: Further = Field(0, description="Further 3x3 convolutions in each stage.")
    activation: Activation = Field("gelu", description="The non-linearity.")
    normalisation: Normalisation = Field("none", description="Normalisation after each convolution.")
    hidden: Annotated[list[Width], Field(min_length=1, max_length=100)] = Field(
        [16], description="Fields, of 8 numbers each, of the dense layers."
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Part of the units left out at random at each step of the training."
    )

    def refuses(self, shape: tuple[int, int]) -> str | None:
        """Return why stamps of so many rows and columns cannot be its input, or None if they can."""
        size = f"stamps of {shape[0]} by {shape[1]} pixels"
        if shape[0] != shape[1]:
            return f"{size} cannot be turned by 90 degrees"
        if shape[0] < 2**self.stages:
            return f"options.stages: {self.stages} halve {size} to nothing"
        return too_wide(self.width, self.growth, self.stages)

    def build(self, channels: int, shape: tuple[int, int], outputs: int) -> nn.Module:
        """Build the network; see `Architecture.build`."""
        return self._network(channels, shape, self.targets, outputs)

    def body(
        self, shape: tuple[int, int], per_galaxy_psf: bool, targets: tuple[str, ...], outputs: int
    ) -> ImageBody | ComponentBody:
        """Build the network for these targets, which change each in its way; see `Architecture.body`."""
        from shearbench.networks.modules.bodies import ImageBody

        network = self._network(1 + per_galaxy_psf, shape, targets, outputs)
        return ImageBody(network, shape, per_galaxy_psf, self.input_scaling == "pixel")

    def _network(
        self, channels: int, shape: tuple[int, int], targets: tuple[str, ...], outputs: int
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
