r"""Images of galaxies, computed from their Fourier transforms: batched, differentiable, on CPU and GPU.

A galaxy of flux :math:`F`, half-light radius :math:`h`, reduced shear :math:`g` and offset :math:`d` from
the stamp's centre, seen through a PSF of transform :math:`P` that includes the pixel, has the image

.. math:: I(x) = \frac{F p^2}{4\pi^2} \int R(h^2 |S_g k|^2) \, P(k) \, e^{i k \cdot (x - d)} \, d^2k ,
   \qquad S_g = \frac{1}{\sqrt{1 - |g|^2}} \begin{pmatrix} 1 + g_1 & g_2 \\ g_2 & 1 - g_1 \end{pmatrix} ,

with :math:`p` the pixel scale and :math:`R` the radial transform of the profile. The integral is computed as
a sum over the midpoints :math:`k = (j + 1/2) \, 2\pi / (N p)`. The sum has two errors: copies of the galaxy
appear at a distance :math:`N p` (:math:`N` is the padded size), and frequencies above the largest one are
missing (the bandwidth, in units of the Nyquist frequency; a bandwidth above 1 includes the aliasing by the
pixels). Light far from the centre varies slowly, so :math:`N` must be large at low frequencies only: see
`Grid`. `choose_grid` finds the smallest grid for a given accuracy.

Only the stamp's own pixels are computed: the sum is two small matrix products for each galaxy. As :math:`R`
is real and even, one quadrant of frequencies and real arithmetic are enough.

Parameters are the columns of one tensor, in the order of `parameter_names`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaincinv
from torch import Tensor

from shearbench.forward_model.profiles import (
    PROFILES,
    SERSIC_Q0,
    SERSIC_RANGE,
    SERSIC_TABLE_RANGE,
    SERSIC_TERMS,
    Radial,
    exponential_radial,
    gaussian_radial,
    psf_radial,
    sersic_radial,
    sersic_table,
)

_CACHED_BYTES = 2**19  # size of an array of transforms: with this batch, a CPU's cache is used best
_ROUND_REACH = 12.0  # radius times frequency that contains the light of a round galaxy, see `light_reach`
_NEWTON_STEPS = 20  # give frequencies exact to rounding for periods up to 1e6 pixels


class Grid(NamedTuple):
    r"""The frequencies over which an image is summed: midpoints of intervals along each axis.

    Where frequencies are :math:`2\pi / N` apart (k in radians per pixel), copies of the light at that
    frequency appear N pixels away. Light of frequency k extends to a radius of about :math:`c / k`: the wings
    of a galaxy are smooth, and only its centre has high frequencies. So frequencies need to be dense near
    zero only, with

    .. math:: N(k) = N_\infty + \frac{c}{\sqrt{k^2 + a^2}} , \qquad a = \frac{c}{N_0 - N_\infty} .

    The frequencies are an analytic function of their number, so the midpoint rule converges as fast as for
    equal intervals. The number of frequencies grows only with the logarithm of the period :math:`N_0`.

    Attributes
    ----------
    padded_size : int
        Period of the sum at the highest frequencies in pixels, :math:`N_\infty`. With equal intervals, it is
        the period at all frequencies, and the distance of the galaxy's copies.
    bandwidth : float
        Largest frequency, in units of the Nyquist frequency pi / pixel_scale.
    wings : float
        Period at frequency zero over the padded size, :math:`N_0 / N_\infty`; 1 gives equal intervals.
    reach : float
        Radius times frequency that contains the light, :math:`c` (see `light_reach`); not used if `wings` is
        1.
    """

    padded_size: int
    bandwidth: float = 1.0
    wings: float = 1.0
    reach: float = 26.0

    @property
    def nodes(self) -> int:
        """Number of frequencies along an axis."""
        return math.ceil(self._number(self.bandwidth * math.pi))

    def frequencies(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the frequencies along an axis and the widths of their intervals, both in radians per pixel.

        Returns
        -------
        k, width : ndarray, shape (nodes,)
        """
        # The last interval ends at the bandwidth, so all are a little smaller than requested.
        spacing = self._number(self.bandwidth * math.pi) / self.nodes
        number = spacing * (np.arange(self.nodes) + 0.5)
        k = np.zeros(self.nodes)
        for _ in range(_NEWTON_STEPS):  # the function is concave, and approached from below
            k += (number - self._number(k)) / self._density(k)
        return k, spacing / self._density(k)

    def cost(self, size: int) -> float:
        """Return the time per galaxy, up to a factor, for stamps of a size: a fit to times on a CPU."""
        return (self.nodes + size / 2) ** 2

    @property
    def _scale(self) -> float:
        """The frequency :math:`a`, infinite if the intervals are equal."""
        excess = (self.wings - 1) * self.padded_size
        return self.reach / excess if excess else math.inf

    def _number(self, k: Any) -> Any:
        """Return the number of intervals between 0 and k."""
        return (self.padded_size * k + self.reach * np.arcsinh(k / self._scale)) / (2 * math.pi)

    def _density(self, k: Any) -> Any:
        return (self.padded_size + self.reach / np.hypot(k, self._scale)) / (2 * math.pi)


def light_reach(g: float) -> float:
    r"""Return a `Grid.reach` for galaxies of reduced shear up to g: copies are below about 1e-8 of the flux.

    For a Gaussian, the light of frequency k at radius r is at most :math:`e^{-r k}`; for other profiles it
    decreases almost as fast. A galaxy stretched along a diagonal by :math:`q = (1 + g) / (1 - g)` has widths
    in r and in k along an axis whose product is larger by :math:`(q + 1/q) / 2`.

    Parameters
    ----------
    g : float
        Largest modulus of the reduced shear, < 1.
    """
    return _ROUND_REACH * (1 + g**2) / (1 - g**2)


class PsfTransform(NamedTuple):
    """The transform of PSF and pixel in two quadrants of frequencies: plus is (kx, ky), minus is (kx, -ky).

    Attributes
    ----------
    real_plus, real_minus : Tensor, shape (m, K, K)
        The real parts; m is the number of galaxies, or 1 for a constant PSF. Rows are ky.
    imaginary_plus, imaginary_minus : Tensor or None
        The imaginary parts, with the opposite sign; None if the PSF is symmetric under a turn by 180 degrees.
    """

    real_plus: Tensor
    real_minus: Tensor
    imaginary_plus: Tensor | None = None
    imaginary_minus: Tensor | None = None


class Psfs:
    """The PSFs of a renderer's galaxies, made by `Renderer.psf` or `Renderer.psf_image`.

    A single PSF for all galaxies is transformed once. If each galaxy has its own, they are transformed in
    batches when they are used.
    """

    def __init__(self, count: int, transform: Callable[[slice], PsfTransform]) -> None:
        self._count, self._transform = count, transform
        self._constant = transform(slice(None)) if count == 1 else None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, galaxies: slice) -> PsfTransform:
        return self._transform(galaxies) if self._constant is None else self._constant


class _Quadrant(NamedTuple):
    """Coefficients of cos cos, -sin sin, sin cos and cos sin (x first, then y) in a quadrant's sum."""

    cc: Tensor
    ss: Tensor
    sc: Tensor | None
    cs: Tensor | None


PARAMETERS = ("flux", "x", "y", "hlr", "g1", "g2", "n")
"""All parameters of a galaxy's model, in order; the last one is that of Sersic profiles only."""
FLUX, X, Y, HLR, G1, G2, SERSIC_N = range(len(PARAMETERS))
XY, G = slice(X, Y + 1), slice(G1, G2 + 1)


def parameter_names(profile: str) -> tuple[str, ...]:
    """Return the names of a profile's parameters, in order: flux, x, y, hlr, g1, g2 and, for Sersic, n.

    ``x, y`` are the offset of the centroid from the stamp's centre (arcsec), with x along a row; ``hlr`` is
    the half-light radius (arcsec), ``g1, g2`` the reduced shear of a round profile, and ``n`` the Sersic
    index. Their places have names too, such as `FLUX` and, for g1 and g2, `G`: ``parameters[:, G]``.

    Raises
    ------
    ValueError
        The profile is unknown.
    """
    if profile not in PROFILES:
        raise ValueError(f"unknown profile '{profile}'; known: {', '.join(PROFILES)}")
    return PARAMETERS if profile == "sersic" else PARAMETERS[:SERSIC_N]


class _Sum(torch.nn.Module):
    """The sum over a grid's frequencies.

    Its buffers are ``k`` [K]; ``axis_x`` and ``axis_y`` [2, K, size], the cosine and sine of k times the
    pixels' positions, times the weights of the frequencies; and ``pixel`` [K, K], the transform of the pixel.
    """

    k: Tensor
    axis_x: Tensor
    axis_y: Tensor
    pixel: Tensor

    def __init__(self, shape: tuple[int, int], pixel_scale: float, grid: Grid) -> None:
        super().__init__()
        self.pixel_scale = pixel_scale
        per_pixel, width = map(torch.from_numpy, grid.frequencies())
        k = per_pixel / pixel_scale
        # k and -k give equal terms, so each quadrant counts twice; each axis gets a factor of sqrt(2).
        weight = math.sqrt(2) * width[:, None] / (2 * math.pi)
        self._constant("k", k)
        self._constant("axis_y", weight * self._trigonometry(k, shape[0]))
        self._constant("axis_x", weight * self._trigonometry(k, shape[1]))
        pixel = torch.sinc(per_pixel / (2 * math.pi))
        self._constant("pixel", pixel[:, None] * pixel)

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    def _trigonometry(self, k: Tensor, size: int) -> Tensor:
        positions = torch.arange(size, dtype=k.dtype, device=k.device) - (size - 1) / 2
        phase = k[:, None] * (positions * self.pixel_scale)
        return torch.stack([phase.cos(), phase.sin()])

    def psf(self, spec: Mapping[str, Any], form: tuple[Tensor, Tensor, Tensor]) -> PsfTransform:
        plus, minus = self.squared(form)
        return PsfTransform(self.pixel * psf_radial(spec, plus), self.pixel * psf_radial(spec, minus))

    def psf_image(self, images: Tensor) -> PsfTransform:
        within = (self.k < math.pi / self.pixel_scale)[:, None]
        cos_y, sin_y = within * self._trigonometry(self.k, images.shape[1])
        cos_x, sin_x = within * self._trigonometry(self.k, images.shape[2])
        along_cos, along_sin = images @ cos_x.T, images @ sin_x.T
        cc, cs = cos_y @ along_cos, sin_y @ along_cos
        sc, ss = cos_y @ along_sin, sin_y @ along_sin
        return PsfTransform(cc - ss, cc + ss, sc + cs, sc - cs)

    def squared(
        self, form: tuple[Tensor, Tensor, Tensor], offset: float = 0.0, scale: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Return offset + scale (A kx^2 +- 2 B kx ky + C ky^2), each [m, K, K]."""
        a, b, c = form
        k2 = scale * self.k**2
        square = (offset + a[:, None] * k2)[:, None, :] + (c[:, None] * k2)[:, :, None]
        cross = (2 * scale * b[:, None] * self.k)[:, :, None]
        return torch.addcmul(square, cross, self.k), torch.addcmul(square, cross, self.k, value=-1)

    def waves(self, axis: Tensor, offset: Tensor, factor: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return cos and sin of k (x - offset) times a factor, each [m, K, size]."""
        phase = self.k * offset[:, None]
        cos, sin = phase.cos()[:, :, None], phase.sin()[:, :, None]
        if factor is not None:
            cos, sin = cos * factor[:, None, None], sin * factor[:, None, None]
        return torch.addcmul(axis[0] * cos, axis[1], sin), torch.addcmul(axis[1] * cos, axis[0], -sin)

    def image(
        self, plus: Radial, minus: Radial, flux: Tensor, x: Tensor, y: Tensor, psf: PsfTransform
    ) -> Tensor:
        quadrant = _quadrant(plus.value, minus.value, psf)
        return _sum_y(*_sum_x(quadrant, *self.waves(self.axis_x, x, flux)), *self.waves(self.axis_y, y))

    def basis(self, plus: Radial, minus: Radial, x: Tensor, y: Tensor, psf: PsfTransform) -> Tensor:
        """Return the image of unit flux and its derivatives by x, y, A, B, C and n, [m, 6 or 7, ny, nx].

        A, B, C are the coefficients in the radial transform's variable,
        u = offset + A kx^2 + 2 B kx ky + C ky^2.
        """
        k = self.k[:, None]
        cos_x, sin_x = self.waves(self.axis_x, x)
        cos_y, sin_y = self.waves(self.axis_y, y)
        kcos_x, ksin_x, kcos_y, ksin_y = k * cos_x, k * sin_x, k * cos_y, k * sin_y

        quadrant = _quadrant(plus.value, minus.value, psf)
        along = _sum_x(quadrant, cos_x, sin_x)
        slope = _quadrant(plus.slope, minus.slope, psf)
        odd = _odd(slope)
        images = [
            _sum_y(*along, cos_y, sin_y),
            _sum_y(*_sum_x(quadrant, ksin_x, -kcos_x), cos_y, sin_y),
            _sum_y(*along, ksin_y, -kcos_y),
            _sum_y(*_sum_x(slope, k * kcos_x, k * ksin_x), cos_y, sin_y),
            _sum_y(*_sum_x(odd, kcos_x, ksin_x), 2 * kcos_y, 2 * ksin_y),
            _sum_y(*_sum_x(slope, cos_x, sin_x), k * kcos_y, k * ksin_y),
        ]
        if plus.by_index is not None and minus.by_index is not None:
            by_index = _quadrant(plus.by_index, minus.by_index, psf)
            images.append(_sum_y(*_sum_x(by_index, cos_x, sin_x), cos_y, sin_y))
        return torch.stack(images, dim=1)

    def score(
        self, plus: Radial, minus: Radial, x: Tensor, y: Tensor, psf: PsfTransform, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the first image of `basis`, sums over frequencies for the others, and sums over pixels.

        Returns
        -------
        image : Tensor, shape (m, ny, nx)
            Of unit flux.
        gram : Tensor, shape (m, 6 or 7, 6 or 7)
            The products of two images, summed over all of the plane and not over the pixels (Parseval).
        dots : Tensor, shape (m, 6 or 7)
            The products of an image and the noise, summed over the pixels.
        """
        quadrant = _quadrant(plus.value, minus.value, psf)
        slope = _quadrant(plus.slope, minus.slope, psf)
        cos_x, sin_x = self.waves(self.axis_x, x)
        cos_y, sin_y = self.waves(self.axis_y, y)
        image = _sum_y(*_sum_x(quadrant, cos_x, sin_x), cos_y, sin_y)

        found = torch.cat([cos_y, sin_y], 1) @ (noise @ torch.cat([cos_x, sin_x], 1).mT)
        (cc, sc), (cs, ss) = (half.chunk(2, 2) for half in found.chunk(2, 1))
        k = self.k
        by_slope, by_odd = _dot(slope, cc, ss, sc, cs), _dot(_odd(slope), cc, ss, sc, cs)
        dots = [
            _dot(quadrant, cc, ss, sc, cs).sum((1, 2)),
            _dot(quadrant, sc, -cs, -cc, ss).sum(1) @ k,
            _dot(quadrant, cs, -sc, ss, -cc).sum(2) @ k,
            by_slope.sum(1) @ k**2,
            2 * ((by_odd @ k) @ k),
            by_slope.sum(2) @ k**2,
        ]
        if plus.by_index is not None and minus.by_index is not None:
            by_index = _quadrant(plus.by_index, minus.by_index, psf)
            dots.append(_dot(by_index, cc, ss, sc, cs).sum((1, 2)))
        return image, self._gram(plus, minus, psf), torch.stack(dots, 1)

    def _gram(self, plus: Radial, minus: Radial, psf: PsfTransform) -> Tensor:
        weight = self.axis_x.square().sum(0).sqrt()[:, 0]  # of the frequencies along an axis
        weight = weight[:, None] * weight
        power = [
            weight * (real.square() if imaginary is None else real.square() + imaginary.square())
            for real, imaginary in (
                (psf.real_plus, psf.imaginary_plus),
                (psf.real_minus, psf.imaginary_minus),
            )
        ]
        powers = self.k[:, None] ** torch.arange(5, device=self.k.device)

        def moments(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> list[list[Tensor]]:
            """Return the sums of a product of two radial functions times kx^a ky^b, as a list [a][b]."""
            a, b = (w * one * other for w, one, other in zip(power, first, second))
            even = (powers.mT @ (a + b) @ powers).permute(2, 1, 0)
            odd = (powers.mT @ (a - b) @ powers).permute(2, 1, 0)
            return [[(odd if p % 2 else even)[p, q] for q in range(5)] for p in range(5)]

        value, slope = (plus.value, minus.value), (plus.slope, minus.slope)
        vv, vs, ss = moments(value, value), moments(value, slope), moments(slope, slope)
        zero = torch.zeros_like(vv[0][0])
        rows = [
            [vv[0][0], zero, zero, vs[2][0], 2 * vs[1][1], vs[0][2]],
            [zero, vv[2][0], vv[1][1], zero, zero, zero],
            [zero, vv[1][1], vv[0][2], zero, zero, zero],
            [vs[2][0], zero, zero, ss[4][0], 2 * ss[3][1], ss[2][2]],
            [2 * vs[1][1], zero, zero, 2 * ss[3][1], 4 * ss[2][2], 2 * ss[1][3]],
            [vs[0][2], zero, zero, ss[2][2], 2 * ss[1][3], ss[0][4]],
        ]
        if plus.by_index is not None and minus.by_index is not None:
            index = plus.by_index, minus.by_index
            vi, si, ii = moments(value, index), moments(slope, index), moments(index, index)
            last = [vi[0][0], zero, zero, si[2][0], 2 * si[1][1], si[0][2]]
            rows = [[*row, end] for row, end in zip(rows, last)] + [[*last, ii[0][0]]]
        return torch.stack([torch.stack(row, 1) for row in rows], 1)


class Renderer(torch.nn.Module):
    """Renders images of galaxies of one profile, and their derivatives.

    It can be part of a network: its tables are constant buffers, which move with ``.to``, and it has no
    weights.

    Parameters
    ----------
    profile : {"gaussian", "exponential", "sersic"}
    shape : (int, int)
        Rows and columns of a stamp; the centre is ((ny - 1)/2, (nx - 1)/2), also when they are even.
    pixel_scale : float
        Arcsec.
    grid : Grid
        See `choose_grid`; ``Grid(80)`` is enough to train on the default population.
    dtype : torch.dtype
        Type of the tables and the images.
    device : torch.device or str
        Device of the tables and the images.

    Raises
    ------
    ValueError
        The profile is unknown.
    """

    _table: Tensor

    def __init__(
        self,
        profile: str,
        shape: tuple[int, int],
        pixel_scale: float,
        grid: Grid,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.names = parameter_names(profile)
        self.profile, self.shape, self.pixel_scale, self.grid = profile, shape, pixel_scale, grid
        self._sum = _Sum(shape, pixel_scale, grid)
        table = sersic_table() if profile == "sersic" else torch.zeros(0, dtype=torch.float64)
        self.register_buffer("_table", table, persistent=False)
        # Number of galaxies rendered together on a CPU, so few that they fit its cache. A GPU takes all.
        self._batch = max(4, _CACHED_BYTES // (grid.nodes**2 * dtype.itemsize))
        self.to(device=device, dtype=dtype)

    def psf(
        self,
        spec: Mapping[str, Any],
        fwhm: Tensor | float,
        g1: Tensor | float = 0.0,
        g2: Tensor | float = 0.0,
    ) -> Psfs:
        """Return analytic PSFs, convolved with a square pixel, for use with this renderer.

        Parameters
        ----------
        spec : mapping
            ``profile`` (gaussian, moffat or kolmogorov) and, for Moffat, ``beta`` (> 1).
        fwhm : Tensor (m,) or float
            Full width at half maximum before shearing, arcsec.
        g1, g2 : Tensor (m,) or float
            Reduced shear applied to the round PSF.

        Returns
        -------
        Psfs
            m PSFs, or one for all galaxies.

        Raises
        ------
        ValueError
            The profile is unknown, or beta is not above 1.
        """
        like = self._table
        values = (torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in (fwhm, g1, g2))
        width, s1, s2 = torch.broadcast_tensors(*(v.reshape(-1) for v in values))

        def transform(galaxies: slice) -> PsfTransform:
            return self._sum.psf(spec, _shear_form(width[galaxies], s1[galaxies], s2[galaxies]))

        return Psfs(len(width), transform)

    def psf_image(self, images: Tensor) -> Psfs:
        """Return PSFs given as images, which include the convolution with the pixel.

        An image is taken as samples of a function without power beyond the Nyquist frequency. The galaxy's
        flux is multiplied by the sum of the image.

        Parameters
        ----------
        images : Tensor, shape (ny, nx) or (m, ny, nx)
            Centred like a stamp, with the pixel scale of the stamps and any number of pixels.

        Returns
        -------
        Psfs
        """
        images = images.to(self._table).reshape(-1, *images.shape[-2:])
        return Psfs(len(images), lambda galaxies: self._sum.psf_image(images[galaxies]))

    def forward(self, parameters: Tensor, psf: Psfs) -> Tensor:
        """Render images; gradients flow to the parameters.

        Parameters
        ----------
        parameters : Tensor, shape (m, P)
            In the order of `parameter_names`; hlr > 0 and |g| < 1.
        psf : Psfs
            One or m, of this renderer.

        Returns
        -------
        Tensor, shape (m, ny, nx)
            Flux per pixel.

        Raises
        ------
        ValueError
            `parameters` has another shape, or the number of PSFs is neither 1 nor m.
        """
        return torch.cat([self._image(p, f) for p, f, _ in self._batches(parameters, psf)])

    def jacobian(self, parameters: Tensor, psf: Psfs) -> tuple[Tensor, Tensor]:
        """Render images and their analytic derivatives; gradients flow through both.

        Parameters
        ----------
        parameters : Tensor, shape (m, P)
        psf : Psfs

        Returns
        -------
        images : Tensor, shape (m, ny, nx)
        derivatives : Tensor, shape (m, P, ny, nx)
            With respect to each parameter, in the order of `parameter_names`.
        """
        parts = [self._jacobian(p, f) for p, f, _ in self._batches(parameters, psf)]
        images, derivatives = zip(*parts)
        return torch.cat(images), torch.cat(derivatives)

    def information(self, parameters: Tensor, psf: Psfs) -> Tensor:
        """Return Fisher matrices for unit noise per pixel: sums over pixels of products of derivatives.

        Parameters
        ----------
        parameters : Tensor, shape (m, P)
        psf : Psfs

        Returns
        -------
        Tensor of float64, shape (m, P, P)
        """
        found = []
        for part, transform, _ in self._batches(parameters, psf):
            basis, chain = self._basis(part, transform)
            basis, chain = basis.flatten(2).double(), chain.double()
            found.append(chain @ (basis @ basis.mT) @ chain.mT)
        return torch.cat(found)

    def normal_equations(self, parameters: Tensor, psf: Psfs, stamps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normal equations of a Gauss-Newton step; faster than from the result of `jacobian`.

        Parameters
        ----------
        parameters : Tensor, shape (m, P)
        psf : Psfs
        stamps : Tensor, shape (m, ny, nx)
            The data to fit.

        Returns
        -------
        information : Tensor, shape (m, P, P)
            Sums over pixels of the products of two derivatives: the Fisher matrix of unit noise.
        force : Tensor, shape (m, P)
            Sums over pixels of the derivatives times the residual, stamp minus image.
        """
        found = []
        for part, transform, galaxies in self._batches(parameters, psf):
            basis, chain = self._basis(part, transform)
            basis = basis.flatten(2)
            # The image is subtracted before the sum: at high signal-to-noise, float32 sums would cancel.
            stamp, flux = stamps[galaxies].flatten(1), part[:, FLUX, None]
            rest = torch.addcmul(stamp, flux, basis[:, 0], value=-1)
            information = chain @ (basis @ basis.mT) @ chain.mT
            found.append((information, (chain @ (basis @ rest[:, :, None]))[:, :, 0]))
        matrices, forces = zip(*found)
        return torch.cat(matrices), torch.cat(forces)

    def score(self, parameters: Tensor, psf: Psfs, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return images, an approximate Fisher matrix, and the score of noise; faster than by `jacobian`.

        No image of a derivative is made: the noise is transformed instead, and the Fisher matrix is a sum
        over frequencies, which includes the light outside the stamp. The images and the score are exact.

        Parameters
        ----------
        parameters : Tensor, shape (m, P)
        psf : Psfs
        noise : Tensor, shape (m, ny, nx)

        Returns
        -------
        images : Tensor, shape (m, ny, nx)
        information : Tensor, shape (m, P, P)
            The Fisher matrix of unit noise, too large if light is outside the stamp.
        score : Tensor, shape (m, P)
            Sums over pixels of the derivatives of the image times the noise.
        """
        found = []
        for part, transform, galaxies in self._batches(parameters, psf):
            plus, minus, chain = self._expanded(part)
            _, x, y = part[:, : Y + 1].unbind(1)
            image, gram, dots = self._sum.score(plus, minus, x, y, transform, noise[galaxies])
            information = chain @ gram @ chain.mT
            score = (chain @ dots[:, :, None])[:, :, 0]
            found.append((part[:, FLUX, None, None] * image, information, score))
        images, matrices, scores = zip(*found)
        return torch.cat(images), torch.cat(matrices), torch.cat(scores)

    def spectrum(self, parameters: Tensor, psf: Psfs) -> Tensor:
        """Return transforms of centred galaxies of unit flux: sums of real parts at (kx, ky) and (kx, -ky).

        Parameters
        ----------
        parameters : Tensor, shape (m, P)
        psf : Psfs

        Returns
        -------
        Tensor, shape (m, K, K)
            Rows are ky.
        """
        plus, minus = self._radial(
            parameters, _shear_form(*parameters[:, HLR : G2 + 1].unbind(1)), derivatives=False
        )
        return _quadrant(plus.value, minus.value, psf[slice(None)]).cc

    def _batches(self, parameters: Tensor, psf: Psfs) -> Iterator[tuple[Tensor, PsfTransform, slice]]:
        count = len(parameters)
        if parameters.ndim != 2 or parameters.shape[1] != len(self.names):
            raise ValueError(
                f"parameters have shape {tuple(parameters.shape)}, expected (m, {len(self.names)})"
            )
        if len(psf) not in (1, count):
            raise ValueError(f"{len(psf)} PSFs for {count} galaxies")
        parameters = parameters.to(self._table)
        size = self._batch if parameters.device.type == "cpu" else max(count, 1)
        for low in range(0, max(count, 1), size):
            galaxies = slice(low, low + size)
            yield parameters[galaxies], psf[galaxies], galaxies

    def _image(self, parameters: Tensor, psf: PsfTransform) -> Tensor:
        flux, x, y, hlr, g1, g2 = parameters[:, :SERSIC_N].unbind(1)
        plus, minus = self._radial(parameters, _shear_form(hlr, g1, g2), derivatives=False)
        return self._sum.image(plus, minus, flux, x, y, psf)

    def _jacobian(self, parameters: Tensor, psf: PsfTransform) -> tuple[Tensor, Tensor]:
        basis, chain = self._basis(parameters, psf)
        derivatives = (chain @ basis.flatten(2)).reshape(basis.shape)
        return parameters[:, FLUX, None, None] * basis[:, 0], derivatives

    def _basis(self, parameters: Tensor, psf: PsfTransform) -> tuple[Tensor, Tensor]:
        """Return images [m, P, ny, nx] and matrices [m, P, P]; their product is the derivatives.

        The first image is that of the galaxy with unit flux.
        """
        plus, minus, chain = self._expanded(parameters)
        return self._sum.basis(plus, minus, parameters[:, X], parameters[:, Y], psf), chain

    def _expanded(self, parameters: Tensor) -> tuple[Radial, Radial, Tensor]:
        """Return the radial transforms, and derivatives by the parameters of those of the basis [m, P, P]."""
        flux, _, _, hlr, g1, g2 = parameters[:, :SERSIC_N].unbind(1)
        form = _shear_form(hlr, g1, g2)
        plus, minus = self._radial(parameters, form, derivatives=True)

        # The image depends on size and shape only through A, B and C in A kx^2 + 2 B kx ky + C ky^2.
        scale = flux * self._affine[1]
        squared = scale * hlr**2 / (1 - g1**2 - g2**2) ** 2
        by_hlr = [2 * scale / hlr * term for term in form]
        by_g1 = [2 * ((1 + g1) ** 2 - g2**2), 4 * g1 * g2, -2 * ((1 - g1) ** 2 - g2**2)]
        by_g2 = [4 * g2 * (1 + g1), 2 * (1 - g1**2 + g2**2), 4 * g2 * (1 - g1)]
        chain = torch.diag_embed(flux[:, None].expand(-1, len(self.names)).clone())
        chain[:, FLUX, FLUX].fill_(1.0)
        for row, terms in (
            (HLR, by_hlr),
            (G1, [squared * t for t in by_g1]),
            (G2, [squared * t for t in by_g2]),
        ):
            chain[:, row, HLR : G2 + 1] = torch.stack(terms, dim=1)  # where the basis has A, B, C
        return plus, minus, chain

    @property
    def _affine(self) -> tuple[float, float]:
        """Offset and scale in u = offset + scale q^2, the radial transform's variable (q = k times hlr)."""
        if self.profile == "gaussian":
            return 0.0, -1 / (4 * math.log(2))
        if self.profile == "exponential":
            return 1.0, 1 / float(gammaincinv(2, 0.5)) ** 2
        return 1.0, 1 / SERSIC_Q0**2

    def _radial(
        self, parameters: Tensor, form: tuple[Tensor, Tensor, Tensor], derivatives: bool
    ) -> tuple[Radial, Radial]:
        """Return the radial transform at the frequencies (kx, ky) and (kx, -ky)."""
        transform: Callable[[Tensor], Radial] = gaussian_radial
        if self.profile == "exponential":
            transform = functools.partial(exponential_radial, derivatives=derivatives)
        elif self.profile == "sersic":
            table, by_index = self._sersic_tables(parameters[:, SERSIC_N])
            transform = functools.partial(
                sersic_radial, table=table, by_index=by_index if derivatives else None
            )
        plus, minus = self._sum.squared(form, *self._affine)
        return transform(plus), transform(minus)

    def _sersic_tables(self, n: Tensor) -> tuple[Tensor, Tensor]:
        """Return the spline tables for the indices n and their derivatives by n, each [m, 4, intervals]."""
        n = n.clamp(*SERSIC_RANGE)[:, None]
        low, high = SERSIC_TABLE_RANGE
        half = math.log(high / low) / 2
        angle = torch.acos((n.log() - math.log(low * high) / 2) / half)
        order = torch.arange(SERSIC_TERMS, device=n.device)
        rows = torch.cos(order * angle) @ self._table
        by_index = (order * torch.sin(order * angle) / (torch.sin(angle) * half * n)) @ self._table
        return rows.reshape(len(n), 4, -1), by_index.reshape(len(n), 4, -1)


def _shear_form(size: Tensor, g1: Tensor, g2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return A, B, C of |size S_g k|^2 = A kx^2 + 2 B kx ky + C ky^2."""
    g_squared = g1**2 + g2**2
    scale = size**2 / (1 - g_squared)
    return scale * (1 + g_squared + 2 * g1), scale * 2 * g2, scale * (1 + g_squared - 2 * g1)


def _quadrant(plus: Tensor, minus: Tensor, psf: PsfTransform) -> _Quadrant:
    cc, ss = _sum_and_difference(plus, psf.real_plus, minus, psf.real_minus)
    if psf.imaginary_plus is None or psf.imaginary_minus is None:
        return _Quadrant(cc, ss, None, None)
    return _Quadrant(cc, ss, *_sum_and_difference(plus, psf.imaginary_plus, minus, psf.imaginary_minus))


def _odd(quadrant: _Quadrant) -> _Quadrant:
    """Change the sign of one quadrant, as kx ky does: this exchanges sums and differences of the two."""
    return _Quadrant(quadrant.ss, quadrant.cc, quadrant.cs, quadrant.sc)


def _dot(quadrant: _Quadrant, cc: Tensor, ss: Tensor, sc: Tensor, cs: Tensor) -> Tensor:
    """Return the product of a quadrant's sum and an image at each frequency, from those with its waves."""
    total = torch.addcmul(quadrant.cc * cc, quadrant.ss, ss, value=-1)
    if quadrant.sc is not None and quadrant.cs is not None:
        total = torch.addcmul(torch.addcmul(total, quadrant.sc, sc), quadrant.cs, cs)
    return total


def _sum_and_difference(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """Return a b + c d and a b - c d in three passes over memory."""
    second = c * d
    total = torch.addcmul(second, a, b)
    return total, torch.sub(total, second, alpha=2)


def _sum_x(quadrant: _Quadrant, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over kx; return the coefficients of cos and of -sin in y, each [m, K, nx]."""
    along_cos, along_sin = quadrant.cc @ cos, quadrant.ss @ sin
    if quadrant.sc is not None and quadrant.cs is not None:
        along_cos, along_sin = along_cos + quadrant.sc @ sin, along_sin - quadrant.cs @ cos
    return along_cos, along_sin


def _sum_y(along_cos: Tensor, along_sin: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.baddbmm(cos.mT @ along_cos, sin.mT, along_sin, alpha=-1)
