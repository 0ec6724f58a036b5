"""A residual network of dense layers that takes the whitened principal components of the stamp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from shearbench.networks.base import Architecture
from shearbench.networks.terms import LEVELS, Activation, Depth, Width

if TYPE_CHECKING:
    from shearbench.networks.modules.bodies import ComponentBody, ImageBody


class Whitened(Architecture):
    """Residual dense layers whose input is the principal components of the stamp, scaled to like variances.

    The components span the images of the population's galaxies, so that little information is lost. Inputs of
    like variances make a well-conditioned problem, which a convolutional network first has to learn.
    """

    kind: ClassVar[str] = "whitened"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "whitened": {
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
                "epochs": 33,
            },
        }
    }

    input_scaling: Literal["pixel"] = Field(
        "pixel", description="Without effect in this architecture; `whitening` sets the scaling of its input."
    )
    whitening: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Scaling of the components: 1 divides each component by its own standard deviation, 0 "
        "divides all by the same number, values between are a geometric mean of the two. A smaller value is "
        "better at low noise, a larger one at high noise.",
    )
    components: Width = Field(
        128,
        ge=16,
        description="Number of principal components of the stamp, after the mean galaxy is subtracted.",
    )
    psf_components: Width = Field(
        16,
        ge=8,
        description="Number of principal components of the PSF's image, if it differs from galaxy to galaxy.",
    )
    oriented: bool = Field(
        True,
        description="Rotate and mirror each stamp to a standard orientation, which is found from its own "
        "components, and turn the output back. The network is then exactly symmetric under the 8 rotations "
        "and mirrors, at no cost.",
    )
    width: Width = Field(256, description="Units of each layer.")
    blocks: Depth = Field(4, description="Number of residual blocks, of two layers each.")
    activation: Activation = Field("gelu", description="Activation function.")

    def objection(self, shape: tuple[int, int]) -> str | None:
        """Return why the network cannot take stamps of this shape (rows, columns), or None if it can."""
        if shape[0] != shape[1]:
            return f"stamps of {shape[0]} by {shape[1]} pixels are not square"
        # About an eighth of the space of images has the rarest symmetry; the shares of the components differ
        # from these fractions, hence the smaller limit.
        for name in ("components", "psf_components"):
            if getattr(self, name) > shape[0] * shape[1] // 4:
                return (
                    f"options.{name}: {getattr(self, name)} is more than a quarter of the pixels of a stamp, "
                    f"which has {shape[0]} by {shape[1]}"
                )
        return None

    def body(
        self, shape: tuple[int, int], per_galaxy_psf: bool, targets: tuple[str, ...], outputs: int
    ) -> ImageBody | ComponentBody:
        """Build the network and its principal components; see `Architecture.body`."""
        from shearbench.networks.modules.bodies import PSF_SHARES, ComponentBody, Components
        from shearbench.networks.modules.heads import residual_layers

        galaxy = Components(shape, self.components)
        psf = Components(shape, self.psf_components, PSF_SHARES) if per_galaxy_psf else None
        inputs = galaxy.total + (psf.total if psf else 0) + LEVELS
        network = residual_layers(inputs, self.width, self.blocks, outputs, self.activation)
        return ComponentBody(network, galaxy, psf, targets, self.oriented, self.whitening)
