"""Parts of published networks that no other architecture has: branches, fusion of galaxy and PSF, orbits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shearbench.networks.modules import dihedral
from shearbench.networks.modules.attention import (
    HEADS,
    Cbam,
    CrossAttention,
    Position,
    SelfAttention,
    as_image,
    as_tokens,
)
from shearbench.networks.modules.bodies import ImageBody, Normalised, symmetric
from shearbench.networks.modules.convolution import Skip, activation, normalisation, residual
from shearbench.networks.modules.heads import gathered, made_of
from shearbench.networks.terms import LEVELS, Activation, Normalisation, Pooling


class SideBySide(nn.Module):
    """Convolutions with kernels of several sizes side by side, CBAM, and a shortcut around both.

    Published as the block of ShearNet's ``research_backed``. Of the kernels of more than 3 pixels, only 3 by
    3 elements are used, which lie `size` // 3 pixels apart.

    Parameters
    ----------
    incoming, width : int
        Channels of the input, and of the output of each kernel.
    sizes : sequence of int
        Sides of the kernels [pixels].
    act, norm : str
        Names of the activation and of the normalisation.
    """

    def __init__(
        self, incoming: int, width: int, sizes: Sequence[int], act: Activation, norm: Normalisation
    ) -> None:
        super().__init__()
        self.kernels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(incoming, width, 3, padding=size // 3, dilation=size // 3),
                *normalisation(norm, width),
                activation(act),
            )
            for size in sizes
        )
        total = width * len(sizes)
        self.weigh = Cbam(total, act, reduction=8)
        changes = [nn.Conv2d(incoming, total, 1), *normalisation(norm, total)] if incoming != total else []
        self.shortcut = nn.Sequential(*changes)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, incoming, ny, nx] to [n, width * number of sizes, ny, nx]."""
        found = torch.cat([kernel(x) for kernel in self.kernels], 1)
        return self.act(self.shortcut(x) + self.weigh(found))


def multiscale(
    width: int, sizes: Sequence[int], act: Activation, norm: Normalisation, bands: int = 1
) -> nn.Module:
    """Return ShearNet's ``research_backed`` without its head: it maps [n, bands, ny, nx] to features.

    A convolution, a block of kernels side by side, a convolution of stride 2, a second block of twice as many
    channels.
    """
    total = width * len(sizes)
    return nn.Sequential(
        nn.Conv2d(bands, width, 3, padding=1),
        *normalisation(norm, width),
        activation(act),
        SideBySide(width, width, sizes, act, norm),
        nn.Conv2d(total, total, 3, stride=2, padding=1),
        *normalisation(norm, total),
        activation(act),
        SideBySide(total, 2 * width, sizes, act, norm),
    )


def resnet34(width: int, act: Activation, norm: Normalisation, bands: int = 1) -> nn.Module:
    """Return the 34-layer residual network of FORKLENS without its dense layers, for images of some bands.

    Its stages have 3, 4, 6 and 3 blocks; the first block of a stage doubles the channels, and the last one
    halves the image. The published network then takes the mean of the last 2 by 2 pixels.
    """
    steps: list[nn.Module] = [
        nn.Conv2d(bands, width, 3, stride=2, padding=3, bias=False),
        *normalisation(norm, width),
        activation(act),
        nn.MaxPool2d(3, 2),
    ]
    incoming = width
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            stride = 2 if block == blocks - 1 else 1
            steps += residual(incoming, width * 2**stage, act, norm, "projected", stride)
            incoming = width * 2**stage
    return nn.Sequential(*steps)


def strided(act: Activation, norm: Normalisation) -> nn.Module:
    """Return the PSF's branch of FORKLENS: four convolutions of stride 2, which add a border of 3 pixels."""
    steps: list[nn.Module] = []
    for incoming, outgoing in ((1, 32), (32, 64), (64, 32), (32, 16)):
        steps += [
            nn.Conv2d(incoming, outgoing, 3, stride=2, padding=3, bias=False),
            *normalisation(norm, outgoing),
            activation(act),
        ]
    return nn.Sequential(*steps)


class NormaliseFeatures(nn.Module):
    """Layer normalisation of the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, channels, ny, nx] to the same shape."""
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


def smooth(widths: Sequence[int], incoming: int, act: Activation) -> nn.Module:
    """Return convolutions, each with layer normalisation, a smooth activation and average pooling.

    Parameters
    ----------
    widths : sequence of int
        Channels of each convolution.
    incoming : int
        Channels of the input.
    act : str
        Name of the activation.
    """
    steps: list[nn.Module] = []
    for width in widths:
        steps += [nn.Conv2d(incoming, width, 3, padding=1), NormaliseFeatures(width), activation(act)]
        steps.append(nn.AvgPool2d(2))
        incoming = width
    return nn.Sequential(*steps)


class Fusion(nn.Module):
    """Pixels of the galaxy's features attend to those of the PSF, and then to each other.

    ShearNet's transformer fusion, which has no dense layers between its attention layers.

    Parameters
    ----------
    galaxy, psf : torch.nn.Module
        They map images [n, channels, ny, nx] to features; `psf` is None if the PSF is not an input.
    channels : int
        Channels of the galaxy's input; the channel after them is the image of the PSF.
    shape : (int, int)
        Rows and columns of the images.
    width : int
        Features of a token.
    layers : int
        Number of layers of self-attention.
    """

    def __init__(
        self,
        galaxy: nn.Module,
        psf: nn.Module | None,
        channels: int,
        shape: tuple[int, int],
        width: int,
        layers: int,
    ) -> None:
        super().__init__()
        heads = math.gcd(HEADS, width)
        self.channels, self.galaxy, self.psf = channels, galaxy, psf
        found = made_of(galaxy, channels, shape)
        self.tokens = nn.Linear(found[1], width, bias=False)
        self.place = Position(math.prod(found[2:]), width)
        if psf is not None:
            other = made_of(psf, 1, shape)
            self.other_tokens = nn.Linear(other[1], width, bias=False)
            self.other_place = Position(math.prod(other[2:]), width)
            self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
            self.cross = CrossAttention(width, width, heads)
        attend = (nn.Sequential(nn.LayerNorm(width), SelfAttention(width, heads)) for _ in range(layers))
        self.refine = nn.Sequential(*(Skip(layer) for layer in attend))

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n, channels + 1, ny, nx], or without the PSF, to features [n, width, ...]."""
        found = self.galaxy(x[:, : self.channels])
        tokens = self.place(self.tokens(as_tokens(found)))
        if self.psf is not None:
            others = self.other_place(self.other_tokens(as_tokens(self.psf(x[:, self.channels :]))))
            tokens = tokens + self.cross(self.norms[0](tokens), self.norms[1](others))
        return as_image(self.refine(tokens), found.shape)


class WithMeanPsf(nn.Module):
    """Features of the galaxy, to each pixel of which the mean features of the PSF are joined.

    Parameters
    ----------
    galaxy, psf : torch.nn.Module
        They map images [n, channels, ny, nx] to features.
    channels : int
        Channels of the galaxy's input; the channel after them is the image of the PSF.
    """

    def __init__(self, galaxy: nn.Module, psf: nn.Module, channels: int) -> None:
        super().__init__()
        self.galaxy, self.psf, self.channels = galaxy, psf, channels

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n, channels + 1, ny, nx] to features."""
        found = self.galaxy(x[:, : self.channels])
        psf = self.psf(x[:, self.channels :]).mean((2, 3), keepdim=True)
        return torch.cat([found, psf.expand(-1, -1, *found.shape[2:])], 1)


class Joined(nn.Module):
    """Features of the galaxy and of the PSF, gathered to numbers and joined.

    Parameters
    ----------
    galaxy, psf : torch.nn.Module
        They map images [n, 1, ny, nx] to features [n, channels, ...]; `psf` is None if the PSF is not an
        input.
    pooling : str
        How the features of the galaxy are gathered; those of the PSF are of all positions.
    bands : int
        Channels of the galaxy's image.
    """

    def __init__(self, galaxy: nn.Module, psf: nn.Module | None, pooling: Pooling, bands: int = 1) -> None:
        super().__init__()
        self.galaxy, self.psf, self.pooling, self.bands = galaxy, psf, pooling, bands

    def forward(self, x: Tensor) -> Tensor:
        """Map images of galaxy and PSF, or of the galaxy alone, to features [n, count]."""
        found = gathered(self.galaxy(x[:, : self.bands]), self.pooling)
        return found if self.psf is None else torch.cat([found, self.psf(x[:, self.bands :]).flatten(1)], 1)


class WithLayers(nn.Module):
    """Features of the images, then layers whose input includes the noise level.

    Parameters
    ----------
    features : torch.nn.Module
        It maps images to features [n, count].
    head : torch.nn.Module
        It maps [n, count + LEVELS] to [n, outputs].
    """

    def __init__(self, features: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.features, self.head = features, head

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Map images [n, channels, ny, nx] and levels [n, LEVELS] to [n, outputs]."""
        return self.head(torch.cat([self.features(x), level], 1))


class MeanToken(nn.Module):
    """Mean of features over the image, then layer normalisation."""

    def __init__(self, features: nn.Module, width: int) -> None:
        super().__init__()
        self.features, self.norm = features, nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to features [n, width]."""
        return self.norm(self.features(x).mean((2, 3)))


class OrbitAverage(nn.Module):
    """Average of any features over the 8 rotations and mirrors, and a head with a spin-2 output.

    Lin et al. 2026 (arXiv:2603.19046): the features of each turned image are turned back and averaged with
    the signs of g1, and with those of g2. Sums of them over the image, with weights that turn with it, change
    only their sign, which odd layers keep. The output is exactly equivariant for any features.

    Parameters
    ----------
    features : torch.nn.Module
        It maps images [n, channels + LEVELS, ny, nx] to square features [n, width, ...]; the last `LEVELS`
        channels of the input are constant images of the noise level.
    channels : int
        Channels of the image without the noise level; further ones of the input are not used.
    shape : (int, int)
        Rows and columns of the image.
    heads : int
        Number of learned maps of weights of the sums over the image; 0: one Gaussian window, whose standard
        deviation is a quarter of the side.
    hidden : int
        Units of the layer between the sums and the output.
    classes : int or None
        Number of outputs that do not change with the orientation, in place of the shape.
    """

    def __init__(
        self,
        features: nn.Module,
        channels: int,
        shape: tuple[int, int],
        heads: int,
        hidden: int,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self.features, self.channels = features, channels
        _, width, side, _ = made_of(features, channels + LEVELS, shape)
        self.weigh = (
            nn.Sequential(nn.Conv2d(width, 64, 1), nn.GELU(), nn.Conv2d(64, heads, 1)) if heads else None
        )
        offset = torch.arange(side) - (side - 1) / 2
        window = torch.exp(-(offset[:, None] ** 2 + offset**2) / (2 * (side / 4) ** 2))
        self.register_buffer("window", (window / window.sum())[None], persistent=False)
        count = width * max(heads, 1)
        self.invariant: nn.Module | None = None
        self.odd = nn.ModuleList()
        if classes is not None:
            self.invariant = nn.Sequential(nn.Linear(count, hidden), nn.GELU(), nn.Linear(hidden, classes))
            return
        self.odd.extend(
            nn.Sequential(nn.Linear(count, hidden, bias=False), nn.Tanh(), nn.Linear(hidden, 1, bias=False))
            for _ in range(2)
        )

    window: Tensor

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Map images [n, channels, ny, nx] and levels [n, LEVELS] to [n, outputs]."""
        x = torch.cat([level[:, :, None, None].expand(-1, -1, *x.shape[2:]), x[:, : self.channels]], 1)
        elements = range(dihedral.ORDER)
        turned = torch.cat([dihedral.transform_images(x, k) for k in elements])
        found = self.features(turned.contiguous(memory_format=torch.channels_last)).chunk(dihedral.ORDER)
        back = [dihedral.transform_images(part, dihedral.inverse(k)) for k, part in enumerate(found)]
        even = torch.stack(back).mean(0)
        weights = self.window.expand(len(x), -1, -1, -1)
        if self.weigh is not None:
            weights = self.weigh(even).flatten(2).softmax(2).unflatten(2, even.shape[2:])

        def total(image: Tensor) -> Tensor:
            return torch.einsum("ncyx,nkyx->nkc", image, weights).flatten(1)

        if self.invariant is not None:
            return self.invariant(total(even))
        maps = [
            torch.stack([dihedral.signs(k)[c] * part for k, part in enumerate(back)]).mean(0)
            for c in range(2)
        ]
        return torch.cat([layers(total(image)) for layers, image in zip(self.odd, maps)], 1)


class HomogenisedBody(ImageBody):
    """A network whose input is the stamp with its PSF replaced by a round Gaussian.

    The stamp is divided by its PSF in Fourier space and multiplied by the Gaussian, as in AnaCal (Lin et al.
    2026, equation 3), here without the added noise that makes the noise of the result isotropic. Where the
    PSF is below a thousandth of its largest value, the division is damped.

    Parameters
    ----------
    network, shape, per_pixel
        As for `ImageBody`. The image of the PSF is not an input.
    width : float
        Standard deviation of the Gaussian [pixels].
    """

    def __init__(self, network: nn.Module, shape: tuple[int, int], per_pixel: bool, width: float) -> None:
        super().__init__(network, shape, False, per_pixel)
        y, x = torch.fft.fftfreq(shape[0])[:, None], torch.fft.rfftfreq(shape[1])
        self.register_buffer(
            "target", torch.exp(-2 * (math.pi * width) ** 2 * (y**2 + x**2)), persistent=False
        )
        # The PSF is centred in its image, which may be between pixels.
        at = [(side - 1) / 2 for side in shape]
        self.register_buffer("angle", 2 * math.pi * (y * at[0] + x * at[1]), persistent=False)
        self.register_buffer("centre", torch.zeros(shape))

    target: Tensor
    angle: Tensor
    centre: Tensor

    def homogenised(self, stamps: Normalised) -> tuple[Tensor, Tensor]:
        """Return the stamps with the new PSF [n, ny, nx], and the factor of their noise [n] or []."""
        psf = torch.fft.rfft2(stamps.psf) * torch.exp(1j * self.angle)
        ratio = self.target * psf.conj() / (psf.abs().square() + 1e-6 * psf.abs().amax((-2, -1), True) ** 2)
        images = torch.fft.irfft2(torch.fft.rfft2(stamps.images) * ratio, s=stamps.images.shape[-2:])
        gain = torch.fft.irfft2(ratio, s=stamps.images.shape[-2:]).square().sum((-2, -1)).sqrt()
        return images, gain

    def _changed(self, stamps: Normalised) -> Normalised:
        images, gain = self.homogenised(stamps)
        return stamps._replace(images=images, mean=self.centre, noise=stamps.noise * gain)

    @torch.no_grad()
    def fit(self, stamps: Normalised) -> None:
        """Measure the mean galaxy under the new PSF, and the scaling; see `ImageBody.fit`."""
        images = self.homogenised(stamps)[0]
        self.centre.copy_(symmetric((images / stamps.amplitude[:, None, None]).mean(0)))
        super().fit(self._changed(stamps))

    def scaled(self, stamps: Normalised) -> Tensor:
        """Return the input of the network, [n, 1, ny, nx]."""
        return super().scaled(self._changed(stamps))
