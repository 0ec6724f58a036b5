"""Published networks that average any features over the 8 rotations and mirrors of a stamp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from shearbench.networks.base import Architecture
from shearbench.networks.terms import LEVELS, Activation, Further, Width

if TYPE_CHECKING:
    from torch import nn

    from shearbench.networks.modules.bodies import ComponentBody, ImageBody


class Orbit(Architecture):
    """Smooth convolutions of all 8 rotations and mirrors of a stamp, averaged so that the output is spin-2.

    `d4cnn` follows Lin et al. 2026 (arXiv:2603.19046): five convolutions of 32 channels, on stamps whose PSF
    is replaced by a round Gaussian. Its code was not public when this was written. Not known are: where the
    image is halved (here after each convolution, as in ShearNet's copy of the network), the units of the odd
    layers (here 128), and the width of the Gaussian. The estimator `anacal-network`
    calibrates it by the published analytic response, with AnaCal's added noise; the network is trained
    without this noise here. `d4-fork-like` is
    ShearNet's version (github.com/s-Sayan/ShearNet, shearnet/core/models.py), with a branch for the PSF. Both
    are told the noise level here, as two constant images beside the stamp.
    """

    kind: ClassVar[str] = "orbit"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "d4-fork-like": {"training": {"optimiser": "adamw", "weight_decay": 1e-4, "augmentation": []}},
        # The published Huber loss changes from a square to an absolute value at errors of 0.001; here, as in
        # all recipes, at their rms.
        "d4cnn": {
            "options": {"widths": [32] * 5, "psf": "homogenised", "fusion": "none", "heads": 0},
            "training": {
                "optimiser": "adamw",
                "weight_decay": 1e-4,
                "augmentation": [],
                "loss": "huber",
            },
        },
    }

    input_scaling: Literal["pixel", "global"] = Field(
        "global",
        description="Scaling of the input, after the mean galaxy is subtracted from the stamp, as for the "
        "other networks; the published ones divide all pixels by the same number.",
    )
    symmetrise: Literal["never"] = Field(
        "never", description="Without effect in this architecture, which is symmetric."
    )
    head: Literal["point"] = Field("point", description="This architecture gives the shape alone.")
    auxiliary: Literal[False] = Field(False, description="This architecture has no further targets.")
    widths: Annotated[list[Width], Field(min_length=1, max_length=12)] = Field(
        [16, 32], description="Channels of each convolution; each is followed by a halving of the image."
    )
    psf: Literal["branch", "homogenised", "none"] = Field(
        "branch",
        description="How the network is given the image of the PSF, if the PSF differs from galaxy to "
        "galaxy. `branch`: its features, from convolutions like those of the galaxy. `homogenised`: the "
        "stamp's PSF is replaced by the same round Gaussian for all stamps, also if all had the same PSF. "
        "`none`: it is not given.",
    )
    gaussian_pixels: float = Field(
        2.0,
        ge=0.5,
        le=100,
        description="Standard deviation of this Gaussian [pixels], for `psf: homogenised`; it must be larger "
        "than that of the PSF, or noise is amplified.",
    )
    fusion: Literal["attention", "none"] = Field(
        "attention",
        description="`attention`: the pixels of the features attend to those of the PSF's branch, if there "
        "is one, and then to each other. `none`: they do not; the mean of the PSF's features is joined to "
        "each.",
    )
    tokens: Width = Field(64, description="Features of a pixel, for `fusion: attention`.")
    layers: Further = Field(1, description="Layers of self-attention, for `fusion: attention`.")
    heads: Further = Field(
        4,
        description="Number of learned maps of weights by which the features are summed over the image; 0: a "
        "Gaussian window.",
    )
    hidden: Width = Field(128, description="Units of the layer before the output.")
    activation: Activation = Field("gelu", description="Activation function of the convolutions.")

    @model_validator(mode="after")
    def _is_one(self) -> Orbit:
        if self.heads > 100:
            raise ValueError(f"heads: found {self.heads}, expected at most 100")
        return self

    def objection(self, shape: tuple[int, int]) -> str | None:
        """Return why the network cannot take stamps of this shape (rows, columns), or None if it can."""
        if shape[0] != shape[1]:
            return f"stamps of {shape[0]} by {shape[1]} pixels are not square"
        if shape[0] < 2 ** len(self.widths):
            return (
                f"options.widths: {len(self.widths)} convolutions halve stamps of {shape[0]} by {shape[1]} "
                "pixels to less than one pixel"
            )
        return None

    def build(self, channels: int, shape: tuple[int, int], outputs: int) -> nn.Module:
        """Build the network; see `Architecture.build`."""
        return self._network(channels, shape, None)

    def classifier(self, channels: int, shape: tuple[int, int], classes: int) -> nn.Module:
        """Build a classifier that gives a rotated or mirrored image the same logits."""
        return self._network(channels, shape, classes)

    def body(
        self, shape: tuple[int, int], per_galaxy_psf: bool, targets: tuple[str, ...], outputs: int
    ) -> ImageBody | ComponentBody:
        """Build the network and, with `psf: homogenised`, the change of the PSF; see `Architecture.body`."""
        if self.psf != "homogenised":
            return super().body(shape, per_galaxy_psf and self.psf == "branch", targets, outputs)
        from shearbench.networks.modules.published import HomogenisedBody

        network = self._network(1, shape, None)
        return HomogenisedBody(network, shape, self.input_scaling == "pixel", self.gaussian_pixels)

    def _network(self, channels: int, shape: tuple[int, int], classes: int | None) -> nn.Module:

        from shearbench.networks.modules import published

        bands = 1 if classes is None else channels
        galaxy = published.smooth(self.widths, bands + LEVELS, self.activation)
        given = channels > bands and self.psf == "branch"
        psf = published.smooth(self.widths, 1, self.activation) if given else None
        features: nn.Module = galaxy
        if self.fusion == "attention":
            features = published.Fusion(galaxy, psf, bands + LEVELS, shape, self.tokens, self.layers)
        elif psf is not None:
            features = published.WithMeanPsf(galaxy, psf, bands + LEVELS)
        return published.OrbitAverage(features, bands + given, shape, self.heads, self.hidden, classes)
