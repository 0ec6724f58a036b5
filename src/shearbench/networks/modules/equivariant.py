"""Layers that commute with the rotations and mirrors of the square."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shearbench.networks.modules import dihedral
from shearbench.networks.modules.convolution import activation, normalisation
from shearbench.networks.modules.heads import made_of
from shearbench.networks.terms import LEVELS, Activation, Normalisation


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
        fields, kernel = made_of(features, channels, (side, side))[1:3]
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
