"""Equivariant layers: they commute with the 8 rotations and mirrors of a square image.

A field is a set of 8 channels, one for each element of the group (see
`shearbench.networks.modules.dihedral`).
"""

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
    """Convolution of images or fields to fields (Cohen & Welling 2016, arXiv:1602.07576, section 6).

    All 8 channels of a field are computed with the same kernel: the channel of the group's element h with the
    kernel rotated and mirrored by h. The layer is exactly equivariant if the pixels of the output lie
    symmetrically on those of the input. This is so with the arguments of `symmetric_halving`, without a
    stride, and with a kernel as large as the image.

    Parameters
    ----------
    incoming, outgoing : int
        Number of fields of the input and of the output; with `lifting`, `incoming` is a number of channels.
    kernel : int
        Side of the kernel [pixels].
    stride, padding : int
        [pixels]
    lifting : bool
        Whether the input is an image instead of fields.
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
        # He et al. 2015, arXiv:1502.01852. With smaller weights, the differences between the orientations
        # would vanish after a few layers.
        limit = math.sqrt(6 / (incoming * depth * kernel**2))
        self.weight = nn.Parameter(torch.empty(outgoing, incoming, *self.sides).uniform_(-limit, limit))
        self.bias = nn.Parameter(torch.zeros(outgoing))
        # For each place in the 8 kernels, the index of the element of the common kernel that it holds: the
        # kernel is rotated in space, and its channels are permuted by the group.
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
    """Return the kernel, stride and padding [pixels] that halve an image of this side and keep its symmetry.

    On an image with an even side, a kernel of 3 with a stride of 2 would reach beyond one edge only.
    """
    return {"kernel": 3 if side % 2 else 4, "stride": 2, "padding": 1}


class OverFields(nn.Module):
    """Apply a module to fields as if the 8 channels of each were one image, so that it treats them alike."""

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
    """Return a `GroupConvolution`, its normalisation and its activation, in the order of application."""
    return [
        GroupConvolution(incoming, outgoing, lifting=lifting, **grid),
        *map(OverFields, normalisation(norm, outgoing)),
        activation(act),
    ]


class GroupReadout(nn.Module):
    """Compute the output of an equivariant network from fields of one pixel.

    Each field has a vector of weights, one for each output. The group's element h transforms this vector as
    it transforms the output (`dihedral.transform_answer`); the sum over h of the transformed vectors times
    the field's 8 values is the contribution to the output. For any weights, the shape of a stamp that a
    rotation by 90 degrees does not change is zero, and so is the mean shape over all rotations of a stamp.

    Parameters
    ----------
    fields : int
        Number of fields.
    targets : tuple of str or None
        Names of the first outputs; None: no output changes with the orientation.
    outputs : int
        Number of outputs.
    """

    def __init__(self, fields: int, targets: tuple[str, ...] | None, outputs: int) -> None:
        super().__init__()
        one = torch.eye(outputs)
        changes = [
            one if targets is None else dihedral.transform_answer(one, element, targets)
            for element in range(dihedral.ORDER)
        ]
        self.register_buffer("changes", torch.stack(changes) / math.sqrt(dihedral.ORDER), persistent=False)
        limit = 1 / math.sqrt(fields)
        self.weight = nn.Parameter(torch.empty(fields, outputs).uniform_(-limit, limit))

    changes: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, fields * 8, 1, 1] to [n, outputs]."""
        weights = torch.einsum("fi,hio->fho", self.weight, self.changes)
        return x.flatten(1) @ weights.flatten(0, 1)


class LevelField(nn.Module):
    """Compute fields from the noise level; all 8 channels of a field are equal."""

    def __init__(self, fields: int) -> None:
        super().__init__()
        self.linear = nn.Linear(LEVELS, fields, bias=False)

    def forward(self, level: Tensor) -> Tensor:
        """Map [n, LEVELS] to [n, fields * 8, 1, 1]."""
        return self.linear(level).repeat_interleave(dihedral.ORDER, 1)[..., None, None]


class WithGroupHead(nn.Module):
    """Equivariant features, then equivariant dense layers and an equivariant output.

    A dense layer is a `GroupConvolution` with a kernel as large as the image.

    Parameters
    ----------
    features : torch.nn.Module
        It maps images [n, channels, side, side] to fields [n, fields * 8, ...].
    channels, side : int
        Number of channels, and side of the image [pixels].
    hidden : sequence of int
        Number of fields of each dense layer; at least one layer.
    targets, outputs
        As for `GroupReadout`.
    act : str
        Name of the activation.
    dropout : float
        Fraction of the input of each dense layer but the first that is set to zero at random in training.
    """

    def __init__(
        self,
        features: nn.Module,
        channels: int,
        side: int,
        hidden: Sequence[int],
        targets: tuple[str, ...] | None,
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
