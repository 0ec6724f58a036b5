"""Bodies: the scaling of a stamp of known flux, and the network that takes the scaled stamp.

There are two kinds. The input of the network is an image (`ImageBody`), or whitened principal components of
the stamp (`ComponentBody`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from shearbench.forward_model.fourier import FLUX
from shearbench.networks.modules import dihedral


class Normalised(NamedTuple):
    """Stamps with estimates of their flux and noise.

    Attributes
    ----------
    images : Tensor, shape (n, ny, nx)
        The stamps, not scaled.
    psf : Tensor, shape (ny, nx) or (n, ny, nx)
        Image of the PSF, of all stamps or of each.
    mean : Tensor, shape (ny, nx)
        The mean galaxy, of unit flux.
    amplitude : Tensor, shape (n,)
        Amplitude of the mean galaxy in each stamp, an estimate of the flux.
    scale : Tensor, shape (n,)
        sqrt(amplitude^2 + its variance), by which the stamps are divided.
    noise : Tensor, shape (n,)
        Standard deviation of the noise of a pixel, divided by the scale.
    level : Tensor, shape (n, LEVELS)
        The numbers that tell a network the noise level.
    """

    images: Tensor
    psf: Tensor
    mean: Tensor
    amplitude: Tensor
    scale: Tensor
    noise: Tensor
    level: Tensor

    def rest(self) -> Tensor:
        """Return the stamps minus the mean galaxy, divided by the scale, [n, ny, nx]."""
        return (self.images - self.amplitude[:, None, None] * self.mean) / self.scale[:, None, None]


def with_flux(parameters: Tensor, flux: Tensor) -> Tensor:
    """Return parameters [n, P], or numbers that belong to them, with those of the flux [n] replaced."""
    return torch.cat([flux[:, None], parameters[:, FLUX + 1 :]], 1)


class ImageBody(nn.Module):
    """A network whose input is an image.

    The mean galaxy is subtracted from the stamp, and the rest is divided by sqrt(spread^2 + noise^2). The
    spread is the standard deviation of a pixel over noiseless galaxies, or its rms over all pixels.

    Parameters
    ----------
    network : torch.nn.Module
        See `Architecture.build`.
    shape : (int, int)
        Rows and columns of a stamp.
    per_galaxy_psf : bool
        Whether the image of the PSF is a second channel.
    per_pixel : bool
        Whether each pixel has its own spread.
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
        """Measure the scaling from noiseless stamps, averaged over the 8 rotations and mirrors."""
        square = symmetric(stamps.rest().square().mean(0))
        typical = square.mean().sqrt()
        # The lower limit prevents that rounding errors of pixels that hardly vary are amplified.
        self.spread.copy_(
            square.sqrt().clamp_min(1e-3 * typical) if self.per_pixel else typical.expand_as(square)
        )
        if stamps.psf.ndim == 3:
            self.psf_mean.copy_(symmetric(stamps.psf.mean(0)))
            # A lower limit, because all PSFs may be equal.
            least = 1e-6 * self.psf_mean.square().mean().sqrt()
            self.psf_spread.copy_((stamps.psf - self.psf_mean).square().mean().sqrt().clamp_min(least))

    def scaled(self, stamps: Normalised) -> Tensor:
        """Return the input of the network, [n, channels, ny, nx]."""
        if self.per_pixel:
            factor = (self.spread.square() + stamps.noise.square()[:, None, None]).rsqrt()
        else:
            factor = (self.spread[0, 0].square() + stamps.noise.square()).rsqrt()[:, None, None]
        channels = [stamps.rest() * factor]
        if self.per_galaxy_psf:
            channels.append((stamps.psf - self.psf_mean) / self.psf_spread)
        return torch.stack(channels, 1).contiguous(memory_format=torch.channels_last)

    def forward(self, stamps: Normalised) -> Tensor:
        """Return the outputs of the network, [n, outputs]."""
        return self.network(self.scaled(stamps), stamps.level)


# Fractions of the components that have the symmetries A1, B1, B2 and A2; the rest has the symmetry E. Those
# of galaxies are the fractions among the largest components of the default population. PSFs are centred and
# have few odd components.
GALAXY_SHARES = (30 / 192, 27 / 192, 27 / 192, 22 / 192)
PSF_SHARES = (5 / 16, 4 / 16, 4 / 16, 1 / 16)
_LEAST_SPREAD = 1e-7  # smallest spread of a component relative to the largest, the precision of float32


class Components(nn.Module):
    """Principal components of images, sorted by their symmetry.

    Each component is even or odd under a mirror in x and under a mirror in y. Those that are even under both
    or odd under both are also even or odd under the diagonal mirror (symmetries A1, B1, B2 and A2); the
    diagonal mirror exchanges those odd in x only with those odd in y only (symmetry E). These are the
    irreducible representations of the dihedral group. If an image is rotated or mirrored, its coefficients
    change sign, and the two halves of E may be exchanged.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of an image, which must be equal.
    count : int
        Approximate number of components.
    shares : tuple of float
        Fractions of the components with the symmetries A1, B1, B2 and A2.
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
        """Compute the components of images.

        Parameters
        ----------
        images : Tensor, shape (n, ny, nx)
        without : Tensor, shape (ny, nx), optional
            All components are made orthogonal to this image.
        """
        images = images.double()
        self.mean.copy_(symmetric(images.mean(0)))
        rest = images - self.mean.double()
        if without is not None:
            unit = without.double() / without.double().norm()
            rest -= unit * (rest.flatten(1) @ unit.flatten())[:, None, None]
        # A part that is even or odd under mirrors in x and y is known from one quadrant.
        side = rest.shape[-1]
        half = -(-side // 2)
        top, bottom = rest[:, :half], rest[:, -half:].flip(-2)
        quadrants = (
            (above[..., :half] + in_x * above[..., -half:].flip(-1)) / 2
            for in_x in (1, -1)
            for above in ((top + bottom) / 2, (top - bottom) / 2)
        )
        even, odd_y, odd_x, odd = (flat.mT @ flat / len(flat) for flat in (q.flatten(1) for q in quadrants))
        swap = _transposed(half)
        e = (odd_x + odd_y[swap][:, swap]) / 2
        # Parity under mirrors in y, in x, and in the diagonal: A1, B1, B2, A2 and E odd in x, whose partners
        # are transposed.
        parity = ((1, 1, 1), (1, 1, -1), (-1, -1, 1), (-1, -1, -1), (1, -1, 0))
        grams = (even, even, odd, odd, e)
        found = [_axes(gram, side, count, *signs) for gram, count, signs in zip(grams, self.counts, parity)]
        axes, spreads = (list(column) for column in zip(*found))
        self.basis.copy_(torch.cat([*axes, axes[-1].mT]).flatten(1).mT)
        self.spread.copy_(torch.cat([*spreads, spreads[-1]]).clamp_min(_LEAST_SPREAD * spreads[0][0]))

    def forward(self, images: Tensor) -> Tensor:
        """Return the coefficients [n, total] of images [n, ny, nx]; the mean image is not subtracted."""
        return images.flatten(1) @ self.basis

    def orientation(self, coefficients: Tensor) -> Tensor:
        """Return the signs (x, y, diagonal) [n, 3] that bring images to a standard orientation.

        In the standard orientation, the coefficients of three components are positive: the first ones that
        are odd in x, odd in y, and of the symmetry B1.
        """
        leading = torch.stack([coefficients[:, k] for k in (-2 * self.counts[-1], -self.counts[-1])], 1)
        return torch.where(torch.cat([leading, coefficients[:, self.counts[0], None]], 1) < 0, -1.0, 1.0)

    def oriented(self, coefficients: Tensor, signs: Tensor) -> Tensor:
        """Return the coefficients [n, total] of images mirrored where signs [n, 3] are negative.

        The images are mirrored in x and y first, and in the diagonal last.
        """
        x, y, diagonal = signs.split(1, 1)
        e = self.counts[-1]
        rest, odd_x, odd_y = coefficients.split([self.total - 2 * e, e, e], 1)
        rest = torch.where(self.odd_in_both, rest * (x * y), rest)
        rest = torch.where(diagonal < 0, rest * self.diagonal_sign, rest)
        odd_x, odd_y = odd_x * x, odd_y * y
        swap = diagonal < 0
        return torch.cat([rest, torch.where(swap, odd_y, odd_x), torch.where(swap, odd_x, odd_y)], 1)


def _axes(
    gram: Tensor, side: int, count: int, in_y: int, in_x: int, in_diagonal: int
) -> tuple[Tensor, Tensor]:
    """Return the principal components [count, side, side] with given parities, and their spreads [count].

    They are even (1) or odd (-1) under each mirror; for the diagonal mirror, 0 means neither. `gram` is the
    mean product of two pixels of a quadrant, of images with the parities under the mirrors in y and x. The
    pixels are weighted by their number of mirror images.
    """
    half = -(-side // 2)
    mirrored = torch.full((half,), 2.0, dtype=gram.dtype, device=gram.device)
    mirrored[side // 2 :] = 1.0  # the middle of an odd number
    weight = torch.outer(mirrored, mirrored).sqrt()
    # Components with these parities get larger eigenvalues than all others, even if the images do not vary
    # along them.
    free = torch.ones_like(weight)
    if side % 2:  # an odd image is zero in the middle
        free[-1] *= in_y > 0
        free[:, -1] *= in_x > 0
    gram, right = gram * torch.outer(weight.flatten(), weight.flatten()), free.flatten().diag()
    lift = gram.trace().clamp_min(torch.finfo(gram.dtype).tiny)
    if in_diagonal:
        swap = _transposed(half)
        gram, right = ((one + in_diagonal * one[swap]) / 2 for one in (gram, right))
        gram = (gram + in_diagonal * gram[:, swap]) / 2
    values, vectors = torch.linalg.eigh(gram + lift * right)
    values = values - lift
    quadrant = vectors[:, -count:].flip(1).mT.reshape(count, half, half) / weight
    rest = side // 2
    top = torch.cat([quadrant, in_x * quadrant[:, :, :rest].flip(-1)], 2)
    return torch.cat([top, in_y * top[:, :rest].flip(-2)], 1), values[-count:].flip(0).clamp_min(0).sqrt()


def _transposed(side: int) -> Tensor:
    """Return the numbers of the pixels of an image in the order of the transposed image, [side * side]."""
    return torch.arange(side**2).reshape(side, side).mT.flatten()


class ComponentBody(nn.Module):
    """A network whose input is the whitened principal components of a stamp in a standard orientation.

    The mean galaxy is subtracted from the stamp, and each component of the rest is divided by
    sqrt(spread^2 + noise^2). All components then have unit variance at any noise level. The spread is
    s^whitening times r^(1 - whitening), with the standard deviation s of the component over noiseless
    galaxies and the rms r of s over all components. With whitening below 1, the smallest components have
    less weight at low noise.

    The signs of three components determine which of the 8 rotations and mirrors brings the stamp to the
    standard orientation, and the output is transformed back. The network is then equivariant under rotations
    and mirrors, up to rounding errors.

    Parameters
    ----------
    network : torch.nn.Module
        It maps [n, inputs] to [n, outputs], with ``inputs = total + psf_total + LEVELS``.
    galaxy, psf : Components
        `psf` is None if all galaxies have the same PSF.
    targets : tuple of str
        Names of the first outputs.
    oriented : bool
        Whether stamps are brought to the standard orientation.
    whitening : float
        From 0 to 1.
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
        """Compute the components of noiseless stamps, and those of their PSFs."""
        self.galaxy.fit(stamps.rest(), without=stamps.mean)
        if self.psf is not None:
            self.psf.fit(stamps.psf)
            # If PSFs do not vary, their rounding errors must not be scaled to order one.
            self.psf.spread.clamp_min_(1e-4 * self.psf.spread.max() + 1e-6 * self.psf.mean.norm())

    def forward(self, stamps: Normalised) -> Tensor:
        """Return the outputs of the network, [n, outputs]."""
        # The basis is orthogonal to the mean galaxy, so that subtracting it is not necessary.
        found = self.galaxy(stamps.images) / stamps.scale[:, None]
        square = self.galaxy.spread.square()
        square = square.pow(self.whitening) * square.mean().pow(1 - self.whitening)
        found = found * (square + stamps.noise.square()[:, None]).rsqrt()
        signs = self.galaxy.orientation(found) if self.standard else torch.ones_like(found[:, :3])
        inputs = [self.galaxy.oriented(found, signs), *self.beside(stamps, signs)]
        answer = self.network(torch.cat(inputs, 1))
        return dihedral.turned_back(answer, signs.unbind(1), self.targets)

    def beside(self, stamps: Normalised, signs: Tensor) -> list[Tensor]:
        """Return the input beside the galaxy: components of the PSF, if there are any, and the noise level.

        Parameters
        ----------
        stamps : Normalised
        signs : Tensor, shape (n, 3)
            See `Components.oriented`.
        """
        if self.psf is None:
            return [stamps.level]
        coefficients = self.psf(stamps.psf - self.psf.mean)
        return [self.psf.oriented(coefficients / self.psf.spread, signs), stamps.level]


def symmetric(image: Tensor) -> Tensor:
    """Return the mean [n, n] of an image [n, n] over its 8 rotations and mirrors."""
    turned = [dihedral.transform_images(image, element) for element in range(dihedral.ORDER)]
    return torch.stack(turned).mean(0)
