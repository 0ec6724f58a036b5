"""Residual convolutions between linear layers that start as principal components of their input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shearbench.networks.modules import dihedral
from shearbench.networks.modules.bodies import ComponentBody, Components, Normalised
from shearbench.networks.modules.convolution import Skip, activation
from shearbench.networks.terms import Activation

_LEADING = 16  # number of principal components of the stamp from which its orientation is found
_PATCHES = 200_000  # about the number of patches from which the kernels of a convolution are computed
_BLOCK = 1000  # number of images computed at once


class WhitenedConvolutions(nn.Module):
    """Stages of convolutions, a linear layer of all features, and dense layers.

    Parameters
    ----------
    side : int
        Side of the image [pixels].
    strides, channels : sequence of int
        Of each stage.
    convolutions : int
        Number of residual blocks in each stage.
    components : int
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
        components: int,
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
                # The stages are linear at first, so that principal components can be computed.
                for weight in last.parameters():
                    nn.init.zeros_(weight)
                blocks.append(Skip(nn.Sequential(first, activation(act), last)))
            self.residual.append(nn.Sequential(*blocks))
            incoming, side = width, side // stride
        self.flat = nn.Linear(incoming * side**2, components)
        self.dense = dense

    def features(self, images: Tensor) -> Tensor:
        """Return the features of images [n, 1, ny, nx] after all stages, [n, features]."""
        for linear, residual in zip(self.linear, self.residual):
            images = residual(linear(images))
        return images.flatten(1)

    def forward(self, images: Tensor, gain: Tensor, further: Tensor) -> Tensor:
        """Return the outputs [n, outputs].

        Parameters
        ----------
        images : Tensor, shape (n, 1, ny, nx)
        gain : Tensor, shape (n, components)
            Factors of the outputs of the linear layer.
        further : Tensor, shape (n, K)
            Further input of the dense layers.
        """
        return self.dense(torch.cat([self.flat(self.features(images)) * gain, further], 1))

    @torch.no_grad()
    def fit(self, images: Tensor, whitening: float) -> None:
        """Compute the weights of all linear layers from images, before any training.

        Parameters
        ----------
        images : Tensor, shape (n, 1, ny, nx)
        whitening : float
            From 0 to 1.
        """
        for layer in self.linear:
            assert isinstance(layer, nn.Conv2d)
            assert layer.bias is not None
            kernel, stride = layer.kernel_size[0], layer.stride[0]
            seen = images[: max(1, _PATCHES // (images.shape[-1] // stride) ** 2)]
            patches = nn.functional.unfold(seen, kernel, padding=stride // 2, stride=stride)
            weight, bias = _principal(patches.mT.flatten(0, 1), layer.out_channels, whitening)
            layer.weight.copy_(weight.reshape(layer.weight.shape))
            layer.bias.copy_(bias)
            images = torch.cat([layer(part) for part in images.split(_BLOCK)])
        weight, bias = _principal(images.flatten(1), self.flat.out_features, whitening)
        self.flat.weight.copy_(weight)
        self.flat.bias.copy_(bias)

    @torch.no_grad()
    def variance_of_noise(self, side: int) -> Tensor:
        """Return the variances [components] of the outputs of the linear layer for white noise of variance 1.

        The image is square with `side` pixels, and the residual blocks must pass their input on, as they do
        before any training.
        """
        weight = self.flat.weight
        unit = torch.eye(side**2, dtype=weight.dtype, device=weight.device)
        answers = [self.features(part.reshape(-1, 1, side, side)) for part in unit.split(_BLOCK)]
        constant = self.features(torch.zeros_like(unit[:1]).reshape(1, 1, side, side))
        return ((torch.cat(answers) - constant) @ weight.mT).square().sum(0)


def _principal(rows: Tensor, count: int, whitening: float) -> tuple[Tensor, Tensor]:
    """Return the float64 weights [count, d] and bias [count] that map vectors [n, d] to principal components.

    The mean of each component is zero. Its standard deviation s is divided by a multiple of s^whitening, so
    that the mean variance of all components is 1.
    """
    rows = rows.double()
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh((rows - mean).mT @ (rows - mean) / len(rows))
    values, vectors = values[-count:].flip(0), vectors[:, -count:].flip(1)
    # Directions in which the vectors do not vary must not be scaled to order one.
    values = values.clamp_min(1e-10 * values[0]).clamp_min(torch.finfo(rows.dtype).tiny)
    factor = values.pow(-whitening / 2)
    factor = factor / (factor.square() * values).mean().sqrt()
    weight = (vectors * factor).mT
    return weight, -(weight @ mean)


class ConvolvedBody(ComponentBody):
    """Convolutions that take the stamp in a standard orientation.

    The mean galaxy is subtracted, and the rest is divided by sqrt(spread^2 + noise^2), with the rms `spread`
    of the pixels of noiseless stamps. At the start of the training, each output of the linear layer then has
    the variance that it has without noise, times spread^2 / (spread^2 + noise^2), plus that of the noise. It
    is multiplied by a gain that makes the sum of both 1 where the first is.

    Parameters
    ----------
    network : WhitenedConvolutions
    shape : (int, int)
        Rows and columns of a stamp.
    psf, targets, oriented
        As for `ComponentBody`.
    whitening : float or None
        From 0 to 1; None: the network keeps its random weights.
    """

    def __init__(
        self,
        network: WhitenedConvolutions,
        shape: tuple[int, int],
        psf: Components | None,
        targets: tuple[str, ...],
        oriented: bool,
        whitening: float | None,
    ) -> None:
        super().__init__(network, Components(shape, _LEADING), psf, targets, oriented, whitening or 0.0)
        self.principal = whitening is not None
        self.register_buffer("spread", torch.ones(()))
        self.register_buffer("noise_variance", torch.ones(network.flat.out_features))

    spread: Tensor
    noise_variance: Tensor

    @torch.no_grad()
    def fit(self, stamps: Normalised) -> None:
        """Compute the principal components of noiseless stamps, and from them the first weights."""
        super().fit(stamps)
        self.spread.copy_(stamps.rest().square().mean().sqrt())
        images, _ = self._turned(stamps)
        network = self.network
        assert isinstance(network, WhitenedConvolutions)
        if self.principal:
            network.fit(images, self.whitening)
        self.noise_variance.copy_(network.variance_of_noise(images.shape[-1]))

    def forward(self, stamps: Normalised) -> Tensor:
        """Return the outputs of the network, [n, outputs]."""
        images, signs = self._turned(stamps)
        noise = (stamps.noise / self.spread).square()[:, None]
        gain = ((1 + noise * self.noise_variance) / (1 + noise)).rsqrt()
        answer = self.network(images, gain, torch.cat(self.beside(stamps, signs), 1))
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
