"""A residual network of dense layers on the whitened principal components of the whole stamp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from shearbench.networks.base import Architecture
from shearbench.networks.terms import LEVELS, Activation, Depth, Width

if TYPE_CHECKING:
    from torch import nn

    from shearbench.networks.modules.bodies import ComponentBody, ImageBody


class Whitened(Architecture):
    """Dense layers that see the stamp as principal components of unit variance.

    Nothing is lost at first: the components span what galaxies of the population look like. What the network
    has to learn is then well conditioned, which is what convolutional networks spend their training on.
    """

    kind: ClassVar[str] = "whitened"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "whitened": {
            "options": {"auxiliary": True},
            "training": {
                "data": "rendered",
                "d4": False,
                "optimiser": "soap",
                "batch_size": 512,
                "epochs": 30,
            },
        }
    }

    input_scaling: Literal["pixel"] = Field("pixel", description="Of no use here, see `whitening`.")
    whitening: float = Field(
        0.5,
        ge=0,
        le=1,
        description="How far components are brought to equal variance: from 0, all divided by one number, to "
        "1, each by its own spread. Less is better at low noise, more at high noise.",
    )
    components: Width = Field(
        128, ge=16, description="Principal components of the stamp without the mean galaxy."
    )
    psf_components: Width = Field(
        16, ge=8, description="Principal components of the PSF, where it differs from galaxy to galaxy."
    )
    oriented: bool = Field(
        True,
        description="Bring each stamp to one of its 8 orientations by its own components, and turn the "
        "answer back: exactly symmetric, at no cost.",
    )
    width: Width = Field(256, description="Units of a layer.")
    blocks: Depth = Field(4, description="Residual blocks of two layers.")
    activation: Activation = Field("gelu", description="The non-linearity.")

    def refuses(self, shape: tuple[int, int]) -> str | None:
        """Return why stamps of so many rows and columns cannot be its input, or None if they can."""
        if shape[0] != shape[1]:
            return f"stamps of {shape[0]} by {shape[1]} pixels have no diagonal mirror"
        # The rarest symmetry has an eighth of all images, and the components' counts differ from that.
        for name in ("components", "psf_components"):
            if getattr(self, name) > shape[0] * shape[1] // 4:
                return f"options.{name}: {getattr(self, name)} are more than a quarter of a stamp's pixels"
        return None

    def body(
        self, shape: tuple[int, int], per_galaxy_psf: bool, targets: tuple[str, ...], outputs: int
    ) -> ImageBody | ComponentBody:
        """Build the network with its components; see `Architecture.body`."""
        from torch import nn

        from shearbench.networks.modules import convolution
        from shearbench.networks.modules.bodies import PSF_SHARES, ComponentBody, Components

        galaxy = Components(shape, self.components)
        psf = Components(shape, self.psf_components, PSF_SHARES) if per_galaxy_psf else None
        inputs = galaxy.total + (psf.total if psf else 0) + LEVELS
        steps: list[nn.Module] = [nn.Linear(inputs, self.width)]
        for _ in range(self.blocks):
            first, last = (nn.Linear(self.width, self.width) for _ in range(2))
            nn.init.zeros_(last.weight)
            steps.append(
                convolution.Skip(nn.Sequential(first, convolution.activation(self.activation), last))
            )
        steps.append(nn.Linear(self.width, outputs))
        return ComponentBody(nn.Sequential(*steps), galaxy, psf, targets, self.oriented, self.whitening)
