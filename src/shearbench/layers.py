"""Blocks that architectures are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shearbench.networks.base import LEVELS, Activation, Normalisation

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
    """

    def __init__(
        self,
        features: nn.Module,
        channels: int,
        shape: tuple[int, int],
        hidden: Sequence[int],
        outputs: int,
        act: Activation,
    ) -> None:
        super().__init__()
        self.features = features
        with torch.no_grad():
            count = features.eval()(torch.zeros(1, channels, *shape)).numel()
        features.train()
        dense: list[nn.Module] = []
        count += LEVELS
        for units in hidden:
            dense += [nn.Linear(count, units), activation(act)]
            count = units
        self.head = nn.Sequential(*dense, nn.Linear(count, outputs))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Map images [n, channels, ny, nx] and levels [n, LEVELS] to [n, outputs]."""
        return self.head(torch.cat([self.features(x).flatten(1), level], dim=1))
