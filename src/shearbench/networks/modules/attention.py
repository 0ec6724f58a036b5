"""Attention over channels and positions, and transformers.

A module that weighs the pixels of a stamp, or patches of it, has the method ``attention_map(x)``: for the
input of the module it returns the weights [n, ny, nx], or [n, tokens] row by row. Attention between tokens
also has ``attention_scores(x)``, [n, from, to]. A module that tells tokens their positions has the attribute
``position_code`` [tokens, numbers]. `shearbench.diagnostics.attention` finds modules by these names.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from shearbench.networks.modules.convolution import Skip, activation
from shearbench.networks.terms import Activation, Encoding

HEADS = 4
"""Number of attention heads, where it is not an option and divides the number of channels."""


class ChannelWeights(nn.Sequential):
    """Multiply the channels of an image by weights computed from their means over the image.

    Squeeze-and-excitation (Hu et al. 2018, arXiv:1709.01507, equations 2 to 4).

    Parameters
    ----------
    channels : int
    act : str
        Name of the activation between the two layers that compute the weights.
    maxima : bool
        Whether the weights also depend on the largest value of each channel, as in CBAM (Woo et al. 2018,
        arXiv:1807.06521, equation 2).
    reduction : int
        Number of channels divided by the number of units between the two layers.
    """

    def __init__(self, channels: int, act: Activation, maxima: bool = False, reduction: int = 4) -> None:
        narrow = max(channels // reduction, 1)
        super().__init__(
            nn.Conv2d(channels, narrow, 1), activation(act), nn.Conv2d(narrow, channels, 1, bias=False)
        )
        self.maxima = maxima

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, channels, ny, nx] to the same shape."""
        logits = super().forward(x.mean((2, 3), keepdim=True))
        if self.maxima:
            logits = logits + super().forward(x.amax((2, 3), keepdim=True))
        return x * torch.sigmoid(logits)


class PixelWeights(nn.Conv2d):
    """Multiply the pixels of an image by weights computed from the mean and the largest of their channels.

    The spatial part of CBAM (Woo et al. 2018, arXiv:1807.06521, equation 3).

    Parameters
    ----------
    side : int
        Side of the kernel that computes the weights [pixels].
    """

    def __init__(self, side: int = 7) -> None:
        super().__init__(2, 1, side, padding=side // 2)

    def attention_map(self, x: Tensor) -> Tensor:
        """Return the weights [n, ny, nx] of the pixels of images [n, channels, ny, nx]."""
        return self._weights(x)[:, 0]

    def _weights(self, x: Tensor) -> Tensor:
        return torch.sigmoid(super().forward(torch.cat([x.mean(1, True), x.amax(1, True)], 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, channels, ny, nx] to the same shape."""
        return x * self._weights(x)


class Cbam(nn.Module):
    """Multiply the channels of an image, and then its pixels, by weights computed from the image.

    Convolutional block attention module (Woo et al. 2018, arXiv:1807.06521).

    Parameters
    ----------
    channels : int
    act : str
        Name of the activation between the two layers that compute the weights of the channels.
    reduction : int
        As for `ChannelWeights`.
    """

    def __init__(self, channels: int, act: Activation, reduction: int = 4) -> None:
        super().__init__()
        self.channels = ChannelWeights(channels, act, maxima=True, reduction=reduction)
        self.pixels = PixelWeights()

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, channels, ny, nx] to the same shape."""
        return self.pixels(self.channels(x))


def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return the values that queries attend to [..., queries, features].

    torch's fused kernel does not store the weights. It has no deterministic gradient on a GPU, where two
    matrix products and a softmax are used instead.

    Parameters
    ----------
    query, key, value : torch.Tensor
        [..., queries, features], [..., keys, features] and [..., keys, features].
    """
    if query.is_cuda:
        return weights_of(query, key) @ value
    return nn.functional.scaled_dot_product_attention(query, key, value)


def weights_of(query: Tensor, key: Tensor) -> Tensor:
    """Return the weights that each query gives to the keys, [..., queries, keys]."""
    return torch.softmax(query @ key.mT / math.sqrt(query.shape[-1]), -1)


class SelfAttention(nn.Module):
    """Self-attention with several heads (Vaswani et al. 2017, arXiv:1706.03762, section 3.2).

    Only the last layer has a bias: a bias of the keys has no effect on the output, biases of queries and
    values have little.

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
        return self.out(attended(*self._parts(x)).transpose(1, 2).flatten(2))

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the queries, keys and values, each [n, heads, tokens, width / heads]."""
        query, key, value = self.mixed(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return query, key, value

    def attention_scores(self, x: Tensor) -> Tensor:
        """Return the weights that each token gives to others [n, tokens, tokens], the mean over the heads."""
        query, key, _ = self._parts(x)
        return weights_of(query, key).mean(1)

    def attention_map(self, x: Tensor) -> Tensor:
        """Return the weight that each token gets [n, tokens], the mean over the tokens that give it."""
        return self.attention_scores(x).mean(1)


class CrossAttention(nn.Module):
    """Attention of each token to the tokens of another image, with several heads; see `SelfAttention`.

    Parameters
    ----------
    width : int
        Number of features of a token.
    other : int
        Number of features of a token of the other image.
    heads : int
        Number of attention heads; it must divide `width`.
    """

    def __init__(self, width: int, other: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.mixed = nn.Linear(other, 2 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """Map tokens [n, tokens, width] and [n, others, other] to [n, tokens, width]."""
        query = self.query(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        key, value = self.mixed(other).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(attended(query, key, value).transpose(1, 2).flatten(2))


class PixelAttention(nn.Module):
    """Self-attention between the pixels of an image, added to the image.

    Its tokens are the pixels, and the layers those of a transformer without its dense part.

    Parameters
    ----------
    channels : int
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attend = Skip(
            nn.Sequential(nn.LayerNorm(channels), SelfAttention(channels, math.gcd(HEADS, channels)))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, channels, ny, nx] to the same shape."""
        return as_image(self.attend(as_tokens(x)), x.shape)


class AttendToPsf(nn.Module):
    """Features of the galaxy, each of whose pixels attends to the pixels of the features of the PSF.

    Parameters
    ----------
    galaxy, psf : torch.nn.Module
        They map images [n, 1, ny, nx] to features [n, `width`, ...] and [n, `other`, ...].
    width, other : int
    """

    def __init__(self, galaxy: nn.Module, psf: nn.Module, width: int, other: int) -> None:
        super().__init__()
        self.galaxy, self.psf = galaxy, psf
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(other)])
        self.attend = CrossAttention(width, other, math.gcd(HEADS, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map images of galaxy and PSF [n, 2, ny, nx] to features [n, width, ...]."""
        galaxy, psf = self.galaxy(x[:, :1]), self.psf(x[:, 1:])
        tokens, others = (norm(as_tokens(part)) for norm, part in zip(self.norms, (galaxy, psf)))
        return galaxy + as_image(self.attend(tokens, others), galaxy.shape)


def as_tokens(x: Tensor) -> Tensor:
    """Return the pixels of an image [n, channels, ny, nx] as tokens [n, ny nx, channels]."""
    return x.flatten(2).transpose(1, 2)


def as_image(tokens: Tensor, shape: torch.Size) -> Tensor:
    """Return tokens [n, ny nx, channels] as an image, whose rows and columns are those of `shape`."""
    return tokens.transpose(1, 2).unflatten(2, shape[2:])


class Position(nn.Module):
    """Add to each token a learned vector that depends on its position only."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(tokens, width))

    @property
    def position_code(self) -> Tensor:
        """The numbers that encode the positions, [tokens, width]."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [n, tokens, width] to the same shape."""
        return x + self.weight


class Sinusoids(nn.Module):
    """Tell each token its position by sines and cosines, which are not learned.

    Half of the numbers encode the row, half the column, each as in Vaswani et al. 2017 (arXiv:1706.03762,
    section 3.5).

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the image whose pixels are the tokens.
    width : int
        How many numbers encode a position, a multiple of 4.
    joined : bool
        Whether the numbers are further features of a token, or added to its features.
    """

    def __init__(self, shape: tuple[int, int], width: int, joined: bool) -> None:
        super().__init__()
        self.joined = joined
        self.register_buffer("weight", sinusoids(shape, width), persistent=False)

    weight: Tensor

    @property
    def position_code(self) -> Tensor:
        """The numbers that encode the positions, [tokens, width]."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [n, tokens, features] to the same shape, or to `width` more features if joined."""
        if self.joined:
            return torch.cat([x, self.weight.expand(len(x), -1, -1)], 2)
        return x + self.weight


def sinusoids(shape: tuple[int, int], width: int) -> Tensor:
    """Return the numbers that encode positions, [rows * columns, width]; see `Sinusoids`."""
    frequencies = 1e4 ** (-torch.arange(width // 4) / (width // 4))
    axes = [torch.arange(side)[:, None] * frequencies for side in shape]
    rows, columns = (torch.cat([phase.sin(), phase.cos()], 1) for phase in axes)
    return torch.cat([rows[:, None].expand(-1, shape[1], -1), columns.expand(shape[0], -1, -1)], 2).flatten(
        0, 1
    )


def encoded(encoding: Encoding, shape: tuple[int, int], width: int) -> list[nn.Module]:
    """Return the module that tells tokens their positions: a list of one module or none.

    Parameters
    ----------
    encoding : str
    shape : (int, int)
        Rows and columns of the image whose pixels are the tokens.
    width : int
        Number of features of a token after the encoding.
    """
    if encoding == "none":
        return []
    if encoding == "learned":
        return [Position(math.prod(shape), width)]
    joined = encoding == "concatenated"
    return [Sinusoids(shape, joined_features(width) if joined else width, joined)]


def joined_features(width: int) -> int:
    """Return how many of the `width` features of a token encode its position, if they are not added to it."""
    return 4 * max(width // 16, 1)


class Transformer(nn.Module):
    """Transformer blocks whose tokens are the pixels of an image.

    Blocks with normalisation before each part, as in the vision transformer (Dosovitskiy et al. 2021,
    arXiv:2010.11929, equations 1 to 3).

    Parameters
    ----------
    width : int
        Number of features of a token: the channels of the image, and the numbers that encode the position if
        they are joined to it.
    shape : (int, int)
        Rows and columns of the image.
    encoding : str
        How a token is told its position, see `encoded`.
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
        self,
        width: int,
        shape: tuple[int, int],
        encoding: Encoding,
        depth: int,
        heads: int,
        expansion: int,
        act: Activation,
        dropout: float,
    ) -> None:
        super().__init__()
        left_out = [nn.Dropout(dropout)] if dropout else []
        blocks = encoded(encoding, shape, width)
        for _ in range(depth):
            attend = [nn.LayerNorm(width), SelfAttention(width, heads)]
            wide = expansion * width
            dense = [nn.LayerNorm(width), nn.Linear(width, wide), activation(act), nn.Linear(wide, width)]
            blocks += [Skip(nn.Sequential(*attend, *left_out)), Skip(nn.Sequential(*dense, *left_out))]
        self.blocks = nn.Sequential(*blocks, nn.LayerNorm(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, channels, ny, nx] to [n, width, ny, nx]."""
        return as_image(self.blocks(as_tokens(x)), x.shape)
