"""What stands between a stamp of known flux and a network's answer: its scaling, and the network.

Two kinds: images go to a network pixel by pixel (`ImageBody`), or as whitened principal components of the
whole stamp (`ComponentBody`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from shearbench.forward_model.fourier import FLUX
from shearbench.networks.modules import dihedral


class Normalised(NamedTuple):
    """Stamps of which flux and noise are roughly known.

    Attributes
    ----------
    images : Tensor, shape (n, ny, nx)
        As they are.
    psf : Tensor, shape (ny, nx) or (n, ny, nx)
    mean : Tensor, shape (ny, nx)
        The mean galaxy of unit flux.
    amplitude : Tensor, shape (n,)
        Of the mean galaxy in each stamp.
    scale : Tensor, shape (n,)
        The amplitude, or the noise of it where that is larger.
    noise : Tensor, shape (n,)
        Of a pixel, over the scale.
    level : Tensor, shape (n, LEVELS)
        How a network is told the noise.
    """

    images: Tensor
    psf: Tensor
    mean: Tensor
    amplitude: Tensor
    scale: Tensor
    noise: Tensor
    level: Tensor

    def rest(self) -> Tensor:
        """Return what is left without the mean galaxy, over the scale, [n, ny, nx]."""
        return (self.images - self.amplitude[:, None, None] * self.mean) / self.scale[:, None, None]


def with_flux(parameters: Tensor, flux: Tensor) -> Tensor:
    """Return parameters [n, P], or numbers that belong to them, with those of the flux [n] replaced."""
    return torch.cat([flux[:, None], parameters[:, FLUX + 1 :]], 1)


class ImageBody(nn.Module):
    """A network that sees images.

    What is left of a stamp without the mean galaxy is divided by sqrt(spread^2 + noise^2): the spread over
    noiseless galaxies of each pixel, or one number for all, and the noise of a pixel.

    Parameters
    ----------
    network : torch.nn.Module
        See `Architecture.build`.
    shape : (int, int)
    per_galaxy_psf : bool
        Whether the PSF's image is a second channel.
    per_pixel : bool
    """

    def __init__(
        self, network: nn.Module, shape: tuple[int, int], per_galaxy_psf: bool, per_pixel: bool
    ) -> None:
        super().__init__()
        self.network, self.per_galaxy_psf, self.per_pixel = network, per_galaxy_psf, per_pixel
        self.register_buffer("spread", torch.ones(shape))
        self.register_buffer("psf_mean", torch.zeros(shape))
        self.register_buffer("psf_spread", torch.ones(()))

    spread: Tensor
    psf_mean: Tensor
    psf_spread: Tensor

    @torch.no_grad()
    def fit(self, stamps: Normalised) -> None:
        """Measure the scaling on noiseless stamps; it is symmetric under the dihedral group."""
        square = symmetric(stamps.rest().square().mean(0))
        typical = square.mean().sqrt()
        # The floor keeps pixels that hardly vary from being blown up beyond what float32 can tell.
        self.spread.copy_(
            square.sqrt().clamp_min(1e-3 * typical) if self.per_pixel else typical.expand_as(square)
        )
        if stamps.psf.ndim == 3:
            self.psf_mean.copy_(symmetric(stamps.psf.mean(0)))
            # PSFs may all be alike.
            least = 1e-6 * self.psf_mean.square().mean().sqrt()
            self.psf_spread.copy_((stamps.psf - self.psf_mean).square().mean().sqrt().clamp_min(least))

    def scaled(self, stamps: Normalised) -> Tensor:
        """Return what the network sees, [n, channels, ny, nx]."""
        if self.per_pixel:
            factor = (self.spread.square() + stamps.noise.square()[:, None, None]).rsqrt()
        else:
            factor = (self.spread[0, 0].square() + stamps.noise.square()).rsqrt()[:, None, None]
        channels = [stamps.rest() * factor]
        if self.per_galaxy_psf:
            channels.append((stamps.psf - self.psf_mean) / self.psf_spread)
        return torch.stack(channels, 1).contiguous(memory_format=torch.channels_last)

    def forward(self, stamps: Normalised) -> Tensor:
        """Return the network's answer, [n, outputs]."""
        return self.network(self.scaled(stamps), stamps.level)


# Of the components, those of the symmetries A1, B1, B2 and A2; the partners of E have the rest. Galaxies: as
# the largest components of the default population are shared. PSFs are centred and hardly odd.
GALAXY_SHARES = (30 / 192, 27 / 192, 27 / 192, 22 / 192)
PSF_SHARES = (5 / 16, 4 / 16, 4 / 16, 1 / 16)
_LEAST_SPREAD = 1e-7  # of a component, over that of the largest: what float32 can tell


class Components(nn.Module):
    """Principal components of images, sorted by how they change when the image is turned or mirrored.

    Each component is even or odd under mirrors in x and y, and (but for those odd in one of them alone, which
    the diagonal mirror exchanges) under the diagonal mirror: the irreducible representations A1, B1, B2, A2
    and E of the dihedral group. To turn an image is then to change signs and to exchange the two halves of E.

    Parameters
    ----------
    shape : (int, int)
        A square.
    count : int
        About how many.
    shares : tuple of float
        The parts of them that are of the symmetries A1, B1, B2 and A2.
    """

    def __init__(self, shape: tuple[int, int], count: int, shares: tuple[float, ...] = GALAXY_SHARES) -> None:
        super().__init__()
        single = [max(1, round(share * count)) for share in shares]
        self.counts = (*single, max(1, (count - sum(single)) // 2))
        self.total = sum(single) + 2 * self.counts[-1]
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("basis", torch.zeros(shape[0] * shape[1], self.total))
        self.register_buffer("spread", torch.ones(self.total))
        a1, b1, b2, a2 = single
        ones = torch.ones
        sign = torch.cat([ones(a1), -ones(b1), ones(b2), -ones(a2)])
        odd = torch.cat([torch.zeros(a1 + b1), ones(b2 + a2)]).bool()
        self.register_buffer("diagonal_sign", sign, persistent=False)
        self.register_buffer("odd_in_both", odd, persistent=False)

    mean: Tensor
    basis: Tensor
    spread: Tensor
    diagonal_sign: Tensor
    odd_in_both: Tensor

    @torch.no_grad()
    def fit(self, images: Tensor, without: Tensor | None = None) -> None:
        """Find the components of images [n, ny, nx], orthogonal to one image if it is given."""
        images = images.double()
        self.mean.copy_(symmetric(images.mean(0)))
        rest = images - self.mean.double()
        if without is not None:
            unit = without.double() / without.double().norm()
            rest = rest - unit * (rest * unit).sum((1, 2), keepdim=True)
        by_x = [(rest + s * rest.flip(-1)) / 2 for s in (1, -1)]
        (even, odd_y), (odd_x, odd) = ([(half + s * half.flip(-2)) / 2 for s in (1, -1)] for half in by_x)
        parts = [
            (even + even.mT) / 2,  # A1
            (even - even.mT) / 2,  # B1
            (odd + odd.mT) / 2,  # B2
            (odd - odd.mT) / 2,  # A2
            torch.cat([odd_x, odd_y.mT]),  # E: odd in x; its partners are transposed
        ]
        # Under mirrors in y, in x, and in the diagonal.
        parity = ((1, 1, 1), (1, 1, -1), (-1, -1, 1), (-1, -1, -1), (1, -1, 0))
        found = [_axes(part, count, *signs) for part, count, signs in zip(parts, self.counts, parity)]
        axes, spreads = (list(column) for column in zip(*found))
        self.basis.copy_(torch.cat([*axes, axes[-1].mT]).flatten(1).mT)
        self.spread.copy_(torch.cat([*spreads, spreads[-1]]).clamp_min(_LEAST_SPREAD * spreads[0][0]))

    def forward(self, images: Tensor) -> Tensor:
        """Return the coefficients of images [n, ny, nx], without the mean's: [n, total]."""
        return images.flatten(1) @ self.basis

    def orientation(self, coefficients: Tensor) -> Tensor:
        """Return signs (x, y, diagonal) [n, 3] by which an image is brought to a standard orientation.

        In it the leading components odd in x, odd in y, and of the symmetry B1 are positive.
        """
        leading = torch.stack([coefficients[:, k] for k in (-2 * self.counts[-1], -self.counts[-1])], 1)
        return torch.where(torch.cat([leading, coefficients[:, self.counts[0], None]], 1) < 0, -1.0, 1.0)

    def oriented(self, coefficients: Tensor, signs: Tensor) -> Tensor:
        """Return the coefficients [n, total] of the images mirrored by signs [n, 3], x and y first."""
        x, y, diagonal = signs.split(1, 1)
        e = self.counts[-1]
        rest, odd_x, odd_y = coefficients.split([self.total - 2 * e, e, e], 1)
        rest = torch.where(self.odd_in_both, rest * (x * y), rest)
        rest = torch.where(diagonal < 0, rest * self.diagonal_sign, rest)
        odd_x, odd_y = odd_x * x, odd_y * y
        swap = diagonal < 0
        return torch.cat([rest, torch.where(swap, odd_y, odd_x), torch.where(swap, odd_x, odd_y)], 1)


def _axes(images: Tensor, count: int, in_y: int, in_x: int, in_diagonal: int) -> tuple[Tensor, Tensor]:
    """Return the principal axes [count, n, n] of images that mirrors multiply by a sign, and their spreads.

    One quadrant holds all there is to know; a pixel counts as often as it has mirror images. The sign of the
    diagonal mirror is 0 where it makes something else of the images.
    """
    side = images.shape[-1]
    half = -(-side // 2)
    mirrored = torch.full((half,), 2.0, dtype=images.dtype, device=images.device)
    mirrored[side // 2 :] = 1.0  # the middle of an odd number
    weight = torch.outer(mirrored, mirrored).sqrt()
    flat = (images[:, :half, :half] * weight).flatten(1)
    gram = flat.mT @ flat / len(flat)
    # All axes of the right symmetry come before any other, also those along which the images do not vary.
    free = torch.ones_like(weight)
    if side % 2:  # what is odd has nothing in the middle
        free[-1] *= in_y > 0
        free[:, -1] *= in_x > 0
    right = free.flatten().diag()
    if in_diagonal:
        right = (right + in_diagonal * right.unflatten(0, (half, half)).transpose(0, 1).flatten(0, 1)) / 2
    lift = gram.trace().clamp_min(torch.finfo(gram.dtype).tiny)
    values, vectors = torch.linalg.eigh(gram + lift * right)
    values = values - lift
    quadrant = vectors[:, -count:].flip(1).mT.reshape(count, half, half) / weight
    rest = side // 2
    top = torch.cat([quadrant, in_x * quadrant[:, :, :rest].flip(-1)], 2)
    return torch.cat([top, in_y * top[:, :rest].flip(-2)], 1), values[-count:].flip(0).clamp_min(0).sqrt()


class ComponentBody(nn.Module):
    """A network that sees a stamp's whitened principal components, in a standard orientation.

    The components of what is left without the mean galaxy are divided by sqrt(spread^2 + noise^2), so that
    all have unit variance at any noise level; where noise hides a component, it goes to pure noise of order
    one. With less whitening, the spread is the geometric mean, so weighted, of its own and of the rms of all:
    the smallest components then count for less where there is no noise. Stamps are brought to one of eight
    orientations by the signs of three of their own components and the answer is turned back: it follows every
    turn and mirror of the stamp, to rounding, at no cost.

    Parameters
    ----------
    network : torch.nn.Module
        From [n, inputs] to [n, outputs], with ``inputs = total + psf_total + LEVELS``.
    galaxy, psf : Components
        The PSF's are None where there is one PSF for all.
    targets : tuple of str
        What the first outputs are.
    oriented : bool
        Whether stamps are brought to a standard orientation.
    whitening : float
        How much each component has a scale of its own: from 0, one for all, to 1.
    """

    def __init__(
        self,
        network: nn.Module,
        galaxy: Components,
        psf: Components | None,
        targets: tuple[str, ...],
        oriented: bool = True,
        whitening: float = 1.0,
    ) -> None:
        super().__init__()
        self.network, self.galaxy, self.psf, self.targets = network, galaxy, psf, targets
        self.standard, self.whitening = oriented, whitening

    @torch.no_grad()
    def fit(self, stamps: Normalised) -> None:
        """Find the components of noiseless stamps, and of their PSFs."""
        self.galaxy.fit(stamps.rest(), without=stamps.mean)
        if self.psf is not None:
            self.psf.fit(stamps.psf)
            # Where PSFs do not vary, rounding must not be blown up to order one.
            self.psf.spread.clamp_min_(1e-4 * self.psf.spread.max() + 1e-6 * self.psf.mean.norm())

    def forward(self, stamps: Normalised) -> Tensor:
        """Return the network's answer, [n, outputs]."""
        # The basis is orthogonal to the mean galaxy, which need not be taken out.
        found = self.galaxy(stamps.images) / stamps.scale[:, None]
        square = self.galaxy.spread.square()
        square = square.pow(self.whitening) * square.mean().pow(1 - self.whitening)
        found = found * (square + stamps.noise.square()[:, None]).rsqrt()
        signs = self.galaxy.orientation(found) if self.standard else torch.ones_like(found[:, :3])
        inputs = [self.galaxy.oriented(found, signs)]
        if self.psf is not None:
            coefficients = self.psf(stamps.psf - self.psf.mean)
            inputs.append(self.psf.oriented(coefficients / self.psf.spread, signs))
        answer = self.network(torch.cat([*inputs, stamps.level], 1))
        return dihedral.turned_back(answer, signs.unbind(1), self.targets)


def symmetric(image: Tensor) -> Tensor:
    """Return the mean of an image over the dihedral group."""
    turned = [dihedral.transform_images(image, element) for element in range(dihedral.ORDER)]
    return torch.stack(turned).mean(0)
