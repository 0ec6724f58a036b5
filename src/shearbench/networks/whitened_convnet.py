"""A residual convolutional network whose linear layers start as principal components of their input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from shearbench.networks.base import Architecture
from shearbench.networks.terms import LEVELS, Activation, Depth, Further, Width

if TYPE_CHECKING:
    from shearbench.networks.modules.bodies import ComponentBody, ImageBody

Stages = Annotated[list[Width], Field(min_length=1, max_length=10)]


class WhitenedConvNet(Architecture):
    """Stages of a linear convolution and residual convolutions, then residual dense layers.

    A network with random kernels first has to find combinations of pixels that vary alike. Here the kernels
    of each linear convolution start as the principal components of the patches that they see, and the first
    dense layer as those of all features, scaled to like variances; all are trained. The input of the dense
    layers is then as well-conditioned as that of `whitened`, from the first step.
    """

    kind: ClassVar[str] = "whitened_convnet"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "whitened-convnet": {
            "options": {"auxiliary": True},
            "training": {
                "data": "rendered",
                "augmentation": [],
                "labels": "best",
                "loss": "huber",
                "noise_margin": 2.5,
                "optimiser": "soap",
                "learning_rate": 4e-3,
                "batch_size": 512,
                "epochs": 30,
            },
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
    components: Width = Field(
        128, ge=16, description="Units of the first dense layer, which starts as principal components."
    )
    start: Literal["principal", "random"] = Field(
        "principal",
        description="Weights of the linear convolutions and of the first dense layer before training: "
        "principal components of their input, or random numbers as in other networks.",
    )
    whitening: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Scaling of all components at the start: 1 divides each by its own standard deviation, 0 "
        "divides all by the same number, values between are a geometric mean of the two.",
    )
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
    def _checked(self) -> WhitenedConvNet:
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
        incoming, side = 1, shape[0]
        for stage, (stride, channels) in enumerate(zip(self.strides, self.channels)):
            if side < stride:
                return f"options.strides: the strides of {stage + 1} stages reduce {shape[0]} pixels to none"
            if channels > incoming * 4 * stride**2:
                return (
                    f"options.channels: {channels} in stage {stage + 1} are more than the "
                    f"{incoming * 4 * stride**2} numbers of a patch"
                )
            incoming, side = channels, side // stride
        features = incoming * side**2
        for name, most in (("components", features), ("psf_components", shape[0] ** 2 // 4)):
            if getattr(self, name) > most:
                return f"options.{name}: {getattr(self, name)} is more than there can be, {most}"
        return None

    def body(
        self, shape: tuple[int, int], per_galaxy_psf: bool, targets: tuple[str, ...], outputs: int
    ) -> ImageBody | ComponentBody:
        """Build the network and the scaling of its input; see `Architecture.body`."""
        from shearbench.networks.modules.bodies import PSF_SHARES, Components
        from shearbench.networks.modules.heads import residual_layers
        from shearbench.networks.modules.whitened_convolutions import ConvolvedBody, WhitenedConvolutions

        psf = Components(shape, self.psf_components, PSF_SHARES) if per_galaxy_psf else None
        inputs = self.components + (psf.total if psf else 0) + LEVELS
        network = WhitenedConvolutions(
            shape[0],
            self.strides,
            self.channels,
            self.convolutions,
            self.components,
            self.activation,
            residual_layers(inputs, self.width, self.blocks, outputs, self.activation),
        )
        whitening = self.whitening if self.start == "principal" else None
        return ConvolvedBody(network, shape, psf, targets, self.oriented, whitening)
