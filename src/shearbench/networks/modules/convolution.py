"""Convolutional building blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shearbench.networks.terms import Activation, Normalisation

FROZEN_AFTER = 100
"""Number of training steps after which `FrozenBatchNorm` keeps its statistics."""


class Swish(nn.Module):
    """Swish x sigmoid(b x), with a learned b that is 1 at first (Ramachandran et al. 2017, arXiv:1710.05941).

    For b = 0 it is linear, for large b it is ReLU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to the same shape."""
        return x * torch.sigmoid(self.beta * x)


class FrozenBatchNorm(nn.BatchNorm2d):
    """Batch normalisation that normalises by its running statistics after the first training steps.

    After `FROZEN_AFTER` steps the mean and the variance of each channel are constants. From then on, a stamp
    has the same output in training as in a measurement, whatever the other stamps of the batch are.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n, channels, ny, nx] to the same shape."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        # No branch on the number of steps, because `torch.vmap` does not allow it.
        first = self.num_batches_tracked < FROZEN_AFTER
        var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        with torch.no_grad():
            unbiased = x.numel() / x.shape[1] / max(x.numel() / x.shape[1] - 1, 1)
            weight = first * self.momentum
            self.running_mean += weight * (mean - self.running_mean)
            self.running_var += weight * (unbiased * var - self.running_var)
            self.num_batches_tracked += 1
        mean = torch.where(first, mean, self.running_mean)
        var = torch.where(first, var, self.running_var)
        scale = self.weight * (var + self.eps).rsqrt()
        return x * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]


_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "swish": Swish,
    "mish": nn.Mish,
    "tanh": nn.Tanh,
}


def activation(name: Activation) -> nn.Module:
    """Return the activation of this name."""
    return _ACTIVATIONS[name]()


def normalisation(name: Normalisation, channels: int) -> list[nn.Module]:
    """Return the normalisation of this name for images of `channels` channels: a list of one or no module."""
    if name == "batch":
        return [nn.BatchNorm2d(channels)]
    if name == "batch_frozen":
        return [FrozenBatchNorm(channels)]
    if name == "group":
        return [nn.GroupNorm(math.gcd(8, channels), channels)]
    return [nn.GroupNorm(1, channels)] if name == "layer" else []


def convolution(
    incoming: int, outgoing: int, act: Activation, norm: Normalisation, stride: int = 1, dilation: int = 1
) -> list[nn.Module]:
    """Return a 3x3 convolution, its normalisation and its activation, to be applied one after the other.

    Parameters
    ----------
    incoming, outgoing : int
        Channels of the input and of the output.
    act, norm : str
        Names of the activation and of the normalisation.
    stride : int
        The side of the output is the side of the input divided by `stride`, rounded up.
    dilation : int
        Distance between neighbouring elements of the kernel [pixels].
    """
    return [
        nn.Conv2d(incoming, outgoing, 3, stride=stride, padding=dilation, dilation=dilation),
        *normalisation(norm, outgoing),
        activation(act),
    ]


class Skip(nn.Module):
    """Skip connection: add the output of a module to its input."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x + body(x)``."""
        return x + self.body(x)


class Beside(nn.Module):
    """Append the output of a module to its input, as further channels."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Return [n, channels of x + channels of body(x), ...]."""
        return torch.cat([x, self.body(x)], 1)


class EveryStage(nn.Module):
    """Apply stages one after the other, and return features of all of them.

    Parameters
    ----------
    stages : sequence of torch.nn.Module
        They map images to images.
    outputs : sequence of torch.nn.Module
        For each stage, the layers that compute its features from its image.
    """

    def __init__(self, stages: Sequence[nn.Module], outputs: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages, self.outputs = nn.ModuleList(stages), nn.ModuleList(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n, channels, ny, nx] to features [n, number of features]."""
        found = []
        for stage, output in zip(self.stages, self.outputs):
            x = stage(x)
            found.append(output(x).flatten(1))
        return torch.cat(found, 1)


def preactivated(channels: int, act: Activation, norm: Normalisation) -> nn.Module:
    """Return a residual block with pre-activation (He et al. 2016, arXiv:1603.05027, figure 1b).

    Normalisation and activation come before each convolution, so that the skip connection is an identity.
    """
    steps: list[nn.Module] = []
    for _ in range(2):
        steps += [
            *normalisation(norm, channels),
            activation(act),
            nn.Conv2d(channels, channels, 3, padding=1),
        ]
    return Skip(nn.Sequential(*steps))
