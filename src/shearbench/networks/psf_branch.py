"""Networks with a separate branch for the image of the PSF."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from shearbench.networks.convnet import ConvNet
from shearbench.networks.terms import Downsampling, Width, too_wide

if TYPE_CHECKING:
    from torch import nn

    from shearbench.networks.modules.bodies import ComponentBody, ImageBody


class PsfBranch(ConvNet):
    """A convolutional network for the galaxy, a smaller one for its PSF, and dense layers for both.

    As in FORKLENS (Zhang et al. 2024, A&A 683, A209). If all galaxies have the same PSF, its image carries
    no information, and the network has the galaxy's branch only.
    """

    kind: ClassVar[str] = "psf-branch"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "psf-baseline": ConvNet.presets["baseline"],  # with a choice of how the network is given the PSF
    }

    downsampling: Downsampling = Field(
        "strided",
        description="How the receptive field doubles from stage to stage, in both branches: the image is "
        "halved by max pooling, average pooling, a convolution of stride 2 or max pooling and a blur "
        "(`blur`), or keeps its size and the convolutions are dilated.",
    )
    psf: Literal["branch", "attention", "channel", "none"] = Field(
        "branch",
        description="How the network is given the image of the PSF. `branch`: its features, which a smaller "
        "network computes, go to the dense layers. `attention`: each pixel of the last stage attends to the "
        "pixels of these features (cross-attention). `channel`: it is a second channel of the stamp. `none`: "
        "it is not given.",
    )
    psf_width: Width = Field(
        4, description="Channels of the first stage of the PSF's branch, for `psf: branch` and `attention`."
    )

    @model_validator(mode="after")
    def _attends_to_the_last_stage(self) -> PsfBranch:
        if self.psf == "attention" and self.scales == "all":
            raise ValueError(
                "scales: found all; with psf: attention the dense layers take the last stage, so use last"
            )
        return self

    def objection(self, shape: tuple[int, int]) -> str | None:
        """Return why the network cannot take stamps of this shape (rows, columns), or None if it can."""
        return super().objection(shape) or too_wide(self.psf_width, self.growth, self.stages, "psf_width")

    def body(
        self, shape: tuple[int, int], per_galaxy_psf: bool, targets: tuple[str, ...], outputs: int
    ) -> ImageBody | ComponentBody:
        """Build the network; see `Architecture.body`."""
        return super().body(shape, per_galaxy_psf and self.psf != "none", targets, outputs)

    def classifier(self, channels: int, shape: tuple[int, int], classes: int) -> nn.Module:
        """Build a classifier, which has the galaxy's branch only; see `Architecture.classifier`."""
        return super().build(channels, shape, classes)

    def build(self, channels: int, shape: tuple[int, int], outputs: int) -> nn.Module:
        """Build the network; see `Architecture.build`."""
        from torch import nn

        from shearbench.networks.modules import attention, heads, initialisation

        if channels == 1 or self.psf in ("channel", "none"):
            return super().build(channels, shape, outputs)
        if self.psf == "attention":
            galaxy, psf = (
                nn.Sequential(*fold, *(step for stage in stages for step in stage))
                for fold, stages in (self.staged(1, self.width), self.staged(1, self.psf_width))
            )
            width, other = self.features(self.width), self.features(self.psf_width)
            return self.with_head(
                [attention.AttendToPsf(galaxy, psf, width, other), *self.project(width)], 2, shape, outputs
            )
        galaxy, psf = (nn.Sequential(*self.branch(1, width)) for width in (self.width, self.psf_width))
        network = heads.WithPsfBranch(
            galaxy, psf, shape, self.hidden, outputs, self.activation, self.dropout, self.pooling
        )
        return initialisation.initialise(network, self.initialisation)
