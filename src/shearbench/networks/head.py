"""Options and methods that all networks with a dense head share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from shearbench.networks.base import Architecture
from shearbench.networks.terms import Activation, Initialisation, Pooling, Width

if TYPE_CHECKING:
    from torch import nn

    from shearbench.networks.modules.bodies import ComponentBody, ImageBody


class DenseHead(Architecture):
    """Base class of networks that compute features of the image and pass them to dense layers."""

    activation: Activation = Field("gelu", description="Activation function.")
    projection: Width | None = Field(
        8,
        description="A last 1x1 convolution reduces the features to this number of channels before the dense "
        "layers; null: no such convolution.",
    )
    pooling: Pooling = Field(
        "none",
        description="Features that the dense layers take: those of all positions (`none`), or for each "
        "channel its mean (`average`) or its maximum (`max`) over all positions (global pooling).",
    )
    hidden: list[Width] = Field(
        [128], max_length=100, description="Number of units of each dense layer before the output."
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Fraction of the units set to zero at random in each training step."
    )
    initialisation: Initialisation = Field(
        "torch",
        description="Weights before training: the defaults of torch; normal with the variance of Xavier or "
        "of He; orthogonal matrices; or those of torch, but zero in the last layer. With `xavier`, `he` and "
        "`orthogonal` the biases are zero.",
    )
    separate: bool = Field(
        False,
        description="Compute each target by a network of its own. They all have the size that these options "
        "describe and are trained together.",
    )

    @model_validator(mode="after")
    def _separable(self) -> Self:
        if self.separate and self.head == "gaussian":
            raise ValueError(
                "separate: a covariance of both components is not the output of one of several networks; set "
                "head to point, or separate to false"
            )
        return self

    @property
    def parts(self) -> int:
        """Number of networks side by side, see `Architecture.parts`."""
        return len(self.targets) if self.separate else 1

    def body(
        self, shape: tuple[int, int], per_galaxy_psf: bool, targets: tuple[str, ...], outputs: int
    ) -> ImageBody | ComponentBody:
        """Build the network, or one for each target; see `Architecture.body`."""
        if not self.separate:
            return super().body(shape, per_galaxy_psf, targets, outputs)
        from shearbench.networks.modules import bodies, heads

        networks = heads.Separate([self.build(1 + per_galaxy_psf, shape, 1) for _ in targets])
        return bodies.ImageBody(networks, shape, per_galaxy_psf, self.input_scaling == "pixel")

    def project(self, channels: int) -> list[nn.Module]:
        """Return the last 1x1 convolution, which takes `channels` channels: a list of one module or none."""
        from torch import nn

        return [] if self.projection is None else [nn.Conv2d(channels, self.projection, 1)]

    def with_head(
        self, steps: list[nn.Module], channels: int, shape: tuple[int, int], outputs: int
    ) -> nn.Module:
        """Return the network: the modules that compute the features, then the dense layers.

        Parameters
        ----------
        steps : list of torch.nn.Module
            Applied one after the other, they compute the features.
        channels, shape, outputs
            See `Architecture.build`.
        """
        from torch import nn

        from shearbench.networks.modules import heads, initialisation

        features = nn.Sequential(*steps)
        network = heads.WithHead(
            features,
            channels,
            shape,
            self.hidden,
            outputs,
            self.activation,
            self.dropout,
            self.pooling,
        )
        return initialisation.initialise(network, self.initialisation)


def cannot_be_halved(shape: tuple[int, int], fold: int, stages: int, exactly: bool = False) -> str | None:
    """Return why stamps cannot be folded and then halved between the stages, or None if they can.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of a stamp.
    fold : int
        Side of the squares of pixels that become channels [pixels].
    stages : int
        Number of stages: the number of halvings plus one.
    exactly : bool
        Whether a side must be an even number of pixels each time it is halved.
    """
    size = f"stamps of {shape[0]} by {shape[1]} pixels"
    if any(side % fold for side in shape):
        return f"options.fold: {fold} does not divide {size}"
    folded = "" if fold == 1 else f" (folded by {fold})"
    if min(shape) // fold < 2 ** (stages - 1):
        return f"options.stages: {stages} stages halve {size}{folded} to less than one pixel"
    if exactly and any(side // fold % 2 ** (stages - 1) for side in shape):
        return (
            f"options.stages: {stages} stages halve {size}{folded} {stages - 1} times, and a side with an "
            "odd number of pixels cannot be halved"
        )
    return None
