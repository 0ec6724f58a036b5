"""Heads: the layers that compute the output of a network from its features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shearbench.networks.modules.convolution import Skip, activation
from shearbench.networks.terms import LEVELS, Activation, Pooling


def gathered(features: Tensor, pooling: Pooling) -> Tensor:
    """Return features [n, ...] as the dense layers take them, [n, number of features].

    With pooling, the features are images [n, channels, ny, nx], of which one number a channel is taken.
    """
    if pooling == "none":
        return features.flatten(1)
    # Torch's own layers for this have no deterministic gradient on a GPU.
    return features.mean((2, 3)) if pooling == "average" else features.amax((2, 3))


class WithHead(nn.Module):
    """Features of the image, then dense layers whose input includes the noise level.

    Parameters
    ----------
    features : torch.nn.Module
        It maps images [n, channels, ny, nx] to features [n, ...] of any shape.
    channels : int
    shape : (int, int)
        Rows and columns of the image.
    hidden : sequence of int
        Number of units of each dense layer but the last.
    outputs : int
        Number of outputs.
    act : str
        Name of the activation.
    dropout : float
        Fraction of the input of each dense layer but the first that is set to zero at random in training.
    pooling : str
        Whether the dense layers take the features of all positions, or their mean or maximum.
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
        pooling: Pooling = "none",
    ) -> None:
        super().__init__()
        self.features, self.pooling = features, pooling
        made = torch.empty(made_of(features, channels, shape))
        count = gathered(made, pooling).numel() + LEVELS
        self.head = dense_layers(count, hidden, outputs, act, dropout)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Map images [n, channels, ny, nx] and levels [n, LEVELS] to [n, outputs]."""
        return self.head(torch.cat([gathered(self.features(x), self.pooling), level], dim=1))


class WithPsfBranch(nn.Module):
    """Features of the galaxy and of the PSF, each computed by its own network, then dense layers.

    As in FORKLENS (Zhang et al. 2024, A&A 683, A209).

    Parameters
    ----------
    features, psf : torch.nn.Module
        They map images [n, 1, ny, nx] to features [n, ...] of any shape.
    shape, hidden, outputs, act, dropout, pooling
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
        pooling: Pooling = "none",
    ) -> None:
        super().__init__()
        self.features, self.psf, self.pooling = features, psf, pooling
        made = [torch.empty(made_of(part, 1, shape)) for part in (features, psf)]
        count = sum(gathered(part, pooling).numel() for part in made) + LEVELS
        self.head = dense_layers(count, hidden, outputs, act, dropout)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Map images [n, 2, ny, nx] (galaxy and PSF) and levels [n, LEVELS] to [n, outputs]."""
        both = (self.features(x[:, :1]), self.psf(x[:, 1:]))
        galaxy, psf = (gathered(part, self.pooling) for part in both)
        return self.head(torch.cat([galaxy, psf, level], dim=1))


class Separate(nn.Module):
    """Networks side by side that take the same image; each computes some of the outputs.

    Parameters
    ----------
    networks : sequence of torch.nn.Module
        See `shearbench.networks.base.Architecture.build`.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Return the outputs of the first network, then those of the second, and so on."""
        return torch.cat([network(x, level) for network in self.networks], dim=1)


def made_of(features: nn.Module, channels: int, shape: tuple[int, int]) -> torch.Size:
    """Return the shape of the features that a module computes from one image, the first dimension being 1."""
    with torch.no_grad():
        made = features.eval()(torch.zeros(1, channels, *shape))
    features.train()
    return made.shape


def dense_layers(
    count: int, hidden: Sequence[int], outputs: int, act: Activation, dropout: float
) -> nn.Module:
    """Return dense layers with activations between them.

    Parameters
    ----------
    count : int
        Number of inputs.
    hidden, outputs, act, dropout
        As for `WithHead`.
    """
    steps: list[nn.Module] = []
    for units in hidden:
        steps += [nn.Linear(count, units), activation(act), *([nn.Dropout(dropout)] if dropout else [])]
        count = units
    return nn.Sequential(*steps, nn.Linear(count, outputs))


def residual_layers(count: int, width: int, blocks: int, outputs: int, act: Activation) -> nn.Sequential:
    """Return a dense layer, residual blocks of two dense layers each, and a dense layer.

    The last layer of each block is zero at first, so that the blocks pass their input on.

    Parameters
    ----------
    count : int
        Number of inputs.
    width : int
        Units of each layer but the last.
    blocks, outputs : int
    act : str
        Name of the activation.
    """
    steps: list[nn.Module] = [nn.Linear(count, width)]
    for _ in range(blocks):
        first, last = (nn.Linear(width, width) for _ in range(2))
        nn.init.zeros_(last.weight)
        steps.append(Skip(nn.Sequential(first, activation(act), last)))
    return nn.Sequential(*steps, nn.Linear(width, outputs))
