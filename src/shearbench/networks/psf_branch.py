"""Networks with a separate branch for the image of the PSF."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from shearbench.networks.convnet import ConvNet
from shearbench.networks.terms import Width, too_wide

if TYPE_CHECKING:
    from torch import nn


class PsfBranch(ConvNet):
    """A convolutional network for the galaxy, a smaller one for its PSF, and dense layers for both.

    As in FORKLENS (Zhang et al. 2024, A&A 683, A209). If all galaxies have the same PSF, its image carries
    no information, and the network has the galaxy's branch only.
    """

    kind: ClassVar[str] = "psf-branch"

    downsampling: Literal["max", "average", "strided", "dilated"] = Field(
        "strided",
        description="How the receptive field doubles from stage to stage, in both branches: the image is "
        "halved by max pooling, average pooling or a convolution of stride 2, or keeps its size and the "
        "convolutions are dilated.",
    )
    psf_width: Width = Field(4, description="Channels of the first stage of the PSF's branch.")

    def objection(self, shape: tuple[int, int]) -> str | None:
        """Return why the network cannot take stamps of this shape (rows, columns), or None if it can."""
        return super().objection(shape) or too_wide(self.psf_width, self.growth, self.stages, "psf_width")

    def build(self, channels: int, shape: tuple[int, int], outputs: int) -> nn.Module:
        """Build the network; see `Architecture.build`."""
        from torch import nn

        from shearbench.networks.modules import heads, initialisation

        if channels == 1:
            return super().build(channels, shape, outputs)
        galaxy, psf = (nn.Sequential(*self.branch(1, width)) for width in (self.width, self.psf_width))
        network = heads.WithPsfBranch(galaxy, psf, shape, self.hidden, outputs, self.activation, self.dropout)
        return initialisation.initialise(network, self.initialisation)
