r"""Galaxy images from their Fourier transforms: batched, differentiable, on CPU and GPU.

A galaxy of flux :math:`F`, half-light radius :math:`h`, reduced shear :math:`g` and offset :math:`d` from
the stamp's centre, seen through a PSF of transform :math:`P` that includes the pixel, has the image

.. math:: I(x) = \frac{F p^2}{4\pi^2} \int R(h^2 |S_g k|^2) \, P(k) \, e^{i k \cdot (x - d)} \, d^2k ,
   \qquad S_g = \frac{1}{\sqrt{1 - |g|^2}} \begin{pmatrix} 1 + g_1 & g_2 \\ g_2 & 1 - g_1 \end{pmatrix} ,

with :math:`p` the pixel scale and :math:`R` the radial transform of the profile. The integral is a sum over
the midpoints :math:`k = (j + 1/2) \, 2\pi / (N p)`, which leaves two errors and no others: copies of the
galaxy a distance :math:`N p` away (:math:`N` is the padded size), and what lies beyond the largest
frequency (the bandwidth, in units of Nyquist's; above 1 it includes what the pixels alias). `choose_grid`
finds the smallest grid for a wanted accuracy.

Only the stamp's own pixels are computed: the sum is two small matrix products a galaxy. :math:`R` is real
and even, so one quadrant of frequencies is enough, and everything is real arithmetic.

Parameters are the columns of one tensor, in the order of `parameter_names`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.special import gamma, gammaincinv, kv, loggamma
from torch import Tensor

PROFILES = ("gaussian", "exponential", "sersic")
PSF_PROFILES = ("gaussian", "moffat", "kolmogorov")

SERSIC_RANGE = (0.3, 6.2)
"""Sersic indices that can be rendered (GalSim's own range); others are moved to the nearest."""

# A transform R(q) of a Sersic profile (q = k times half-light radius) is a cubic spline in
# t = ln(1 + q^2/q0^2) / 2, which is smooth in q^2 at the origin and logarithmic beyond, and a Chebyshev series
# in ln n. These numbers give 4e-8 for n in 0.5..4, and 5e-7 for all n (at n = 0.3, whose transform oscillates).
_SERSIC_Q0, _SERSIC_Q_MAX, _SERSIC_STEP, _SERSIC_TERMS = 0.02, 1000.0, 0.03, 32
_MOFFAT_Z0, _MOFFAT_Z_MAX, _MOFFAT_STEP = 0.02, 60.0, 0.005

_KOLMOGOROV_K0 = 2.9207006078  # k0 times FWHM of exp(-(k/k0)^(5/3)): half the maximum of its transform


class Grid(NamedTuple):
    """The frequencies an image is summed over.

    Attributes
    ----------
    padded_size : int
        Period of the sum in pixels: copies of the galaxy lie this far away.
    bandwidth : float
        Largest frequency, in units of the Nyquist frequency pi / pixel_scale.
    """

    padded_size: int
    bandwidth: float = 1.0


class PsfTransform(NamedTuple):
    """The transform of PSF and pixel at frequencies (+-kx, ky), one quadrant each.

    Attributes
    ----------
    real_plus, real_minus : Tensor, shape (m, K, K)
        Real part at (kx, ky) and at (-kx, ky); m is the batch size, or 1 for a constant PSF. Rows are ky.
    imaginary_plus, imaginary_minus : Tensor or None
        Minus the imaginary parts; None where the PSF equals itself turned by 180 degrees.
    """

    real_plus: Tensor
    real_minus: Tensor
    imaginary_plus: Tensor | None = None
    imaginary_minus: Tensor | None = None

    def select(self, index: slice) -> PsfTransform:
        """Return the transforms of some galaxies of a batch; a constant PSF stays as it is."""
        if len(self.real_plus) == 1:
            return self
        return PsfTransform(*(part if part is None else part[index] for part in self))


class _Quadrant(NamedTuple):
    """Coefficients of cos cos, sin sin, sin cos and cos sin (x first) in the sum over a quadrant."""

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


def sersic_transform(n: float, q: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""Return the Hankel transform of a Sersic profile of unit flux and unit half-light radius.

    With :math:`I(r) \propto \exp(-b r^{1/n})`, Parseval's theorem for Mellin transforms turns
    :math:`\int r I(r) J_0(q r) dr` into the Mellin-Barnes integral

    .. math:: R(q) = \frac{1}{2\pi i} \int_{c - i\infty}^{c + i\infty} \frac{2^{s-1} \Gamma(s/2)}{\Gamma(1 - s/2)}
       \frac{b^{ns} \Gamma(n (2 - s))}{\Gamma(2n)} q^{-s} ds , \qquad 0 < c < 2,

    whose integrand falls like :math:`\exp(-\pi n |s| / 2)`, so that the trapezoidal rule gives it to rounding
    error (transforms of the two factors: Gradshteyn & Ryzhik 6.561.14 and 3.478.1). For q < 1 the contour is
    moved across the pole at s = 0, whose residue is R(0) = 1.

    Parameters
    ----------
    n : float
        Sersic index.
    q : ndarray, shape (m,)
        Wave number times half-light radius, > 0.

    Returns
    -------
    ndarray, shape (m,)
    """
    b = gammaincinv(2 * n, 0.5)
    step = 0.05
    imaginary = (np.arange(int(50 / n / step)) + 0.5) * step
    result = np.empty_like(q)
    for where, real, residue in ((q < 1, -1.0, 1.0), (q >= 1, 1.0, 0.0)):
        s = real + 1j * imaginary
        log_integrand = (
            (s - 1) * math.log(2) + loggamma(s / 2) - loggamma(1 - s / 2)
            + n * s * math.log(b) + loggamma(n * (2 - s)) - loggamma(2 * n)
        )  # fmt: skip
        terms = np.exp(log_integrand - s * np.log(q[where])[:, None])
        result[where] = residue + step / math.pi * terms.real.sum(axis=1)
    return result


@functools.cache
def _sersic_table() -> Tensor:
    """Return Chebyshev coefficients of the spline's polynomials, float64 [terms, 4 * intervals]."""
    low, high = np.log(SERSIC_RANGE)
    nodes = np.cos(np.pi * (np.arange(_SERSIC_TERMS) + 0.5) / _SERSIC_TERMS)
    t = np.arange(0, math.log(_SERSIC_Q_MAX / _SERSIC_Q0) + _SERSIC_STEP, _SERSIC_STEP)
    q = _SERSIC_Q0 * np.sqrt(np.expm1(2 * t))
    values = np.ones((_SERSIC_TERMS, len(t)))
    for row, node in zip(values, nodes):
        row[1:] = sersic_transform(math.exp((low + high + (high - low) * node) / 2), q[1:])
    series = np.linalg.solve(np.polynomial.chebyshev.chebvander(nodes, _SERSIC_TERMS - 1), values)
    return _spline(t, series).reshape(_SERSIC_TERMS, -1)


@functools.cache
def _moffat_table(nu: float) -> Tensor:
    """Return the spline of 2^(1-nu)/Gamma(nu) z^nu K_nu(z) in ln(1 + z^2/z0^2)/2, float64 [intervals, 4]."""
    t = np.arange(0, math.log(_MOFFAT_Z_MAX / _MOFFAT_Z0) + _MOFFAT_STEP, _MOFFAT_STEP)
    z = _MOFFAT_Z0 * np.sqrt(np.expm1(2 * t[1:]))
    values = np.concatenate([[1.0], 2 ** (1 - nu) / gamma(nu) * z**nu * kv(nu, z)])
    return _spline(t, values[None])[0]


def _spline(t: NDArray[np.float64], values: NDArray[np.float64]) -> Tensor:
    """Return cubic polynomials in the fraction of an interval, [m, intervals, 4], lowest power first."""
    step = t[1] - t[0]
    coefficients = CubicSpline(t, values, axis=1).c[::-1] * (step ** np.arange(4))[:, None, None]
    return torch.from_numpy(np.ascontiguousarray(coefficients.transpose(2, 1, 0)))


def _intervals(t: Tensor, step: float, intervals: int) -> tuple[Tensor, Tensor]:
    """Return the interval that each t lies in, and where in it; beyond the table, the last point."""
    scaled = (t / step).clamp(max=intervals - 1e-3)
    whole = scaled.detach().floor()
    return whole.long(), scaled - whole


def _cubic(coefficients: Tensor, fraction: Tensor) -> Tensor:
    c0, c1, c2, c3 = coefficients.unbind(-1)
    return c0 + fraction * (c1 + fraction * (c2 + fraction * c3))


class _Radial(NamedTuple):
    """A radial transform R(u) at u = offset + scale q^2, with derivatives where they were asked for."""

    value: Tensor
    slope: Tensor | None  # dR/du
    by_index: Tensor | None  # dR/dn


def _exponential(u: Tensor, derivatives: bool) -> _Radial:
    root = torch.rsqrt(u)
    value = root * root * root
    return _Radial(value, -1.5 * value * root * root if derivatives else None, None)


def _gaussian(u: Tensor, derivatives: bool) -> _Radial:
    value = torch.exp(u)
    return _Radial(value, value if derivatives else None, None)


class Renderer(torch.nn.Module):
    """Images of galaxies of one profile, and their derivatives.

    It holds constant tables only (no learned weights), which move with ``.to``; it can be a part of a network.

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
    batch : int
        Galaxies rendered at once on a CPU, few enough to stay in its cache; a GPU takes all at once.
    """

    _axis_x: Tensor
    _axis_y: Tensor
    _k: Tensor
    _window: Tensor
    _table: Tensor

    def __init__(
        self,
        profile: str,
        shape: tuple[int, int],
        pixel_scale: float,
        grid: Grid = Grid(96),
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch: int = 32,
    ) -> None:
        super().__init__()
        self.names = parameter_names(profile)
        self.profile, self.shape, self.pixel_scale, self.grid = profile, tuple(shape), float(pixel_scale), grid
        self.batch = batch
        count = math.ceil(grid.bandwidth * grid.padded_size / 2)
        step = 2 * math.pi / (grid.padded_size * pixel_scale)
        k = (torch.arange(count, dtype=torch.float64) + 0.5) * step
        # Each quadrant stands for two (k and -k give equal terms); the factor is shared by the two axes.
        weight = math.sqrt(2) * step * pixel_scale / (2 * math.pi)
        for name, size in (("_axis_y", self.shape[0]), ("_axis_x", self.shape[1])):
            phase = k[:, None] * self._positions(size)
            self._constant(name, weight * torch.stack([phase.cos(), phase.sin()]), dtype, device)
        self._constant("_k", k, dtype, device)
        pixel = torch.sinc(k * pixel_scale / (2 * math.pi))
        self._constant("_window", pixel[:, None] * pixel, dtype, device)
        self._constant("_table", _sersic_table() if profile == "sersic" else torch.zeros(0), dtype, device)

    def _constant(self, name: str, value: Tensor, dtype: torch.dtype, device: torch.device | str) -> None:
        self.register_buffer(name, value.to(dtype=dtype, device=device), persistent=False)

    def _positions(self, size: int) -> Tensor:
        return (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) * self.pixel_scale

    def psf(
        self, spec: Mapping[str, Any], fwhm: Tensor | float, g1: Tensor | float = 0.0, g2: Tensor | float = 0.0
    ) -> PsfTransform:
        """Transform analytic PSFs, with the square pixel's response.

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
        PsfTransform
            Of m PSFs, or of one.
        """
        values = (torch.as_tensor(v, dtype=self._k.dtype, device=self._k.device) for v in (fwhm, g1, g2))
        width, s1, s2 = torch.broadcast_tensors(*(v.reshape(-1) for v in values))
        plus, minus = self._squared(*_shear_form(width, s1, s2))
        return PsfTransform(self._window * _psf_radial(spec, plus), self._window * _psf_radial(spec, minus))

    def psf_image(self, images: Tensor) -> PsfTransform:
        """Transform PSF images that include the pixel's response already, so that none is applied again.

        An image is taken as samples of a band-limited function: nothing beyond the Nyquist frequency. Its sum
        multiplies the galaxy's flux.

        Parameters
        ----------
        images : Tensor, shape (ny, nx) or (m, ny, nx)
            Centred like a stamp, of any size, with the stamps' pixel scale.

        Returns
        -------
        PsfTransform
        """
        images = images.to(self._k).reshape(-1, *images.shape[-2:])
        within = self._k < math.pi / self.pixel_scale
        tables = []
        for size in images.shape[1:]:
            phase = self._k[:, None] * self._positions(size).to(self._k)
            tables.append((phase.cos() * within[:, None], phase.sin() * within[:, None]))
        (cos_y, sin_y), (cos_x, sin_x) = tables
        along_cos, along_sin = images @ cos_x.T, images @ sin_x.T
        cc, cs, sc, ss = cos_y @ along_cos, sin_y @ along_cos, cos_y @ along_sin, sin_y @ along_sin
        return PsfTransform(cc - ss, cc + ss, sc + cs, cs - sc)

    def forward(self, parameters: Tensor, psf: PsfTransform) -> Tensor:
        """Render images; gradients flow to the parameters.

        Parameters
        ----------
        parameters : Tensor, shape (m, P)
            In the order of `parameter_names`; hlr > 0 and |g| < 1.
        psf : PsfTransform
            Of one PSF or of m.

        Returns
        -------
        Tensor, shape (m, ny, nx)
            Flux per pixel.
        """
        return torch.cat([self._image(p, f) for p, f in self._batches(parameters, psf)])

    def jacobian(self, parameters: Tensor, psf: PsfTransform) -> tuple[Tensor, Tensor]:
        """Render images and their analytic derivatives; gradients flow through both.

        Parameters
        ----------
        parameters : Tensor, shape (m, P)
        psf : PsfTransform

        Returns
        -------
        images : Tensor, shape (m, ny, nx)
        derivatives : Tensor, shape (m, P, ny, nx)
            With respect to each parameter, in their order.
        """
        parts = [self._jacobian(p, f) for p, f in self._batches(parameters, psf)]
        images, derivatives = zip(*parts)
        return torch.cat(images), torch.cat(derivatives)

    def _batches(self, parameters: Tensor, psf: PsfTransform) -> list[tuple[Tensor, PsfTransform]]:
        if parameters.ndim != 2 or parameters.shape[1] != len(self.names):
            raise ValueError(f"parameters have shape {tuple(parameters.shape)}, expected (m, {len(self.names)})")
        if len(psf.real_plus) not in (1, len(parameters)):
            raise ValueError(f"{len(psf.real_plus)} PSFs for {len(parameters)} galaxies")
        parameters = parameters.to(self._k)
        size = self.batch if parameters.device.type == "cpu" else len(parameters)
        if len(parameters) <= size:
            return [(parameters, psf)]
        cuts = [slice(low, low + size) for low in range(0, len(parameters), size)]
        return [(parameters[cut], psf.select(cut)) for cut in cuts]

    def _image(self, parameters: Tensor, psf: PsfTransform) -> Tensor:
        flux, x, y, hlr, g1, g2 = parameters[:, :6].unbind(1)
        plus, minus = self._radial(parameters, _shear_form(hlr, g1, g2), derivatives=False)
        quadrant = _quadrant(plus.value, minus.value, psf)
        return _sum_y(*_sum_x(quadrant, *self._waves(self._axis_x, x, flux)), *self._waves(self._axis_y, y))

    def _jacobian(self, parameters: Tensor, psf: PsfTransform) -> tuple[Tensor, Tensor]:
        flux, x, y, hlr, g1, g2 = parameters[:, :6].unbind(1)
        form = _shear_form(hlr, g1, g2)
        plus, minus = self._radial(parameters, form, derivatives=True)
        assert plus.slope is not None and minus.slope is not None
        k = self._k[:, None]
        cos_x, sin_x = self._waves(self._axis_x, x)
        cos_y, sin_y = self._waves(self._axis_y, y)
        kcos_x, ksin_x, kcos_y, ksin_y = k * cos_x, k * sin_x, k * cos_y, k * sin_y

        quadrant = _quadrant(plus.value, minus.value, psf)
        along = _sum_x(quadrant, cos_x, sin_x)
        unit = _sum_y(*along, cos_y, sin_y)
        by_x = _sum_y(*_sum_x(quadrant, ksin_x, -kcos_x), cos_y, sin_y)
        by_y = _sum_y(*along, ksin_y, -kcos_y)

        # The image depends on size and shape through the form A kx^2 + 2 B kx ky + C ky^2 alone. kx ky changes
        # sign with kx, which exchanges the even and the odd coefficients.
        slope = _quadrant(plus.slope, minus.slope, psf)
        by_a = _sum_y(*_sum_x(slope, k * kcos_x, k * ksin_x), cos_y, sin_y)
        by_c = _sum_y(*_sum_x(slope, cos_x, sin_x), k * kcos_y, k * ksin_y)
        odd = _Quadrant(slope.ss, slope.cc, slope.cs, slope.sc)
        by_b = 2 * _sum_y(*_sum_x(odd, kcos_x, ksin_x), kcos_y, ksin_y)

        def form_image(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
            factor = (flux * self._affine[1])[:, None, None]
            return factor * (a[:, None, None] * by_a + b[:, None, None] * by_b + c[:, None, None] * by_c)

        squared = hlr**2 / (1 - g1**2 - g2**2) ** 2
        scale = flux[:, None, None]
        image = scale * unit
        columns = [
            unit,
            scale * by_x,
            scale * by_y,
            form_image(*(2 * term / hlr for term in form)),
            form_image(
                2 * squared * ((1 + g1) ** 2 - g2**2),
                4 * squared * g1 * g2,
                -2 * squared * ((1 - g1) ** 2 - g2**2),
            ),
            form_image(
                4 * squared * g2 * (1 + g1), 2 * squared * (1 - g1**2 + g2**2), 4 * squared * g2 * (1 - g1)
            ),
        ]
        if plus.by_index is not None and minus.by_index is not None:
            by_n = _sum_y(*_sum_x(_quadrant(plus.by_index, minus.by_index, psf), cos_x, sin_x), cos_y, sin_y)
            columns.append(scale * by_n)
        return image, torch.stack(columns, dim=1)

    @property
    def _affine(self) -> tuple[float, float]:
        """Offset and scale that take q^2, q = k times half-light radius, to the radial transform's variable."""
        if self.profile == "gaussian":
            return 0.0, -1 / (4 * math.log(2))
        if self.profile == "exponential":
            return 1.0, 1 / float(gammaincinv(2, 0.5)) ** 2
        return 1.0, 1 / _SERSIC_Q0**2

    def _squared(
        self, a: Tensor, b: Tensor, c: Tensor, offset: float = 0.0, scale: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Return offset + scale (a kx^2 +- 2 b kx ky + c ky^2), each [m, K, K]."""
        k2 = scale * self._k**2
        square = (offset + a[:, None] * k2)[:, None, :] + (c[:, None] * k2)[:, :, None]
        cross = (2 * scale * b[:, None] * self._k)[:, :, None] * self._k
        return square + cross, square - cross

    def _radial(
        self, parameters: Tensor, form: tuple[Tensor, Tensor, Tensor], derivatives: bool
    ) -> tuple[_Radial, _Radial]:
        plus, minus = self._squared(*form, *self._affine)
        if self.profile == "gaussian":
            return _gaussian(plus, derivatives), _gaussian(minus, derivatives)
        if self.profile == "exponential":
            return _exponential(plus, derivatives), _exponential(minus, derivatives)
        table, by_index = self._sersic_rows(parameters[:, 6])
        if not derivatives:
            by_index = None
        return self._sersic(plus, table, by_index), self._sersic(minus, table, by_index)

    def _sersic_rows(self, n: Tensor) -> tuple[Tensor, Tensor]:
        """Return the radial tables of the indices n and their derivatives, each [m, intervals, 4]."""
        low, high = SERSIC_RANGE
        middle, half = math.log(low * high) / 2, math.log(high / low) / 2
        n = n.clamp(low, high)
        node = (n.log() - middle) / half
        # T_j and U_j by recurrence; dT_j/dx = j U_(j-1).
        first, second = [torch.ones_like(node), node], [torch.ones_like(node), 2 * node]
        for _ in range(_SERSIC_TERMS - 2):
            first.append(2 * node * first[-1] - first[-2])
            second.append(2 * node * second[-1] - second[-2])
        slope = [torch.zeros_like(node)] + [j * u for j, u in enumerate(second[:-1], start=1)]
        rows = torch.stack(first, dim=1) @ self._table
        by_index = torch.stack([s / (half * n) for s in slope], dim=1) @ self._table
        return rows.reshape(len(n), -1, 4), by_index.reshape(len(n), -1, 4)

    @staticmethod
    def _sersic(u: Tensor, table: Tensor, by_index: Tensor | None) -> _Radial:
        intervals = table.shape[1]
        index, fraction = _intervals(0.5 * torch.log(u), _SERSIC_STEP, intervals)
        start = intervals * torch.arange(len(u), device=u.device)
        index = (index + start[:, None, None]).reshape(-1)
        coefficients = table.reshape(-1, 4).index_select(0, index).reshape(*u.shape, 4)
        value = _cubic(coefficients, fraction)
        if by_index is None:
            return _Radial(value, None, None)
        _, c1, c2, c3 = coefficients.unbind(-1)
        slope = (c1 + fraction * (2 * c2 + fraction * 3 * c3)) / (2 * _SERSIC_STEP * u)
        variation = by_index.reshape(-1, 4).index_select(0, index).reshape(*u.shape, 4)
        return _Radial(value, slope, _cubic(variation, fraction))

    @staticmethod
    def _waves(axis: Tensor, offset: Tensor, factor: Tensor | None = None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError
