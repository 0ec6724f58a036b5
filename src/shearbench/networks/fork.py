"""Published networks with a branch for the galaxy and one for its PSF: ShearNet's and FORKLENS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from shearbench.networks.base import Architecture
from shearbench.networks.terms import LEVELS, MAX_WIDTH, Activation, Further, Normalisation, Width

if TYPE_CHECKING:
    from torch import nn

    from shearbench.networks.modules.bodies import ComponentBody, ImageBody

_SHEARNET = {"optimiser": "adamw", "weight_decay": 1e-4}
_LARGEST_SIZE = 101


class Fork(Architecture):
    """A branch of convolutions for the galaxy, one for its PSF, and dense layers that take both.

    `research-backed` and `fork-like` are networks of ShearNet (github.com/s-Sayan/ShearNet,
    shearnet/core/models.py): CBAM there has two perceptrons for the weights of the channels, here one, as in
    the paper of CBAM. `forklens` is the first of two networks of FORKLENS (Zhang et al. 2024, A&A 683, A209;
    github.com/zhangzzk/forklens). Its second one, a committee of eight small networks that corrects the
    output, is the estimator `forklens-calibrated`. FORKLENS's network answers flux and size too, as this one
    does with `auxiliary`. All are told the noise level here, which the published ones are not. If all
    galaxies have the same PSF, its image carries no information, and the network has the galaxy's branch
    only.
    """

    kind: ClassVar[str] = "fork"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "research-backed": {"options": {"psf": "none", "pooling": "average"}, "training": _SHEARNET},
        "fork-like": {"training": _SHEARNET},
        "fork-like-attention": {"options": {"fusion": "attention"}, "training": _SHEARNET},
        # As in the code: no activation between the dense layers. The published stamps have 128 by 128 pixels
        # and the images of the PSF 48 by 48. Trained by AdamW instead of stochastic gradient descent (rate
        # 0.01, momentum 0.9, batches of 250), for which the budget of a run here is too small.
        "forklens": {
            "options": {
                "galaxy": "resnet34",
                "width": 64,
                "normalisation": "batch",
                "pooling": "average",
                "hidden": [512, 128],
                "dense": "linear",
            },
            "training": {"optimiser": "adamw"},
        },
    }

    input_scaling: Literal["pixel", "global"] = Field(
        "global",
        description="Scaling of the input, after the mean galaxy is subtracted from the stamp, as for the "
        "other networks; the published ones divide all pixels by the same number.",
    )
    galaxy: Literal["multiscale", "resnet34"] = Field(
        "multiscale",
        description="Branch of the galaxy. `multiscale`: two blocks of kernels of several sizes side by side "
        "with CBAM, as in ShearNet. `resnet34`: a residual network of 34 layers, as in FORKLENS.",
    )
    psf: Literal["strided", "none"] = Field(
        "strided",
        description="Branch of the PSF: four convolutions of stride 2, as in both networks, or none.",
    )
    fusion: Literal["joined", "attention"] = Field(
        "joined",
        description="How the branches are combined. `joined`: the dense layers take the features of both. "
        "`attention`: the pixels of the galaxy's features attend to those of the PSF's, then to each other; "
        "the dense layers take the mean.",
    )
    width: Width = Field(
        16, description="Channels of the first convolution of the galaxy; later ones have multiples of it."
    )
    sizes: list[Width] = Field(
        [3, 9, 21],
        min_length=1,
        max_length=10,
        description="Sides of the kernels side by side [pixels], for `galaxy: multiscale`, multiples of 3. "
        "Kernels of more than 3 pixels have 3 by 3 elements at larger distances.",
    )
    activation: Activation = Field("relu", description="Activation function.")
    normalisation: Normalisation = Field("group", description="Normalisation after each convolution.")
    pooling: Literal["none", "average"] = Field(
        "none",
        description="Features of the galaxy that the dense layers take with `fusion: joined`: those of all "
        "positions, or the mean of each channel.",
    )
    tokens: Width = Field(128, description="Features of a pixel, for `fusion: attention`.")
    layers: Further = Field(2, description="Layers of self-attention, for `fusion: attention`.")
    hidden: list[Width] = Field(
        [128], max_length=100, description="Number of units of each dense layer before the output."
    )
    dense: Literal["normalised", "linear"] = Field(
        "normalised",
        description="What follows each of these layers: group normalisation and the activation "
        "(`normalised`), or nothing (`linear`).",
    )

    @model_validator(mode="after")
    def _fits(self) -> Fork:
        for size in self.sizes:
            if size % 3 or size > _LARGEST_SIZE:
                raise ValueError(f"sizes: found {size}; use multiples of 3 up to {_LARGEST_SIZE - 2}")
        widest = self.width * (8 if self.galaxy == "resnet34" else 2 * len(self.sizes))
        if widest > MAX_WIDTH:
            raise ValueError(f"width: {self.width} gives {widest} channels in the end; at most {MAX_WIDTH}")
        return self

    def objection(self, shape: tuple[int, int]) -> str | None:
        """Return why the network cannot take stamps of this shape (rows, columns), or None if it can."""
        least = 10 if self.galaxy == "resnet34" else 2
        if min(shape) < least:
            return f"stamps of {shape[0]} by {shape[1]} pixels are too small; it needs at least {least}"
        return None

    def build(self, channels: int, shape: tuple[int, int], outputs: int) -> nn.Module:
        """Build the network; see `Architecture.build`."""
        return self._network(channels, shape, outputs, bands=1)

    def classifier(self, channels: int, shape: tuple[int, int], classes: int) -> nn.Module:
        """Build a classifier of images whose channels are bands."""
        return self._network(channels, shape, classes, bands=channels)

    def _network(self, channels: int, shape: tuple[int, int], outputs: int, bands: int) -> nn.Module:
        from torch import nn

        from shearbench.networks.modules import published
        from shearbench.networks.modules.convolution import activation
        from shearbench.networks.modules.heads import made_of

        act, norm = self.activation, self.normalisation
        galaxy = (
            published.resnet34(self.width, act, norm, bands)
            if self.galaxy == "resnet34"
            else published.multiscale(self.width, self.sizes, act, norm, bands)
        )
        psf = published.strided(act, norm) if channels > bands and self.psf != "none" else None
        features: nn.Module
        if self.fusion == "attention":
            fused = published.Fusion(galaxy, psf, bands, shape, self.tokens, self.layers)
            features = published.MeanToken(fused, self.tokens)
        else:
            features = published.Joined(galaxy, psf, self.pooling, bands)
        count = made_of(features, channels, shape)[1] + LEVELS
        steps: list[nn.Module] = []
        for units in self.hidden:
            steps.append(nn.Linear(count, units))
            if self.dense == "normalised":
                steps += [nn.GroupNorm(8 if units % 8 == 0 else 1, units), activation(act)]
            count = units
        return published.WithLayers(features, nn.Sequential(*steps, nn.Linear(count, outputs)))

    def body(
        self, shape: tuple[int, int], per_galaxy_psf: bool, targets: tuple[str, ...], outputs: int
    ) -> ImageBody | ComponentBody:
        """Build the network; see `Architecture.body`."""
        return super().body(shape, per_galaxy_psf and self.psf != "none", targets, outputs)
