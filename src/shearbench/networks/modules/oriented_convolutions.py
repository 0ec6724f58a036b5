"""Residual convolutions of a stamp in a standard orientation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shearbench.networks.modules import dihedral
from shearbench.networks.modules.bodies import ComponentBody, Components, Normalised
from shearbench.networks.modules.convolution import Skip, activation
from shearbench.networks.terms import Activation

_LEADING = 16  # number of principal components of the stamp from which its orientation is found


class OrientedConvolutions(nn.Module):
    """Stages of convolutions, a linear layer of all features, and dense layers.

    Parameters
    ----------
    side : int
        Side of the image [pixels].
    strides, channels : sequence of int
        Of each stage.
    convolutions : int
        Number of residual blocks in each stage.
    features : int
        Number of outputs of the linear layer.
    act : str
        Name of the activation.
    dense : torch.nn.Module
        Takes these outputs and further numbers.
    """

    def __init__(
        self,
        side: int,
        strides: Sequence[int],
        channels: Sequence[int],
        convolutions: int,
        features: int,
        act: Activation,
        dense: nn.Module,
    ) -> None:
        super().__init__()
        self.linear, self.residual = nn.ModuleList(), nn.ModuleList()
        incoming = 1
        for stride, width in zip(strides, channels):
            self.linear.append(nn.Conv2d(incoming, width, 2 * stride, stride, stride // 2))
            blocks = []
            for _ in range(convolutions):
                first, last = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
                for weight in last.parameters():
                    nn.init.zeros_(weight)
                blocks.append(Skip(nn.Sequential(first, activation(act), last)))
            self.residual.append(nn.Sequential(*blocks))
            incoming, side = width, side // stride
        self.flat = nn.Linear(incoming * side**2, features)
        self.dense = dense

    def forward(self, images: Tensor, further: Tensor) -> Tensor:
        """Map images [n, 1, ny, nx] and further inputs of the dense layers [n, K] to [n, outputs]."""
        for linear, residual in zip(self.linear, self.residual):
            images = residual(linear(images))
        return self.dense(torch.cat([self.flat(images.flatten(1)), further], 1))


class OrientedBody(ComponentBody):
    """Convolutions that take the stamp in a standard orientation.

    The mean galaxy is subtracted, and the rest is divided by sqrt(spread^2 + noise^2), with the rms `spread`
    of the pixels of noiseless stamps.

    Parameters
    ----------
    network : OrientedConvolutions
    shape : (int, int)
        Rows and columns of a stamp.
    psf, targets, oriented
        As for `ComponentBody`.
    """

    def __init__(
        self,
        network: OrientedConvolutions,
        shape: tuple[int, int],
        psf: Components | None,
        targets: tuple[str, ...],
        oriented: bool,
    ) -> None:
        super().__init__(network, Components(shape, _LEADING), psf, targets, oriented)
        self.register_buffer("spread", torch.ones(()))

    spread: Tensor

    @torch.no_grad()
    def fit(self, stamps: Normalised) -> None:
        """Measure the scaling from noiseless stamps, and the components that give their orientation."""
        super().fit(stamps)
        self.spread.copy_(stamps.rest().square().mean().sqrt())

    def forward(self, stamps: Normalised) -> Tensor:
        """Return the outputs of the network, [n, outputs]."""
        images, signs = self._turned(stamps)
        answer = self.network(images, torch.cat(self.beside(stamps, signs), 1))
        return dihedral.turned_back(answer, signs.unbind(1), self.targets)

    def _turned(self, stamps: Normalised) -> tuple[Tensor, Tensor]:
        """Return the input of the convolutions [n, 1, ny, nx], and the signs that turned it."""
        found = self.galaxy(stamps.images)
        signs = self.galaxy.orientation(found) if self.standard else torch.ones_like(found[:, :3])
        images = stamps.rest() * (self.spread.square() + stamps.noise.square()).rsqrt()[:, None, None]
        x, y, diagonal = (sign < 0 for sign in signs[:, :, None, None].unbind(1))
        images = torch.where(x, images.flip(-1), images)
        images = torch.where(y, images.flip(-2), images)
        images = torch.where(diagonal, images.mT, images)
        return images[:, None].contiguous(memory_format=torch.channels_last), signs
