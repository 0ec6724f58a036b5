"""A residual convolutional network that takes the stamp in a standard orientation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, model_validator

from shearbench.networks.base import Architecture
from shearbench.networks.terms import LEVELS, Activation, Depth, Further, Width
from shearbench.networks.whitened import Whitened

if TYPE_CHECKING:
    from shearbench.networks.modules.bodies import ComponentBody, ImageBody

Stages = Annotated[list[Width], Field(min_length=1, max_length=10)]


class OrientedConvNet(Architecture):
    """Stages of a linear convolution and residual convolutions, then residual dense layers.

    Nothing is pooled: each stage begins with a convolution with a stride and no activation, whose patches
    overlap, and all further layers add to what they are given, nothing at first. The stamp is turned to the
    standard orientation of `whitened`, so that the network is exactly symmetric at no cost.
    """

    kind: ClassVar[str] = "oriented_convnet"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "oriented-convnet": {
            "options": {"auxiliary": True},
            "training": {**Whitened.presets["whitened"]["training"], "epochs": 30},
        }
    }

    strides: Stages = Field(
        [4, 2],
        description="Stride of the linear convolution that begins each stage [pixels]; even numbers. Its "
        "kernel is twice as large, so that patches overlap by half.",
    )
    channels: Stages = Field([24, 32], description="Number of channels of each stage.")
    convolutions: Further = Field(
        1, description="Number of residual blocks of two 3x3 convolutions in each stage."
    )
    features: Width = Field(128, description="Units of the first dense layer, which has no activation.")
    psf_components: Width = Field(
        16,
        ge=8,
        description="Number of principal components of the PSF's image, if it differs from galaxy to galaxy.",
    )
    oriented: bool = Field(
        True,
        description="Rotate and mirror each stamp to a standard orientation, and turn the output back, as "
        "`whitened` does.",
    )
    width: Width = Field(256, description="Units of each further dense layer.")
    blocks: Depth = Field(4, description="Number of residual blocks of two dense layers each.")
    activation: Activation = Field("gelu", description="Activation function.")

    @model_validator(mode="after")
    def _checked(self) -> OrientedConvNet:
        if len(self.strides) != len(self.channels):
            raise ValueError(
                f"strides: found {len(self.strides)} stages, but channels has {len(self.channels)}; "
                "each stage has a stride and a number of channels"
            )
        if any(stride % 2 for stride in self.strides):
            raise ValueError(f"strides: found {self.strides}, expected even numbers")
        return self

    def objection(self, shape: tuple[int, int]) -> str | None:
        """Return why the network cannot take stamps of this shape (rows, columns), or None if it can."""
        if shape[0] != shape[1]:
            return f"stamps of {shape[0]} by {shape[1]} pixels are not square"
        if math.prod(self.strides) > shape[0]:
            return f"options.strides: strides of {self.strides} reduce stamps of {shape[0]} pixels to none"
        if self.psf_components > shape[0] ** 2 // 4:
            return f"options.psf_components: {self.psf_components} is more than a quarter of the pixels"
        return None

    def body(
        self, shape: tuple[int, int], per_galaxy_psf: bool, targets: tuple[str, ...], outputs: int
    ) -> ImageBody | ComponentBody:
        """Build the network and the scaling of its input; see `Architecture.body`."""
        from shearbench.networks.modules.bodies import PSF_SHARES, Components
        from shearbench.networks.modules.heads import residual_layers
        from shearbench.networks.modules.oriented_convolutions import OrientedBody, OrientedConvolutions

        psf = Components(shape, self.psf_components, PSF_SHARES) if per_galaxy_psf else None
        inputs = self.features + (psf.total if psf else 0) + LEVELS
        network = OrientedConvolutions(
            shape[0],
            self.strides,
            self.channels,
            self.convolutions,
            self.features,
            self.activation,
            residual_layers(inputs, self.width, self.blocks, outputs, self.activation),
        )
        return OrientedBody(network, shape, psf, targets, self.oriented)
