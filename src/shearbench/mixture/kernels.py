"""Compiled loops of the mixture fits. Lengths are in pixels here, and fluxes per pixel.

Every derivative of a Gaussian N of covariance S is N times a polynomial of q = S^-1 delta:
dN/dcentre = N q and dN/dS = N (q q^T - S^-1)/2 (the heat equation). So one pass gives, for each pixel, the
value and its derivatives by the centre and by the three elements of the mean covariance; the chain rule to
(g1, g2, T) is applied to the 7 x 7 matrix of their sums over pixels, not to the pixels.

The loops are written for the vectoriser: rows padded to whole vectors, no branch inside, an exponential made
of multiplications, a stretch of the stamp at a time that stays in the first-level cache.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.polynomial import Chebyshev, Polynomial

from shearbench.mixture.models import WINDOW_END, WINDOW_START

# NaN and infinity keep their meaning: only the order of sums, fused operations and signs of zero are free.
compile_loop = numba.njit(
    cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp", "nsz"}
)

LANES = 8  # columns are taken in multiples of this
SPAN = 512  # pixels of a stretch of rows, whole rows
VALUE, ROW, COL, VV, VU, UU, DATA = range(7)  # of the matrix of sums
_ROLL = 1 / (WINDOW_END - WINDOW_START)
_SLOPE = 60 * _ROLL  # -2 dW/ds is 60 s^2 (1 - s)^2 of the step W(s) = s^3 (10 - 15 s + 6 s^2)

# exp(-d/2) = p(d/64)^32 with p of degree 7: relative error below 2e-11 on [0, 25].
_GRID = WINDOW_END / 128 * (1 + np.cos(np.pi * (np.arange(512) + 0.5) / 512))
_P0, _P1, _P2, _P3, _P4, _P5, _P6, _P7 = (
    float(value)
    for value in Chebyshev.fit(_GRID, np.exp(-_GRID), 7, domain=[0, WINDOW_END / 64]).convert(kind=Polynomial).coef
)


@compile_loop
def add_gaussian(sums, top, rows, ny, nx, stride, v0, u0, weight, scale, vv, vu, uu):
    """Add one Gaussian and its derivatives to the sums of a stretch of rows.

    Parameters
    ----------
    sums : ndarray of float64, shape (6 * SPAN,)
        Value, and derivatives by the centre's row and column and by the covariance's three elements, each
        [rows, stride] from a multiple of SPAN on.
    top, rows : int
        First row and number of rows of the stretch.
    ny, nx, stride : int
        Rows and columns of the stamp, and columns with padding.
    v0, u0 : float
        Centre (row, column) from the stamp's centre.
    weight : float
        Integral.
    scale : float
        Derivative of this Gaussian's covariance by the mean covariance.
    vv, vu, uu : float
        Covariance.

    Returns
    -------
    bool
        Whether the stretch is touched.
    """
    det = vv * uu - vu * vu
    qvv, qvu, quu = uu / det, -vu / det, vv / det
    peak = weight / (2 * math.pi * math.sqrt(det))
    half = 0.5 * scale
    first = -0.5 * (nx - 1)
    touched = False
    for row in range(rows):
        dv = top + row - 0.5 * (ny - 1) - v0
        left = WINDOW_END - dv * dv / vv
        if left <= 0:
            continue
        middle = u0 + vu / vv * dv - first
        reach = math.sqrt(left / quu)
        low = int(max(math.ceil(middle - reach), 0.0)) // LANES * LANES
        high = int(min(math.floor(middle + reach), nx - 1.0)) + 1
        if high <= low:
            continue
        touched = True
        count = (high - low + LANES - 1) // LANES * LANES
        du0 = first + low - u0
        y0, x0 = qvv * dv + qvu * du0, qvu * dv + quu * du0
        out = sums[row * stride + low :]
        for j in range(count):
            z = float(j)
            y, x = y0 + qvu * z, x0 + quu * z
            distance = min(dv * y + (du0 + z) * x, WINDOW_END)
            s = min((WINDOW_END - distance) * _ROLL, 1.0)
            t = distance * (1 / 64)
            e = _P0 + t * (_P1 + t * (_P2 + t * (_P3 + t * (_P4 + t * (_P5 + t * (_P6 + t * _P7))))))
            e *= e
            e *= e
            e *= e
            e *= e
            e *= e
            e *= peak
            rise = s - s * s
            value = e * (s * s * s * (10.0 + s * (6.0 * s - 15.0)))
            # What depends on the distance is also moved by the slope of the window.
            slope = value + _SLOPE * e * rise * rise
            a, ay, ax = half * value, half * slope * y, half * slope * x
            out[j] += value
            out[j + SPAN] += slope * y
            out[j + 2 * SPAN] += slope * x
            out[j + 3 * SPAN] += ay * y - a * qvv
            out[j + 4 * SPAN] += 2.0 * (ay * x - a * qvu)
            out[j + 5 * SPAN] += ax * x - a * quu
    return touched


@compile_loop
def _clear_padding(sums, rows, nx, stride):
    for start in range(0, sums.size, SPAN):
        for row in range(rows):
            sums[start + row * stride + nx : start + (row + 1) * stride] = 0.0


@compile_loop
def correlate(image, ny, nx, stride, v0, u0, cvv, cvu, cuu, table, sums, matrix):
    """Sum over pixels the products of a model of unit flux, its derivatives, and the data.

    Parameters
    ----------
    image : ndarray of float64, shape (ny * stride,)
        Data, zero in the padding.
    ny, nx, stride : int
    v0, u0 : float
        Centre.
    cvv, cvu, cuu : float
        Mean covariance of the galaxy.
    table : ndarray of float64, shape (k, 5)
        For each Gaussian: share of the flux, scale of the galaxy's covariance, covariance of the PSF.
    sums : ndarray of float64, shape (6 * SPAN,)
        Work space.
    matrix : ndarray of float64, shape (7, 7)
        Filled: the upper triangle, without the square of the data.

    Returns
    -------
    bool
        Whether all covariances are positive definite; if not, nothing is filled.
    """
    for k in range(len(table)):
        vv, vu, uu = table[k, 1] * cvv + table[k, 2], table[k, 1] * cvu + table[k, 3], table[k, 1] * cuu + table[k, 4]
        if table[k, 0] != 0 and not (vv > 0 and uu > 0 and vv * uu - vu * vu > 1e-10 * vv * uu):
            return False
    matrix[:] = 0.0
    height = SPAN // stride
    for top in range(0, ny, height):
        rows = min(height, ny - top)
        sums[:] = 0.0
        touched = False
        for k in range(len(table)):
            weight, scale = table[k, 0], table[k, 1]
            if weight == 0:
                continue
            vv, vu, uu = scale * cvv + table[k, 2], scale * cvu + table[k, 3], scale * cuu + table[k, 4]
            touched |= add_gaussian(sums, top, rows, ny, nx, stride, v0, u0, weight, scale, vv, vu, uu)
        if not touched:
            continue
        if stride > nx:
            _clear_padding(sums, rows, nx, stride)
        _add_products(sums, image[top * stride :], rows * stride, matrix)
    return True


@compile_loop
def project(image, ny, nx, stride, v0, u0, vv, vu, uu, sums, totals):
    """Sum over pixels the products of the data with one normalised Gaussian and its derivatives.

    Parameters are those of `correlate`; `totals`, shape (6,), is filled.
    """
    totals[:] = 0.0
    height = SPAN // stride
    for top in range(0, ny, height):
        rows = min(height, ny - top)
        sums[:] = 0.0
        if not add_gaussian(sums, top, rows, ny, nx, stride, v0, u0, 1.0, 1.0, vv, vu, uu):
            continue
        data = image[top * stride :]
        for i in range(6):
            total = 0.0
            values = sums[i * SPAN :]
            for n in range(rows * stride):
                total += values[n] * data[n]
            totals[i] += total


@compile_loop
def _add_products(sums, data, count, matrix):
    # Spelled out, so that all 27 sums stay in registers.
    s00 = s01 = s02 = s03 = s04 = s05 = s06 = s11 = s12 = s13 = s14 = s15 = s16 = s22 = 0.0
    s23 = s24 = s25 = s26 = s33 = s34 = s35 = s36 = s44 = s45 = s46 = s55 = s56 = 0.0
    for n in range(count):
        a, b, c = sums[n], sums[n + SPAN], sums[n + 2 * SPAN]
        d, e, f = sums[n + 3 * SPAN], sums[n + 4 * SPAN], sums[n + 5 * SPAN]
        g = data[n]
        s00 += a * a
        s01 += a * b
        s02 += a * c
        s03 += a * d
        s04 += a * e
        s05 += a * f
        s06 += a * g
        s11 += b * b
        s12 += b * c
        s13 += b * d
        s14 += b * e
        s15 += b * f
        s16 += b * g
        s22 += c * c
        s23 += c * d
        s24 += c * e
        s25 += c * f
        s26 += c * g
        s33 += d * d
        s34 += d * e
        s35 += d * f
        s36 += d * g
        s44 += e * e
        s45 += e * f
        s46 += e * g
        s55 += f * f
        s56 += f * g
    for i, row in enumerate(
        (
            (s00, s01, s02, s03, s04, s05, s06),
            (0.0, s11, s12, s13, s14, s15, s16),
            (0.0, 0.0, s22, s23, s24, s25, s26),
            (0.0, 0.0, 0.0, s33, s34, s35, s36),
            (0.0, 0.0, 0.0, 0.0, s44, s45, s46),
            (0.0, 0.0, 0.0, 0.0, 0.0, s55, s56),
        )
    ):
        for j in range(7):
            matrix[i, j] += row[j]


@compile_loop
def chain(g1, g2, size, jacobian):
    """Fill the derivatives of the mean covariance (vv, vu, uu) by (g1, g2, T), shape (3, 3)."""
    fall = 2 / (1 + g1 * g1 + g2 * g2)
    e1, e2, half = fall * g1, fall * g2, 0.5 * size
    d11, d12, d22 = fall - e1 * e1, -e1 * e2, fall - e2 * e2
    jacobian[0, 0], jacobian[1, 0], jacobian[2, 0] = -half * d11, half * d12, half * d11
    jacobian[0, 1], jacobian[1, 1], jacobian[2, 1] = -half * d12, half * d22, half * d12
    jacobian[0, 2], jacobian[1, 2], jacobian[2, 2] = 0.5 * (1 - e1), 0.5 * e2, 0.5 * (1 + e1)


@compile_loop
def cholesky(matrix, factor):
    """Fill the lower Cholesky factor; False if the matrix is not numerically positive definite."""
    n = len(matrix)
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= factor[i, k] * factor[j, k]
            if i > j:
                factor[i, j] = total / factor[j, j]
            elif total > 1e-14 * matrix[i, i]:
                factor[i, i] = math.sqrt(total)
            else:
                return False
    return True


@compile_loop
def substitute(factor, vector):
    """Solve L L^T x = vector in place."""
    n = len(factor)
    for i in range(n):
        for k in range(i):
            vector[i] -= factor[i, k] * vector[k]
        vector[i] /= factor[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            vector[i] -= factor[k, i] * vector[k]
        vector[i] /= factor[i, i]
