"""Blocks that architectures are made of."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shearbench import dihedral
from shearbench.networks.terms import LEVELS, Activation, Normalisation

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def activation(name: Activation) -> nn.Module:
    """Return the non-linearity of that name."""
    return _ACTIVATIONS[name]()


def normalisation(name: Normalisation, channels: int) -> list[nn.Module]:
    """Return the normalisation of that name for images of so many channels: one module, or none."""
    if name == "batch":
        return [nn.BatchNorm2d(channels)]
    if name == "group":
        return [nn.GroupNorm(math.gcd(8, channels), channels)]
    return [nn.GroupNorm(1, channels)] if name == "layer" else []


def convolution(
    incoming: int, outgoing: int, act: Activation, norm: Normalisation, stride: int = 1, dilation: int = 1
) -> list[nn.Module]:
    """Return a 3x3 convolution that keeps the size (over `stride`), its normalisation and non-linearity."""
    return [
        nn.Conv2d(incoming, outgoing, 3, stride=stride, padding=dilation, dilation=dilation),
        *normalisation(norm, outgoing),
        activation(act),
    ]


class Skip(nn.Module):
    """Add what a module makes of its input to the input."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x + body(x)``."""
        return x + self.body(x)


class Beside(nn.Module):
    """Put what a module makes of its input beside the input, as further channels."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Return [n, channels of x + channels of body(x), ...]."""
        return torch.cat([x, self.body(x)], 1)


def preactivated(channels: int, act: Activation, norm: Normalisation) -> nn.Module:
    """Return a residual block with pre-activation: nothing stands in the way of the identity.

    He et al. 2016, arXiv:1603.05027, figure 1b.
    """
    steps: list[nn.Module] = []
    for _ in range(2):
        steps += [
            *normalisation(norm, channels),
            activation(act),
            nn.Conv2d(channels, channels, 3, padding=1),
        ]
    return Skip(nn.Sequential(*steps))


class Cbam(nn.Module):
    """Weigh the channels of an image by its content, and then its pixels.

    Convolutional block attention module (Woo et al. 2018, arXiv:1807.06521, equations 2 and 3).

    Parameters
    ----------
    channels : int
    act : str
        Name of the non-linearity between the two layers that weigh channels.
    reduction : int
        By what these two layers narrow in between.
    side : int
        Of the kernel that weighs pixels.
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

    Written out as two products and a softmax: the fused kernels have no deterministic gradient on a GPU.
    Only the last of its layers has a bias: one of the keys has no effect, and those of queries and values
    hardly any.

    Parameters
    ----------
    width : int
        Features of a token.
    heads : int
        A divisor of `width`.
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
    """Add to each token what is learned of its place."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(tokens, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [n, tokens, width] to the same shape."""
        return x + self.weight


class Transformer(nn.Module):
    """Let the pixels of an image attend to each other, wherever they are.

    Blocks with normalisation before each part, as in the vision transformer (Dosovitskiy et al. 2021,
    arXiv:2010.11929, equations 1 to 3); the position of a pixel is learned.

    Parameters
    ----------
    width : int
        Channels.
    pixels : int
    depth : int
        Blocks.
    heads : int
        Of the attention.
    expansion : int
        By how much the dense layers of a block are wider than the image.
    act : str
        Name of their non-linearity.
    dropout : float
        Part of what a block adds that is left out at random in training.
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


class WithHead(nn.Module):
    """Features of the image, then dense layers that are told the noise level too.

    Parameters
    ----------
    features : torch.nn.Module
        From [n, channels, ny, nx] to anything [n, ...].
    channels : int
    shape : (int, int)
        Rows and columns of the image.
    hidden : sequence of int
        Units of the dense layers before the last.
    outputs : int
    act : str
        Name of the non-linearity.
    dropout : float
        Part of the input of each dense layer but the first that is left out at random in training.
    """

    def __init__(
        self,
        features: nn.Module,
        channels: int,
        shape: tuple[int, int],
        hidden: Sequence[int],
        outputs: int,
        act: Activation,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.features = features
        count = _made_of(features, channels, shape).numel() + LEVELS
        self.head = _dense(count, hidden, outputs, act, dropout)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Map images [n, channels, ny, nx] and levels [n, LEVELS] to [n, outputs]."""
        return self.head(torch.cat([self.features(x).flatten(1), level], dim=1))


class WithPsfBranch(nn.Module):
    """Features of the galaxy and features of the PSF, each by a network of its own, then dense layers.

    As in FORKLENS (Zhang et al. 2024, A&A 683, A209).

    Parameters
    ----------
    features, psf : torch.nn.Module
        From [n, 1, ny, nx] to anything [n, ...].
    shape, hidden, outputs, act, dropout
        As for `WithHead`.
    """

    def __init__(
        self,
        features: nn.Module,
        psf: nn.Module,
        shape: tuple[int, int],
        hidden: Sequence[int],
        outputs: int,
        act: Activation,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.features, self.psf = features, psf
        count = sum(_made_of(part, 1, shape).numel() for part in (features, psf)) + LEVELS
        self.head = _dense(count, hidden, outputs, act, dropout)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Map images [n, 2, ny, nx] (galaxy and PSF) and levels [n, LEVELS] to [n, outputs]."""
        galaxy, psf = self.features(x[:, :1]).flatten(1), self.psf(x[:, 1:]).flatten(1)
        return self.head(torch.cat([galaxy, psf, level], dim=1))


def _made_of(features: nn.Module, channels: int, shape: tuple[int, int]) -> torch.Size:
    """Return the shape of what a module makes of one image."""
    with torch.no_grad():
        made = features.eval()(torch.zeros(1, channels, *shape))
    features.train()
    return made.shape


def _dense(count: int, hidden: Sequence[int], outputs: int, act: Activation, dropout: float) -> nn.Module:
    steps: list[nn.Module] = []
    for units in hidden:
        steps += [nn.Linear(count, units), activation(act), *([nn.Dropout(dropout)] if dropout else [])]
        count = units
    return nn.Sequential(*steps, nn.Linear(count, outputs))


# -- Layers that are equivariant under the dihedral group -------------------------------------------
#
# A field is a stack of 8 images, one for each element of the group: where the stamp is turned by g, the
# image of element h becomes that of g^-1 h, turned by g. Layers count fields; channel 8 c + h of a tensor is
# the image h of field c.


class GroupConvolution(nn.Module):
    """Convolution of images, or of fields, to fields (Cohen & Welling 2016, arXiv:1602.07576, section 6).

    One kernel makes all 8 images of a field: turned and mirrored by h it makes that of h. The result follows
    the stamp exactly where the grid of outputs lies symmetric on that of the inputs, which it does with
    `symmetric_halving`, without a stride, or with a kernel as large as the image.

    Parameters
    ----------
    incoming, outgoing : int
        Fields; `incoming` counts images where `lifting`.
    kernel : int
        Side of the kernel.
    stride, padding : int
    lifting : bool
        Whether the input is images and not fields.
    """

    def __init__(
        self,
        incoming: int,
        outgoing: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        lifting: bool = False,
    ) -> None:
        super().__init__()
        depth = 1 if lifting else dihedral.ORDER
        self.stride, self.padding, self.sides = stride, padding, (depth, kernel, kernel)
        # He et al. 2015, arXiv:1502.01852: what differs between orientations must not die out on the way.
        limit = math.sqrt(6 / (incoming * depth * kernel**2))
        self.weight = nn.Parameter(torch.empty(outgoing, incoming, *self.sides).uniform_(-limit, limit))
        self.bias = nn.Parameter(torch.zeros(outgoing))
        # Which element of the one kernel is at each place of the 8: turned in space, shifted in the group.
        place = torch.arange(depth * kernel**2).reshape(self.sides)
        turned = []
        for h in range(dihedral.ORDER):
            shift = [dihedral.product(dihedral.inverse(h), k) for k in range(depth)] if not lifting else [0]
            turned.append(dihedral.transform_images(place[shift], h))
        self.register_buffer("places", torch.stack(turned).flatten(), persistent=False)

    places: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, incoming * depth, ny, nx] to [n, outgoing * 8, ...]."""
        outgoing, incoming = self.weight.shape[:2]
        kernels = self.weight.flatten(2).index_select(2, self.places)
        kernels = kernels.unflatten(2, (dihedral.ORDER, *self.sides)).transpose(1, 2)
        kernels = kernels.reshape(outgoing * dihedral.ORDER, incoming * self.sides[0], *self.sides[1:])
        bias = self.bias.repeat_interleave(dihedral.ORDER)
        return nn.functional.conv2d(x, kernels, bias, self.stride, self.padding)


def symmetric_halving(side: int) -> dict[str, int]:
    """Return kernel, stride and padding that halve an image of this side and keep its symmetry.

    Of an even side, a kernel of 3 with a stride of 2 would take one edge and leave the other.
    """
    return {"kernel": 3 if side % 2 else 4, "stride": 2, "padding": 1}


class OverFields(nn.Module):
    """Apply a module to fields as if the 8 images of each were one, so that it treats them alike."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, fields * 8, ny, nx] to the same shape."""
        stacked = x.unflatten(1, (-1, dihedral.ORDER)).flatten(2, 3)
        return self.body(stacked).unflatten(2, (dihedral.ORDER, -1)).flatten(1, 2)


def group_convolution(
    incoming: int, outgoing: int, act: Activation, norm: Normalisation, lifting: bool = False, **grid: int
) -> list[nn.Module]:
    """Return a `GroupConvolution`, its normalisation and non-linearity."""
    return [
        GroupConvolution(incoming, outgoing, lifting=lifting, **grid),
        *map(OverFields, normalisation(norm, outgoing)),
        activation(act),
    ]


class GroupReadout(nn.Module):
    """Make of fields without pixels an answer that changes as it should when the stamp is turned.

    A field's part in the answer is a vector of weights, changed by each element of the group as the answer
    is (`dihedral.transform_answer`) and summed over the group with the field's 8 numbers. The shape of a
    stamp that is its own quarter turn, and the mean over all turns of any stamp, are zero for any weights.

    Parameters
    ----------
    fields : int
    targets : tuple of str
        Names of the first outputs.
    outputs : int
    """

    def __init__(self, fields: int, targets: tuple[str, ...], outputs: int) -> None:
        super().__init__()
        one = torch.eye(outputs)
        changes = [dihedral.transform_answer(one, element, targets) for element in range(dihedral.ORDER)]
        self.register_buffer("changes", torch.stack(changes) / math.sqrt(dihedral.ORDER), persistent=False)
        limit = 1 / math.sqrt(fields)
        self.weight = nn.Parameter(torch.empty(fields, outputs).uniform_(-limit, limit))

    changes: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, fields * 8, 1, 1] to [n, outputs]."""
        weights = torch.einsum("fi,hio->fho", self.weight, self.changes)
        return x.flatten(1) @ weights.flatten(0, 1)


class LevelField(nn.Module):
    """Make fields of the noise level, the same for all 8 images of each."""

    def __init__(self, fields: int) -> None:
        super().__init__()
        self.linear = nn.Linear(LEVELS, fields, bias=False)

    def forward(self, level: Tensor) -> Tensor:
        """Map [n, LEVELS] to [n, fields * 8, 1, 1]."""
        return self.linear(level).repeat_interleave(dihedral.ORDER, 1)[..., None, None]


class WithGroupHead(nn.Module):
    """Equivariant features, then equivariant dense layers and an answer that follows the stamp exactly.

    A dense layer is a `GroupConvolution` with a kernel as large as the image.

    Parameters
    ----------
    features : torch.nn.Module
        From [n, channels, side, side] to fields [n, fields * 8, ...].
    channels, side : int
    hidden : sequence of int
        Fields of the dense layers; one at least.
    targets, outputs
        As for `GroupReadout`.
    act : str
        Name of the non-linearity.
    dropout : float
        Part of the input of each dense layer but the first that is left out at random in training.
    """

    def __init__(
        self,
        features: nn.Module,
        channels: int,
        side: int,
        hidden: Sequence[int],
        targets: tuple[str, ...],
        outputs: int,
        act: Activation,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.features = features
        fields, kernel = _made_of(features, channels, (side, side))[1:3]
        self.flat = GroupConvolution(fields // dihedral.ORDER, hidden[0], kernel)
        self.level = LevelField(hidden[0])
        left_out = [nn.Dropout(dropout)] if dropout else []
        steps: list[nn.Module] = [activation(act), *left_out]
        for incoming, outgoing in itertools.pairwise(hidden):
            steps += [GroupConvolution(incoming, outgoing, 1), activation(act), *left_out]
        self.dense = nn.Sequential(*steps)
        self.readout = GroupReadout(hidden[-1], targets, outputs)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Map images [n, channels, side, side] and levels [n, LEVELS] to [n, outputs]."""
        return self.readout(self.dense(self.flat(self.features(x)) + self.level(level)))
