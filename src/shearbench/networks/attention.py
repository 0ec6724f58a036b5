"""Networks that let the patches of a stamp attend to each other: a small vision transformer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from shearbench.networks.head import DenseHead
from shearbench.networks.terms import Depth, Width

if TYPE_CHECKING:
    from torch import nn


class Attention(DenseHead):
    """Patches of the stamp, blocks of self-attention and dense layers, and a dense head.

    Dosovitskiy et al. 2021, arXiv:2010.11929; the answer is made of all patches, and not of one token's
    summary, because a shape needs to know which was where.
    """

    kind: ClassVar[str] = "attention"

    patch: Depth = Field(6, description="Side of a patch, pixels.")
    width: Width = Field(48, description="Features of a patch.")
    depth: Depth = Field(3, description="Blocks.")
    heads: Depth = Field(4, description="Heads of the attention; a divisor of the width.")
    expansion: Depth = Field(2, description="By what the dense layers of a block are wider.")

    @model_validator(mode="after")
    def _heads_divide(self) -> Attention:
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} do not divide the width {self.width}")
        return self

    def refuses(self, shape: tuple[int, int]) -> str | None:
        """Return why stamps of so many rows and columns cannot be its input, or None if they can."""
        if any(side % self.patch for side in shape):
            return f"options.patch: {self.patch} does not divide stamps of {shape[0]} by {shape[1]} pixels"
        return None

    def build(self, channels: int, shape: tuple[int, int], outputs: int) -> nn.Module:
        """Build the network; see `Architecture.build`."""
        from torch import nn

        from shearbench.networks.modules import attention

        patches = shape[0] // self.patch * (shape[1] // self.patch)
        steps = [
            nn.Conv2d(channels, self.width, self.patch, stride=self.patch),
            attention.Transformer(
                self.width, patches, self.depth, self.heads, self.expansion, self.activation, self.dropout
            ),
        ]
        return self.with_head([*steps, *self.project(self.width)], channels, shape, outputs)
