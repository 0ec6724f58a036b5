"""Convolutional building blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shearbench.networks.terms import Activation, Downsampling, Normalisation, Shortcut

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
    incoming: int,
    outgoing: int,
    act: Activation,
    norm: Normalisation,
    stride: int = 1,
    dilation: int = 1,
    kernel: int = 3,
) -> list[nn.Module]:
    """Return a convolution, its normalisation and its activation, to be applied one after the other.

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
    kernel : int
        Side of the kernel, an odd number [pixels].
    """
    padding = dilation * (kernel // 2)
    return [
        nn.Conv2d(incoming, outgoing, kernel, stride=stride, padding=padding, dilation=dilation),
        *normalisation(norm, outgoing),
        activation(act),
    ]


class LocallyConnected(nn.Module):
    """A layer of 3x3 kernels with a stride of 2, whose weights differ from position to position.

    Parameters
    ----------
    incoming, outgoing : int
        Channels of the input and of the output.
    positions : int
        Number of pixels of the output, whose sides are those of the input divided by 2, rounded up.
    """

    def __init__(self, incoming: int, outgoing: int, positions: int) -> None:
        super().__init__()
        inputs = 9 * incoming
        limit = 1 / math.sqrt(inputs)  # as for torch's convolutions
        self.weight = nn.Parameter(torch.empty(positions, outgoing, inputs).uniform_(-limit, limit))
        self.bias = nn.Parameter(torch.empty(positions * outgoing).uniform_(-limit, limit))

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n, incoming, ny, nx] to [n, outgoing, ny / 2, nx / 2]."""
        squares = nn.functional.unfold(x, 3, padding=1, stride=2).permute(2, 0, 1)
        found = squares @ self.weight.mT + self.bias.view(len(self.weight), 1, -1)
        return found.permute(1, 2, 0).unflatten(2, (-(-x.shape[2] // 2), -1))


def halving(downsampling: Downsampling) -> list[nn.Module]:
    """Return the module that halves an image between two stages: a list of one or no module.

    `strided` and `dilated` have none. `blur` is max pooling without a stride and a blur by the binomial
    kernel [1, 2, 1] before every second pixel is taken (Zhang 2019, arXiv:1904.11486, section 3); the kernel
    is the product of two means of 2 by 2 pixels. In an image with an even side, mirrored images give mirrored
    results.
    """
    if downsampling == "max":
        return [nn.MaxPool2d(2)]
    if downsampling == "average":
        return [nn.AvgPool2d(2)]
    if downsampling == "blur":
        return [nn.Sequential(nn.MaxPool2d(2, 1), nn.AvgPool2d(2, 1, padding=1), nn.AvgPool2d(2))]
    return []


class Skip(nn.Module):
    """Skip connection: add the output of a module to its input.

    Parameters
    ----------
    body : torch.nn.Module
    shortcut : torch.nn.Module, optional
        It changes the input to the shape of the output; by default, the input has this shape.
    """

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x + body(x)``, or ``shortcut(x) + body(x)``."""
        return (x if self.shortcut is None else self.shortcut(x)) + self.body(x)


class Padded(nn.Module):
    """Take every `stride`-th pixel, and append channels of zeros: a shortcut without weights.

    He et al. 2016, arXiv:1512.03385, option A of section 4.1.
    """

    def __init__(self, incoming: int, outgoing: int, stride: int) -> None:
        super().__init__()
        self.further, self.stride = outgoing - incoming, stride

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, incoming, ny, nx] to [n, outgoing, ny / stride, nx / stride]."""
        x = x[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(x, (0, 0, 0, 0, 0, self.further))


def residual(
    incoming: int, outgoing: int, act: Activation, norm: Normalisation, shortcut: Shortcut, stride: int
) -> list[nn.Module]:
    """Return two 3x3 convolutions with a shortcut around them, and an activation after the sum.

    He et al. 2016, arXiv:1512.03385, figure 2 and section 4.1.

    Parameters
    ----------
    incoming, outgoing : int
        Channels of the input and of the output; there must not be more of the input.
    act, norm : str
        Names of the activation and of the normalisation.
    shortcut : str
        ``plain``: no shortcut. ``padded``: the input, with zeros as further channels (option A).
        ``projected``: a 1x1 convolution where the shape changes, otherwise the input (option B).
        ``all_projected``: a 1x1 convolution in any case (option C).
    stride : int
        The side of the output is the side of the input divided by `stride`, rounded up.
    """
    body = nn.Sequential(
        *convolution(incoming, outgoing, act, norm, stride),
        nn.Conv2d(outgoing, outgoing, 3, padding=1),
        *normalisation(norm, outgoing),
    )
    if shortcut == "plain":
        return [body, activation(act)]
    changes = stride > 1 or outgoing != incoming
    around: nn.Module | None = None
    if shortcut == "all_projected" or (shortcut == "projected" and changes):
        around = nn.Sequential(
            nn.Conv2d(incoming, outgoing, 1, stride=stride), *normalisation(norm, outgoing)
        )
    elif changes:
        around = Padded(incoming, outgoing, stride)
    return [Skip(body, around), activation(act)]


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
