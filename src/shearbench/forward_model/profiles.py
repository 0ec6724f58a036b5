"""Fourier transforms of round galaxy and PSF profiles as functions of wave number, with derivatives."""

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
"""Sersic indices that can be rendered (GalSim's range); an index outside is replaced by the nearest in it."""
# The transform R(q) of a Sersic profile (q = k times half-light radius) is tabulated as a cubic spline in
# t = ln(1 + q^2/q0^2) / 2, which is smooth in q^2 at the origin and logarithmic in q at large q, and as a
# Chebyshev series in ln n. With these numbers the error is 4e-8 for n in 0.5..4, and 5e-7 for all n; it is
# largest at n = 0.3, where R oscillates.
SERSIC_TABLE_RANGE = (0.29, 6.4)  # wider than SERSIC_RANGE, because at its ends derivatives are 0/0
SERSIC_Q0, _SERSIC_Q_MAX, _SERSIC_STEP, SERSIC_TERMS = 0.02, 1000.0, 0.03, 32
_MOFFAT_Z0, _MOFFAT_Z_MAX, _MOFFAT_STEP = 0.02, 60.0, 0.005
_KOLMOGOROV_K0 = 2.9207006078  # k0 times the FWHM of the PSF with the transform exp(-(k/k0)^(5/3))


def sersic_transform(n: float, q: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""Return the Hankel transform of a Sersic profile of unit flux and unit half-light radius.

    With :math:`I(r) \propto \exp(-b r^{1/n})`, Parseval's theorem for Mellin transforms turns
    :math:`\int r I(r) J_0(q r) dr` into the Mellin-Barnes integral

    .. math:: R(q) = \frac{1}{2\pi i} \int_{c - i\infty}^{c + i\infty}
       \frac{2^{s-1} \Gamma(s/2)}{\Gamma(1 - s/2)} \frac{b^{ns} \Gamma(n (2 - s))}{\Gamma(2n)} q^{-s} ds ,
       \qquad 0 < c < 2,

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
def sersic_table() -> Tensor:
    """Return the spline coefficients as Chebyshev series in ln n, float64 [terms, 4 * intervals]."""
    low, high = np.log(SERSIC_TABLE_RANGE)
    nodes = np.cos(np.pi * (np.arange(SERSIC_TERMS) + 0.5) / SERSIC_TERMS)
    t = np.arange(0, math.log(_SERSIC_Q_MAX / SERSIC_Q0) + _SERSIC_STEP, _SERSIC_STEP)
    q = SERSIC_Q0 * np.sqrt(np.expm1(2 * t))
    values = np.ones((SERSIC_TERMS, len(t)))
    for row, node in zip(values, nodes):
        row[1:] = sersic_transform(math.exp((low + high + (high - low) * node) / 2), q[1:])
    series = np.linalg.solve(np.polynomial.chebyshev.chebvander(nodes, SERSIC_TERMS - 1), values)
    return _spline(t, series).reshape(SERSIC_TERMS, -1)


@functools.cache
def _moffat_table(nu: float) -> Tensor:
    """Return the spline of 2^(1-nu)/Gamma(nu) z^nu K_nu(z) in ln(1 + z^2/z0^2)/2, float64 [4, intervals]."""
    t = np.arange(0, math.log(_MOFFAT_Z_MAX / _MOFFAT_Z0) + _MOFFAT_STEP, _MOFFAT_STEP)
    z = _MOFFAT_Z0 * np.sqrt(np.expm1(2 * t[1:]))
    values = np.concatenate([[1.0], 2 ** (1 - nu) / gamma(nu) * z**nu * kv(nu, z)])
    return _spline(t, values[None])[0]


@functools.cache
def _moffat_table_on(nu: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the table of `_moffat_table` in another type and on another device, copied there once."""
    return _moffat_table(nu).to(device, dtype)


def _spline(t: NDArray[np.floating[Any]], values: NDArray[np.floating[Any]]) -> Tensor:
    """Return a spline's coefficients, [m, 4, intervals], lowest power first.

    The polynomials are in the fraction of an interval, from 0 to 1.
    """
    step = t[1] - t[0]
    coefficients = CubicSpline(t, values, axis=1).c[::-1] * (step ** np.arange(4))[:, None, None]
    return torch.from_numpy(np.ascontiguousarray(coefficients.transpose(2, 0, 1)))


def _locate(t: Tensor, step: float, intervals: int) -> tuple[Tensor, Tensor]:
    """Return the interval that contains each t, and the fraction of it; the last point if t is too large.

    NaN stays NaN: a training that diverges says so, and does not end with an error of the index.
    """
    scaled = (t / step).clamp(max=intervals - 1e-3)
    whole = scaled.detach().floor().nan_to_num_(0.0, neginf=0.0)
    return whole.int(), scaled - whole


def _coefficients(table: Tensor, index: Tensor) -> list[Tensor]:
    """Return the four coefficients at each index, [m, K, K], of tables [m, 4, intervals]."""
    intervals = table.shape[-1]
    start = 4 * intervals * torch.arange(len(table), dtype=torch.int32, device=table.device)
    flat, where = table.reshape(-1), (index + start[:, None, None]).reshape(-1)
    return [flat[j * intervals :].index_select(0, where).reshape(index.shape) for j in range(4)]


def _cubic(coefficients: list[Tensor], fraction: Tensor) -> Tensor:
    c0, c1, c2, c3 = coefficients
    return torch.addcmul(c0, fraction, torch.addcmul(c1, fraction, torch.addcmul(c2, fraction, c3)))


class Radial(NamedTuple):
    """A radial transform R(u) at u = offset + scale q^2, and its derivatives if requested."""

    value: Tensor
    slope: Tensor  # dR/du; empty if derivatives were not requested
    by_index: Tensor | None = None  # dR/dn, for Sersic profiles


def exponential_radial(u: Tensor, derivatives: bool) -> Radial:
    """Return the transform of an exponential profile: u^(-3/2)."""
    root = torch.rsqrt(u)
    value = root * root * root
    return Radial(value, -1.5 * value * root * root if derivatives else u[:0])


def gaussian_radial(u: Tensor) -> Radial:
    """Return the transform of a Gaussian profile: exp(u)."""
    value = torch.exp(u)
    return Radial(value, value)


def sersic_radial(u: Tensor, table: Tensor, by_index: Tensor | None) -> Radial:
    """Return the transform of Sersic profiles at u, from tables for their indices.

    Parameters
    ----------
    u : Tensor, shape (m, K, K)
    table : Tensor, shape (m, 4, intervals)
        Spline coefficients of the transform for the index of each galaxy.
    by_index : Tensor or None
        The derivatives of `table` by the index; None if no derivatives are requested.
    """
    index, fraction = _locate(0.5 * torch.log(u), _SERSIC_STEP, table.shape[-1])
    coefficients = _coefficients(table, index)
    value = _cubic(coefficients, fraction)
    if by_index is None:
        return Radial(value, u[:0])
    _, c1, c2, c3 = coefficients
    by_t = torch.addcmul(c1, fraction, 2 * c2 + 3 * fraction * c3)
    slope = by_t / (2 * _SERSIC_STEP * u)
    return Radial(value, slope, _cubic(_coefficients(by_index, index), fraction))


def psf_radial(spec: Mapping[str, Any], squared: Tensor) -> Tensor:
    """Return the transform of a round PSF of unit flux.

    Parameters
    ----------
    spec : mapping
        ``profile`` and, for Moffat, ``beta``.
    squared : Tensor
        Square of wave number times FWHM, of any shape ([m, K, K] for Moffat).

    Raises
    ------
    ValueError
        The profile is unknown, or beta is not above 1.
    """
    profile = spec["profile"]
    if profile == "gaussian":
        return torch.exp(-squared / (16 * math.log(2)))
    if profile == "kolmogorov":
        return torch.exp(-((squared / _KOLMOGOROV_K0**2) ** (5 / 6)))
    if profile == "moffat":
        beta = float(spec["beta"])
        if not beta > 1:
            raise ValueError(f"a Moffat PSF needs beta > 1 for its flux to be finite, got {beta}")
        return _moffat(beta, squared / (4 * (2 ** (1 / beta) - 1)))
    raise ValueError(f"unknown PSF profile '{profile}'; known: {', '.join(PSF_PROFILES)}")


def _moffat(beta: float, z_squared: Tensor) -> Tensor:
    """Return 2^(1-nu)/Gamma(nu) z^nu K_nu(z), nu = beta - 1, z = k times the scale radius (Moffat 1969)."""
    nu = beta - 1
    order = round(nu - 0.5)
    if nu == order + 0.5:  # K of half-integer order is elementary: Abramowitz & Stegun 10.2.15
        z = z_squared.sqrt()
        series = torch.zeros_like(z)
        for j in range(order, -1, -1):
            falling = math.factorial(2 * order - j) * math.factorial(order) * 2**j
            series = series * z + falling / (
                math.factorial(2 * order) * math.factorial(j) * math.factorial(order - j)
            )
        return torch.exp(-z) * series
    table = _moffat_table_on(nu, z_squared.dtype, z_squared.device)
    t = 0.5 * torch.log1p(z_squared / _MOFFAT_Z0**2)
    index, fraction = _locate(t, _MOFFAT_STEP, table.shape[-1])
    return _cubic(_coefficients(table.expand(len(t), -1, -1), index), fraction)
