"""Attention over channels and positions, and transformers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from shearbench.networks.modules.convolution import Skip, activation
from shearbench.networks.terms import Activation


class Cbam(nn.Module):
    """Multiply the channels of an image, and then its pixels, by weights computed from the image.

    Convolutional block attention module (Woo et al. 2018, arXiv:1807.06521, equations 2 and 3).

    Parameters
    ----------
    channels : int
    act : str
        Name of the activation between the two layers that compute the weights of the channels.
    reduction : int
        Number of channels divided by the number of units between these two layers.
    side : int
        Side of the kernel that computes the weights of the pixels [pixels].
    """

    def __init__(self, channels: int, act: Activation, reduction: int = 4, side: int = 7) -> None:
        super().__init__()
        narrow = max(channels // reduction, 1)
        self.channels = nn.Sequential(
            nn.Conv2d(channels, narrow, 1), activation(act), nn.Conv2d(narrow, channels, 1, bias=False)
        )
        self.pixels = nn.Conv2d(2, 1, side, padding=side // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, channels, ny, nx] to the same shape."""
        mean, most = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        x = x * torch.sigmoid(self.channels(mean) + self.channels(most))
        return x * torch.sigmoid(self.pixels(torch.cat([x.mean(1, True), x.amax(1, True)], 1)))


class SelfAttention(nn.Module):
    """Self-attention with several heads (Vaswani et al. 2017, arXiv:1706.03762, section 3.2).

    It is computed as two matrix products and a softmax, because torch's fused kernels have no deterministic
    gradient on a GPU. Only the last layer has a bias: a bias of the keys has no effect on the output, biases
    of queries and values have little.

    Parameters
    ----------
    width : int
        Number of features of a token.
    heads : int
        Number of attention heads; it must divide `width`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.mixed = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [n, tokens, width] to the same shape."""
        query, key, value = self.mixed(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(query @ key.mT / math.sqrt(query.shape[-1]), -1)
        return self.out((weights @ value).transpose(1, 2).flatten(2))


class Position(nn.Module):
    """Add to each token a learned vector that depends on its position only."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(tokens, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [n, tokens, width] to the same shape."""
        return x + self.weight


class Transformer(nn.Module):
    """Transformer blocks whose tokens are the pixels of an image.

    Blocks with normalisation before each part, as in the vision transformer (Dosovitskiy et al. 2021,
    arXiv:2010.11929, equations 1 to 3); the vectors that encode the positions are learned.

    Parameters
    ----------
    width : int
        Number of channels of the image.
    pixels : int
        Number of pixels of the image.
    depth : int
        Number of blocks.
    heads : int
        Number of attention heads.
    expansion : int
        Units of the inner dense layer of a block, as a multiple of `width`.
    act : str
        Name of the activation of the dense layers.
    dropout : float
        Fraction of the output of each part of a block that is set to zero at random in training.
    """

    def __init__(
        self, width: int, pixels: int, depth: int, heads: int, expansion: int, act: Activation, dropout: float
    ) -> None:
        super().__init__()
        left_out = [nn.Dropout(dropout)] if dropout else []
        blocks: list[nn.Module] = [Position(pixels, width)]
        for _ in range(depth):
            attend = [nn.LayerNorm(width), SelfAttention(width, heads)]
            wide = expansion * width
            dense = [nn.LayerNorm(width), nn.Linear(width, wide), activation(act), nn.Linear(wide, width)]
            blocks += [Skip(nn.Sequential(*attend, *left_out)), Skip(nn.Sequential(*dense, *left_out))]
        self.blocks = nn.Sequential(*blocks, nn.LayerNorm(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, width, ny, nx] to the same shape."""
        tokens = self.blocks(x.flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).unflatten(2, x.shape[2:])
