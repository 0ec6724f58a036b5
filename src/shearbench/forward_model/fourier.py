r"""Galaxy images from their Fourier transforms: batched, differentiable, on CPU and GPU.

A galaxy of flux :math:`F`, half-light radius :math:`h`, reduced shear :math:`g` and offset :math:`d` from
the stamp's centre, seen through a PSF of transform :math:`P` that includes the pixel, has the image

.. math:: I(x) = \frac{F p^2}{4\pi^2} \int R(h^2 |S_g k|^2) \, P(k) \, e^{i k \cdot (x - d)} \, d^2k ,
   \qquad S_g = \frac{1}{\sqrt{1 - |g|^2}} \begin{pmatrix} 1 + g_1 & g_2 \\ g_2 & 1 - g_1 \end{pmatrix} ,

with :math:`p` the pixel scale and :math:`R` the radial transform of the profile. The integral is a sum over
the midpoints :math:`k = (j + 1/2) \, 2\pi / (N p)`, which leaves two errors and no others: copies of the
galaxy a distance :math:`N p` away (:math:`N` is the padded size), and what lies beyond the largest
frequency (the bandwidth, in units of Nyquist's; above 1 it includes what the pixels alias). The light that
reaches far out is smooth, so that :math:`N` need only be large at low frequencies: see `Grid`. `choose_grid`
finds the smallest grid for a wanted accuracy.

Only the stamp's own pixels are computed: the sum is two small matrix products a galaxy. :math:`R` is real
and even, so one quadrant of frequencies is enough, and everything is real arithmetic.

Parameters are the columns of one tensor, in the order of `parameter_names`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaincinv
from torch import Tensor

if TYPE_CHECKING:
    pass
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

_CACHED_BYTES = 2**19  # of one array of transforms: the batch that is fastest on a CPU's cache
_ROUND_REACH = 12.0  # radius times frequency that holds a round galaxy's light, see `light_reach`
_NEWTON_STEPS = 20  # for frequencies exact to rounding, with periods up to 1e6 pixels


class Grid(NamedTuple):
    r"""The frequencies an image is summed over: midpoints of intervals along each axis.

    Where they are :math:`2\pi / N` apart (k in radians a pixel), copies of the light at that frequency lie N
    pixels away. A galaxy's light at frequency k reaches out to about :math:`c / k`: its far wings are smooth,
    and only its centre, or what is cut off sharply, is not. So the frequencies can crowd towards zero, with

    .. math:: N(k) = N_\infty + \frac{c}{\sqrt{k^2 + a^2}} , \qquad a = \frac{c}{N_0 - N_\infty} .

    As functions of their number they stay analytic, which keeps the midpoint rule's fast convergence. A
    period :math:`N_0` costs only its logarithm.

    Attributes
    ----------
    padded_size : int
        Period of the sum in pixels at the highest frequencies, :math:`N_\infty`: with uniform frequencies at
        all, and copies of the galaxy lie this far away.
    bandwidth : float
        Largest frequency, in units of the Nyquist frequency pi / pixel_scale.
    wings : float
        Period at frequency zero, in units of the padded size: :math:`N_0 / N_\infty`. 1 is uniform.
    reach : float
        Radius times frequency within which light is, :math:`c` (see `light_reach`), where `wings` is not 1.
    """

    padded_size: int
    bandwidth: float = 1.0
    wings: float = 1.0
    reach: float = 26.0

    @property
    def nodes(self) -> int:
        """Frequencies along an axis."""
        return math.ceil(self._number(self.bandwidth * math.pi))

    def frequencies(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the frequencies along an axis, in radians a pixel, and the width of each one's interval."""
        # The last one ends at the bandwidth: they are a little closer than asked for.
        spacing = self._number(self.bandwidth * math.pi) / self.nodes
        number = spacing * (np.arange(self.nodes) + 0.5)
        k = np.zeros(self.nodes)
        for _ in range(_NEWTON_STEPS):  # the function is concave, and approached from below
            k += (number - self._number(k)) / self._density(k)
        return k, spacing / self._density(k)

    def cost(self, size: int) -> float:
        """Return about the time that a galaxy takes, in no unit: a fit to times measured on a CPU."""
        return (self.nodes + size / 2) ** 2

    @property
    def _scale(self) -> float:
        """The frequency :math:`a`, infinite where the grid is uniform."""
        excess = (self.wings - 1) * self.padded_size
        return self.reach / excess if excess else math.inf

    def _number(self, k: Any) -> Any:
        """Return how many intervals lie between 0 and k."""
        return (self.padded_size * k + self.reach * np.arcsinh(k / self._scale)) / (2 * math.pi)

    def _density(self, k: Any) -> Any:
        return (self.padded_size + self.reach / np.hypot(k, self._scale)) / (2 * math.pi)


def light_reach(g: float) -> float:
    r"""Return a `Grid.reach` for galaxies of reduced shear up to g: copies below 1e-8 of the flux or so.

    A Gaussian's light at radius r and frequency k falls like :math:`e^{-r k}` where it is largest, and those
    of other profiles hardly less fast. Stretched along a diagonal, by :math:`q = (1 + g) / (1 - g)`, its
    widths in r and in k along an axis have a product :math:`(q + 1/q) / 2` times as large.
    """
    return _ROUND_REACH * (1 + g**2) / (1 - g**2)


class PsfTransform(NamedTuple):
    """The transform of PSF and pixel in two quadrants of frequencies, (kx, ky) and (kx, -ky).

    Attributes
    ----------
    real_plus, real_minus : Tensor, shape (m, K, K)
        Real part in each; m is the batch size, or 1 for a constant PSF. Rows are ky.
    imaginary_plus, imaginary_minus : Tensor or None
        Minus the imaginary parts; None where the PSF equals itself turned by 180 degrees.
    """

    real_plus: Tensor
    real_minus: Tensor
    imaginary_plus: Tensor | None = None
    imaginary_minus: Tensor | None = None


class Psfs:
    """The PSFs of a renderer's galaxies: one for all, transformed once, or one each, transformed as needed.

    Made by `Renderer.psf` and `Renderer.psf_image`.
    """

    def __init__(self, count: int, transform: Callable[[slice], PsfTransform]) -> None:
        self._count, self._transform = count, transform
        self._constant = transform(slice(None)) if count == 1 else None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, galaxies: slice) -> PsfTransform:
        return self._transform(galaxies) if self._constant is None else self._constant


class _Quadrant(NamedTuple):
    """Coefficients of cos cos, -sin sin, sin cos and cos sin (x first) in the sum over a quadrant."""

    cc: Tensor
    ss: Tensor
    sc: Tensor | None
    cs: Tensor | None


def parameter_names(profile: str) -> tuple[str, ...]:
    """Return the parameters of a profile, in order: flux, x, y, hlr (arcsec), g1, g2 and, for Sersic, n.

    ``x, y`` are the offset of the centroid from the stamp's centre in arcsec, +x along columns.
    """
    if profile not in PROFILES:
        raise ValueError(f"unknown profile '{profile}'; known: {', '.join(PROFILES)}")
    names = ("flux", "x", "y", "hlr", "g1", "g2")
    return (*names, "n") if profile == "sersic" else names


class _Sum(torch.nn.Module):
    """The sum over a grid's frequencies.

    Buffers: ``k`` [K]; ``axis_x``, ``axis_y`` [2, K, size], cos and sin of k times the pixels' positions,
    with the frequencies' weights; ``pixel`` [K, K], the pixel's response.
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
        # Each quadrant stands for two (k and -k give equal terms); the factor is shared by the two axes.
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

        A, B, C are those of the variable of the radial transform, u = offset + A kx^2 + 2 B kx ky + C ky^2.
        """
        k = self.k[:, None]
        cos_x, sin_x = self.waves(self.axis_x, x)
        cos_y, sin_y = self.waves(self.axis_y, y)
        kcos_x, ksin_x, kcos_y, ksin_y = k * cos_x, k * sin_x, k * cos_y, k * sin_y

        quadrant = _quadrant(plus.value, minus.value, psf)
        along = _sum_x(quadrant, cos_x, sin_x)
        slope = _quadrant(plus.slope, minus.slope, psf)
        # kx ky changes sign with ky, which exchanges sums and differences of the two quadrants.
        odd = _Quadrant(slope.ss, slope.cc, slope.cs, slope.sc)
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


class Renderer(torch.nn.Module):
    """Images of galaxies of one profile, and their derivatives.

    It holds constant tables only, which move with ``.to``, and learns nothing: it can be a part of a network.

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
        Of the tables and of the images.
    device : torch.device or str
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
        # Galaxies rendered at once on a CPU: few enough for its cache. A GPU takes all at once.
        self._batch = max(4, _CACHED_BYTES // (grid.nodes**2 * dtype.itemsize))
        self.to(device=device, dtype=dtype)

    def psf(
        self,
        spec: Mapping[str, Any],
        fwhm: Tensor | float,
        g1: Tensor | float = 0.0,
        g2: Tensor | float = 0.0,
    ) -> Psfs:
        """Take analytic PSFs, with the square pixel's response.

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
        """
        like = self._table
        values = (torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in (fwhm, g1, g2))
        width, s1, s2 = torch.broadcast_tensors(*(v.reshape(-1) for v in values))

        def transform(galaxies: slice) -> PsfTransform:
            return self._sum.psf(spec, _shear_form(width[galaxies], s1[galaxies], s2[galaxies]))

        return Psfs(len(width), transform)

    def psf_image(self, images: Tensor) -> Psfs:
        """Take PSF images that include the pixel's response already, so that none is applied again.

        An image is taken as samples of a band-limited function: nothing beyond the Nyquist frequency. Its sum
        multiplies the galaxy's flux.

        Parameters
        ----------
        images : Tensor, shape (ny, nx) or (m, ny, nx)
            Centred like a stamp, of any size, with the stamps' pixel scale.

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
        """
        return torch.cat([self._image(p, f) for p, f in self._batches(parameters, psf)])

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
            With respect to each parameter, in their order.
        """
        parts = [self._jacobian(p, f) for p, f in self._batches(parameters, psf)]
        images, derivatives = zip(*parts)
        return torch.cat(images), torch.cat(derivatives)

    def information(self, parameters: Tensor, psf: Psfs) -> Tensor:
        """Return Fisher matrices for unit noise per pixel: sums of products of two derivatives, in float64.

        Parameters
        ----------
        parameters : Tensor, shape (m, P)
        psf : Psfs

        Returns
        -------
        Tensor of float64, shape (m, P, P)
        """
        found = []
        for part, transform in self._batches(parameters, psf):
            basis, chain = self._basis(part, transform)
            basis, chain = basis.flatten(2).double(), chain.double()
            found.append(chain @ (basis @ basis.mT) @ chain.mT)
        return torch.cat(found)

    def normal_equations(self, parameters: Tensor, psf: Psfs, stamps: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a Gauss-Newton step needs, faster than by way of the derivatives.

        Parameters
        ----------
        parameters : Tensor, shape (m, P)
        psf : Psfs
        stamps : Tensor, shape (m, ny, nx)
            What is fitted.

        Returns
        -------
        information : Tensor, shape (m, P, P)
            Sums over pixels of the products of two derivatives: the Fisher matrix of unit noise.
        force : Tensor, shape (m, P)
            Sums of the derivatives times what the image leaves of the stamp.
        """
        found, low = [], 0
        for part, transform in self._batches(parameters, psf):
            basis, chain = self._basis(part, transform)
            basis = basis.flatten(2)
            # Subtracted before it is summed: at high signal-to-noise, float32 needs that.
            rest = torch.addcmul(stamps[low : low + len(part)].flatten(1), part[:, :1], basis[:, 0], value=-1)
            information = chain @ (basis @ basis.mT) @ chain.mT
            found.append((information, (chain @ (basis @ rest[:, :, None]))[:, :, 0]))
            low += len(part)
        matrices, forces = zip(*found)
        return torch.cat(matrices), torch.cat(forces)

    def spectrum(self, parameters: Tensor, psf: Psfs) -> Tensor:
        """Return the transforms of centred galaxies of unit flux, real parts at (kx, ky) plus (kx, -ky).

        Parameters
        ----------
        parameters : Tensor, shape (m, P)
        psf : Psfs

        Returns
        -------
        Tensor, shape (m, K, K)
            Rows are ky.
        """
        plus, minus = self._radial(parameters, _shear_form(*parameters[:, 3:6].unbind(1)), derivatives=False)
        return _quadrant(plus.value, minus.value, psf[slice(None)]).cc

    def _batches(self, parameters: Tensor, psf: Psfs) -> Iterator[tuple[Tensor, PsfTransform]]:
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
            yield parameters[galaxies], psf[galaxies]

    def _image(self, parameters: Tensor, psf: PsfTransform) -> Tensor:
        flux, x, y, hlr, g1, g2 = parameters[:, :6].unbind(1)
        plus, minus = self._radial(parameters, _shear_form(hlr, g1, g2), derivatives=False)
        return self._sum.image(plus, minus, flux, x, y, psf)

    def _jacobian(self, parameters: Tensor, psf: PsfTransform) -> tuple[Tensor, Tensor]:
        basis, chain = self._basis(parameters, psf)
        derivatives = (chain @ basis.flatten(2)).reshape(basis.shape)
        return parameters[:, 0, None, None] * basis[:, 0], derivatives

    def _basis(self, parameters: Tensor, psf: PsfTransform) -> tuple[Tensor, Tensor]:
        """Return images [m, P, ny, nx] and the matrices [m, P, P] that take them to the derivatives.

        The first is the galaxy's of unit flux.
        """
        flux, x, y, hlr, g1, g2 = parameters[:, :6].unbind(1)
        form = _shear_form(hlr, g1, g2)
        plus, minus = self._radial(parameters, form, derivatives=True)
        basis = self._sum.basis(plus, minus, x, y, psf)

        # The image depends on size and shape through the form A kx^2 + 2 B kx ky + C ky^2 alone.
        scale = flux * self._affine[1]
        squared = scale * hlr**2 / (1 - g1**2 - g2**2) ** 2
        by_hlr = [2 * scale / hlr * term for term in form]
        by_g1 = [2 * ((1 + g1) ** 2 - g2**2), 4 * g1 * g2, -2 * ((1 - g1) ** 2 - g2**2)]
        by_g2 = [4 * g2 * (1 + g1), 2 * (1 - g1**2 + g2**2), 4 * g2 * (1 - g1)]
        chain = torch.diag_embed(flux[:, None].expand(-1, len(self.names)).clone())
        chain[:, 0, 0] = 1.0
        for row, terms in enumerate(
            (by_hlr, [squared * t for t in by_g1], [squared * t for t in by_g2]), start=3
        ):
            chain[:, row, 3:6] = torch.stack(terms, dim=1)
        return basis, chain

    @property
    def _affine(self) -> tuple[float, float]:
        """Offset and scale that take q^2 (q = k times half-light radius) to the radial transform's u."""
        if self.profile == "gaussian":
            return 0.0, -1 / (4 * math.log(2))
        if self.profile == "exponential":
            return 1.0, 1 / float(gammaincinv(2, 0.5)) ** 2
        return 1.0, 1 / SERSIC_Q0**2

    def _radial(
        self, parameters: Tensor, form: tuple[Tensor, Tensor, Tensor], derivatives: bool
    ) -> tuple[Radial, Radial]:
        """Return the radial transform at the frequencies (kx, +-ky)."""
        transform: Callable[[Tensor], Radial] = gaussian_radial
        if self.profile == "exponential":
            transform = functools.partial(exponential_radial, derivatives=derivatives)
        elif self.profile == "sersic":
            table, by_index = self._sersic_tables(parameters[:, 6])
            transform = functools.partial(
                sersic_radial, table=table, by_index=by_index if derivatives else None
            )
        plus, minus = self._sum.squared(form, *self._affine)
        return transform(plus), transform(minus)

    def _sersic_tables(self, n: Tensor) -> tuple[Tensor, Tensor]:
        """Return the radial tables of the indices n and their derivatives by n, each [m, 4, intervals]."""
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


def _sum_and_difference(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """Return a b + c d and a b - c d in three passes over memory."""
    second = c * d
    total = torch.addcmul(second, a, b)
    return total, torch.sub(total, second, alpha=2)


def _sum_x(quadrant: _Quadrant, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over kx; return what multiplies cos and minus what multiplies sin along y, each [m, K, nx]."""
    along_cos, along_sin = quadrant.cc @ cos, quadrant.ss @ sin
    if quadrant.sc is not None and quadrant.cs is not None:
        along_cos, along_sin = along_cos + quadrant.sc @ sin, along_sin - quadrant.cs @ cos
    return along_cos, along_sin


def _sum_y(along_cos: Tensor, along_sin: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.baddbmm(cos.mT @ along_cos, sin.mT, along_sin, alpha=-1)
