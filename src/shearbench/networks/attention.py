"""A small vision transformer: self-attention between the patches of a stamp."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from shearbench.networks.head import DenseHead
from shearbench.networks.terms import Depth, Encoding, Width

if TYPE_CHECKING:
    from torch import nn


class Attention(DenseHead):
    """Vision transformer: the stamp is cut into patches, which exchange information by self-attention.

    Dosovitskiy et al. 2021, arXiv:2010.11929, without the class token: the dense head takes the features of
    all patches, because a shape depends on where in the stamp each patch lies.
    """

    kind: ClassVar[str] = "attention"

    patch: Depth = Field(
        6, description="Side of a square patch [pixels]; it must divide the side of the stamp."
    )
    width: Width = Field(48, description="Number of features of each patch.")
    depth: Depth = Field(3, description="Number of blocks, each of self-attention and dense layers.")
    heads: Depth = Field(4, description="Number of attention heads; it must divide `width`.")
    position: Encoding = Field(
        "learned",
        description="How a patch is told its position in the stamp. `learned`: by a learned vector, added "
        "to its features. `sinusoidal`: by sines and cosines of row and column, added to its features. "
        "`concatenated`: by such sines and cosines in place of a quarter of its features. `none`: not told.",
    )
    expansion: Depth = Field(
        2, description="Units of the inner dense layer of a block, as a multiple of `width`."
    )

    @model_validator(mode="after")
    def _widths_divide(self) -> Attention:
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} does not divide width, which is {self.width}")
        if self.position == "sinusoidal" and self.width % 4:
            raise ValueError(
                f"width: {self.width} is not a multiple of 4, which position: sinusoidal needs (a sine and a "
                "cosine of the row and of the column)"
            )
        if self.position == "concatenated" and self.width < 8:
            raise ValueError(
                f"width: {self.width} features are too few for position: concatenated; use at least 8"
            )
        return self

    def objection(self, shape: tuple[int, int]) -> str | None:
        """Return why stamps of so many rows and columns cannot be its input, or None if they can."""
        if any(side % self.patch for side in shape):
            return f"options.patch: {self.patch} does not divide stamps of {shape[0]} by {shape[1]} pixels"
        return None

    def build(self, channels: int, shape: tuple[int, int], outputs: int) -> nn.Module:
        """Build the network; see `Architecture.build`."""
        from torch import nn

        from shearbench.networks.modules import attention

        patches = (shape[0] // self.patch, shape[1] // self.patch)
        joined = attention.joined_features(self.width) if self.position == "concatenated" else 0
        steps = [
            nn.Conv2d(channels, self.width - joined, self.patch, stride=self.patch),
            attention.Transformer(
                self.width,
                patches,
                self.position,
                self.depth,
                self.heads,
                self.expansion,
                self.activation,
                self.dropout,
            ),
        ]
        return self.with_head([*steps, *self.project(self.width)], channels, shape, outputs)
