"""Convolutional networks with a choice of how the receptive field grows: pooling, strides or dilation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from shearbench.networks.head import DenseHead, cannot_be_halved
from shearbench.networks.terms import Depth, Downsampling, Further, Kernel, Normalisation, Width, too_wide

if TYPE_CHECKING:
    from torch import nn

_DILATED: dict[str, Any] = {"downsampling": "dilated", "fold": 4, "width": 32, "growth": 1, "skip": True}


class ConvNet(DenseHead):
    """Stages of convolutions and a dense head.

    From each stage to the next the receptive field doubles. Either the image is halved (`max`, `average`,
    `strided`, `blur`), or the convolutions are dilated and the image keeps its size (`dilated`).
    """

    kind: ClassVar[str] = "convnet"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "pooled": {"options": {"downsampling": "max"}},
        "strided": {"options": {"downsampling": "strided"}},
        "dilated": {"options": _DILATED},
        "cbam": {"options": {**_DILATED, "attention": "cbam"}},
        # A common first network for classes of galaxies.
        "small-cnn": {
            "options": {
                "kernel": 5,
                "width": 8,
                "stages": 2,
                "blocks": 0,
                "activation": "relu",
                "projection": None,
                "hidden": [64, 32],
            }
        },
        # A textbook network, from which the networks of studies differ by one property each. It is small, so
        # that a study with many values and seeds is affordable.
        "baseline": {
            "options": {"downsampling": "max", "activation": "relu", "fold": 2},
            "training": {"data": "rendered"},
        },
    }

    downsampling: Downsampling = Field(
        "max",
        description="How the receptive field doubles from stage to stage: the image is halved by max "
        "pooling, average pooling, a convolution of stride 2 or max pooling and a blur (`blur`), or keeps "
        "its size and the convolutions are dilated.",
    )
    fold: Depth = Field(
        1,
        description="Before the first convolution, squares of `fold` by `fold` pixels are rearranged into "
        "channels, which loses no information; 1 leaves the image as it is.",
    )
    kernel: Kernel = Field(3, description="Side of the kernels of all convolutions [pixels].")
    width: Width = Field(8, description="Channels of the first stage.")
    growth: Depth = Field(2, description="Factor by which the number of channels grows at each stage.")
    stages: Depth = Field(3, description="Number of stages; the receptive field doubles between them.")
    blocks: Further = Field(1, description="Number of convolutions in each stage after its first one.")
    skip: bool = Field(
        False, description="Add the input of each of these `blocks` to its output (skip connection)."
    )
    normalisation: Normalisation = Field("none", description="Normalisation after each convolution.")
    attention: Literal["none", "channel", "spatial", "cbam", "self"] = Field(
        "none",
        description="Attention at the end of each stage. `channel`: multiply the channels by weights "
        "computed from the image (squeeze-and-excitation). `spatial`: multiply the pixels by such weights. "
        "`cbam`: both, one after the other (convolutional block attention module). `self`: self-attention "
        "between the pixels, at the end of the last stage only, because its cost grows as the square of "
        "their number.",
    )
    scales: Literal["last", "all"] = Field(
        "last",
        description="Stages whose features the dense layers take: the last one, or all, which are fine and "
        "coarse scales at once.",
    )

    spatial_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Fraction of the channels at the end of each stage that are set to zero at random, in "
        "each training step.",
    )

    @model_validator(mode="before")
    @classmethod
    def _cbam_is_an_attention(cls, values: Any) -> Any:
        if isinstance(values, dict) and "cbam" in values:
            new = "cbam" if values["cbam"] else "none"
            raise ValueError(
                f"cbam: this option is a value of `attention` now; use `attention: {new}` instead"
            )
        return values

    @model_validator(mode="after")
    def _pools_the_last_stage(self) -> ConvNet:
        if self.pooling != "none" and self.scales == "all":
            raise ValueError(
                f"pooling: found {self.pooling}, but with scales: all the dense layers take the features of "
                "all positions; set pooling to none, or scales to last"
            )
        return self

    def objection(self, shape: tuple[int, int]) -> str | None:
        """Return why stamps of so many rows and columns cannot be its input, or None if they can."""
        halved = 1 if self.downsampling == "dilated" else self.stages
        return cannot_be_halved(shape, self.fold, halved) or too_wide(self.width, self.growth, self.stages)

    def build(self, channels: int, shape: tuple[int, int], outputs: int) -> nn.Module:
        """Build the network; see `Architecture.build`."""
        return self.with_head(self.branch(channels, self.width), channels, shape, outputs)

    def branch(self, channels: int, width: int) -> list[nn.Module]:
        """Return the convolutions, and the last 1x1 convolution if there is one.

        Parameters
        ----------
        channels : int
            Channels of the input image.
        width : int
            Channels of the first stage.

        Returns
        -------
        list of torch.nn.Module
            To be applied one after the other.
        """
        from torch import nn

        from shearbench.networks.modules import convolution

        fold, stages = self.staged(channels, width)
        if self.scales == "last":
            return [*fold, *(step for stage in stages for step in stage), *self.project(self.features(width))]
        outputs = [self.project(self.features(width, stages)) for stages in range(1, self.stages + 1)]
        return [
            *fold,
            convolution.EveryStage(
                [nn.Sequential(*stage) for stage in stages], [nn.Sequential(*steps) for steps in outputs]
            ),
        ]

    def features(self, width: int, stages: int | None = None) -> int:
        """Return the number of channels after the first `stages` stages, by default after all of them."""
        return width * self.growth ** ((stages or self.stages) - 1)

    def staged(self, channels: int, width: int) -> tuple[list[nn.Module], list[list[nn.Module]]]:
        """Return the module that folds the image, if there is one, and the modules of each stage.

        Parameters
        ----------
        channels, width
            As for `branch`.
        """
        from torch import nn

        from shearbench.networks.modules import convolution

        fold: list[nn.Module] = [nn.PixelUnshuffle(self.fold)] if self.fold > 1 else []
        stages: list[list[nn.Module]] = []
        incoming, dilation = channels * self.fold**2, 1
        for stage in range(self.stages):
            steps: list[nn.Module] = []
            if stage and self.downsampling == "dilated":
                dilation *= 2
            elif stage:
                steps += convolution.halving(self.downsampling)
            stride = 2 if stage and self.downsampling == "strided" else 1
            steps += convolution.convolution(
                incoming, width, self.activation, self.normalisation, stride, dilation, self.kernel
            )
            for _ in range(self.blocks):
                block = nn.Sequential(
                    *convolution.convolution(
                        width, width, self.activation, self.normalisation, 1, dilation, self.kernel
                    )
                )
                steps.append(convolution.Skip(block) if self.skip else block)
            if self.spatial_dropout:
                steps.append(nn.Dropout2d(self.spatial_dropout))
            stages.append([*steps, *self._attended(width, last=stage == self.stages - 1)])
            incoming, width = width, width * self.growth
        return fold, stages

    def _attended(self, width: int, last: bool) -> list[nn.Module]:
        """Return the attention at the end of a stage: a list of one module or none."""
        from shearbench.networks.modules import attention

        if self.attention == "channel":
            return [attention.ChannelWeights(width, self.activation)]
        if self.attention == "spatial":
            return [attention.PixelWeights()]
        if self.attention == "cbam":
            return [attention.Cbam(width, self.activation)]
        return [attention.PixelAttention(width)] if self.attention == "self" and last else []
