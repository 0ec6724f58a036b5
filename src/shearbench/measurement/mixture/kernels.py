"""The compiled loops of the mixture fits. In this module, lengths are in pixels.

Every derivative of a Gaussian N of covariance S is N times a polynomial of q = S^-1 delta:
dN/dcentre = N q and dN/dS = N (q q^T - S^-1)/2 (the heat equation). So one pass over the pixels gives the
value and its derivatives by the centre and by the three elements of the mean covariance. The chain rule to
(g1, g2, T) is applied to the 7 x 7 matrix of sums over pixels of their products, not to each pixel.

The loops are written so that the compiler vectorises them: rows are padded to whole vectors, there are no
branches, the exponential is a power of a polynomial, and a few rows are processed at a time (a block), so
that they stay in the first-level cache.

All compiled code of the fits is in this file, because numba's cache checks the age of a function's own file
only, not of the files with the functions that it calls.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.polynomial import Chebyshev, Polynomial

from shearbench.data.shapes import Flag

# As in ngmix, a Gaussian is cut off smoothly between squared Mahalanobis distances of 20 and 25. The cut-off
# is part of ngmix's likelihood: without it, sizes differ from ngmix's by 5e-6.
WINDOW_START = 20.0
WINDOW_END = 25.0

# The compiler may reorder sums, fuse operations and ignore signs of zero, but must keep NaN and infinity.
_COMPILE: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "arcp", "nsz"},
}
# Inner functions are inlined into their callers. Otherwise a process that compiles would run each function as
# compiled alone, and a process that loads from the cache as compiled with its caller: last bits would differ.
compile_loop = numba.njit(forceinline=True, **_COMPILE)
compile_entry = numba.njit(cache=True, **_COMPILE)

LANES = 8  # columns are processed in multiples of this number
SPAN = 512  # largest number of pixels of the block of rows that is processed together
VALUE, ROW, COL, VV, VU, UU = range(6)  # rows of a part in the matrix of sums; the data are the last row
ROLL = 1 / (WINDOW_END - WINDOW_START)
# The cut-off W(s) = s^3 (10 - 15 s + 6 s^2) has -2 dW/ddistance = _SLOPE s^2 (1 - s)^2.
_SLOPE = 60 * ROLL

# exp(-d/2) = p(d/64)^32 with p of degree 7: relative error below 2e-11 on [0, 25].
_GRID = WINDOW_END / 128 * (1 + np.cos(np.pi * (np.arange(512) + 0.5) / 512))
_P0, _P1, _P2, _P3, _P4, _P5, _P6, _P7 = (
    float(value)
    for value in Chebyshev.fit(_GRID, np.exp(-_GRID), 7, domain=[0, WINDOW_END / 64])
    .convert(kind=Polynomial)
    .coef
)

_GOOD, _BAD_PIXELS, _NOT_CONVERGED = int(Flag.GOOD), int(Flag.BAD_PIXELS), int(Flag.NOT_CONVERGED)
_SINGULAR, _OUT_OF_RANGE, _FAILED = int(Flag.SINGULAR), int(Flag.OUT_OF_RANGE), int(Flag.FAILED)

# Fits of galaxies.
EVALUATIONS = 100  # most evaluations of the model in an attempt
TOLERANCE = 1e-3  # a fit has converged if the next step is smaller than this fraction of the errors
ROUNDING = 1e-14  # rounding error of chi^2, as a fraction of the sum of the squared data
STALL = 1e-5  # ngmix's ftol and xtol, for slow fits: towards |g| = 1, or along a valley of chi^2
PATIENCE = 20  # evaluations before a fit may count as slow
MOMENTS = 3  # iterations of the weighted moments from which a fit starts
START_SIZES = (1.0, 1.0, 4.0)  # T that each attempt starts from, over the PSF's; the first if moments fail

# Fits of PSFs.
_PSF_EVALUATIONS = 300
_PSF_TOLERANCE = 1e-6  # converged if the next step reduces the residual's square by a smaller fraction
# Sizes and fluxes that a mixture starts from, over those of the best-fitting single Gaussian.
_SIZES = (
    (1.0, 0.0, 0.0, 0.0, 0.0),
    (0.7, 2.5, 0.0, 0.0, 0.0),
    (0.5, 1.4, 5.5, 0.0, 0.0),
    (0.4, 1.0, 2.5, 9.0, 0.0),
    (0.3, 0.7, 1.5, 4.0, 12.0),
)
_FLUXES = (
    (1.0, 0.0, 0.0, 0.0, 0.0),
    (0.7, 0.4, 0.0, 0.0, 0.0),
    (0.35, 0.6, 0.25, 0.0, 0.0),
    (0.25, 0.45, 0.3, 0.15, 0.0),
    (0.15, 0.3, 0.35, 0.2, 0.1),
)


@compile_loop
def derivatives(e, s, half, y, x, qvv, qvu, quu):
    """Return a Gaussian with its smooth cut-off, and its derivatives by the centre and the mean covariance.

    The function uses arithmetic only, so it works for numbers and for torch's tensors.

    Parameters
    ----------
    e : float
        The Gaussian without cut-off.
    s : float
        Position in the cut-off: 1 inside `WINDOW_START`, 0 at `WINDOW_END`.
    half : float
        Half the derivative of this Gaussian's covariance by the mean covariance.
    y, x : float
        q, the inverse covariance times the offset from the centre.
    qvv, qvu, quu : float
        Inverse covariance.
    """
    rise = s - s * s
    value = e * (s * s * s * (10.0 + s * (6.0 * s - 15.0)))
    # The derivatives by the distance include the slope of the cut-off.
    slope = value + _SLOPE * e * rise * rise
    a, sy, sx = half * value, slope * y, slope * x
    ay, ax = half * sy, half * sx
    return value, sy, sx, ay * y - a * qvv, 2.0 * (ay * x - a * qvu), ax * x - a * quu


@compile_loop
def add_gaussian(sums, top, rows, ny, nx, stride, v0, u0, weight, scale, vv, vu, uu):
    """Add one Gaussian and its derivatives to the images of a block of rows.

    Parameters
    ----------
    sums : ndarray of float64, shape (6 * SPAN,)
        Six images [rows, stride], each beginning at a multiple of SPAN: the value, the derivatives by the
        centre's row and column, and those by the three elements of the covariance.
    top, rows : int
        First row and number of rows of the block.
    ny, nx, stride : int
        Rows and columns of the stamp, and columns with padding.
    v0, u0 : float
        Centre (row, column) relative to the stamp's centre.
    weight : float
        Integral of the Gaussian.
    scale : float
        Derivative of this Gaussian's covariance by the mean covariance.
    vv, vu, uu : float
        Covariance.

    Returns
    -------
    bool
        Whether the Gaussian reaches the block.
    """
    det = vv * uu - vu * vu
    if not (det > 0 and vv > 0 and vv + uu < 1e12 and abs(v0) + abs(u0) < 1e6):
        return False
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
            s = min((WINDOW_END - distance) * ROLL, 1.0)
            t = distance * (1 / 64)
            e = _P0 + t * (_P1 + t * (_P2 + t * (_P3 + t * (_P4 + t * (_P5 + t * (_P6 + t * _P7))))))
            e *= e
            e *= e
            e *= e
            e *= e
            e *= e
            value, by_v, by_u, by_vv, by_vu, by_uu = derivatives(peak * e, s, half, y, x, qvv, qvu, quu)
            out[j] += value
            out[j + SPAN] += by_v
            out[j + 2 * SPAN] += by_u
            out[j + 3 * SPAN] += by_vv
            out[j + 4 * SPAN] += by_vu
            out[j + 5 * SPAN] += by_uu
    return touched


@compile_loop
def _clear_padding(sums, rows, nx, stride):
    for start in range(0, sums.size, SPAN):
        for row in range(rows):
            sums[start + row * stride + nx : start + (row + 1) * stride] = 0.0


@compile_loop
def correlate(image, ny, nx, stride, v0, u0, means, tables, sums, matrix):
    """Sum over pixels the products of model parts of unit flux, their derivatives, and the data.

    Parameters
    ----------
    image : ndarray of float64, shape (ny * stride,)
        Data, zero in the padding.
    ny, nx, stride : int
    v0, u0 : float
        Centre.
    means : ndarray of float64, shape (p, 3)
        Mean covariance of each part: row-row, row-column, column-column.
    tables : ndarray of float64, shape (p, k, 5)
        For each Gaussian of a part: share of the flux, factor of the part's mean covariance, covariance of
        the PSF.
    sums : ndarray of float64, shape (p * 6 * SPAN,)
        Work space.
    matrix : ndarray of float64, shape (6 p + 1, 6 p + 1)
        Output: the upper triangle, without the square of the data.

    Returns
    -------
    bool
        Whether all covariances are positive definite; if not, `matrix` is not written.
    """
    parts, count = tables.shape[0], tables.shape[1]
    covariances = np.empty((parts, count, 3))
    for p in range(parts):
        for k in range(count):
            for i in range(3):
                covariances[p, k, i] = tables[p, k, 1] * means[p, i] + tables[p, k, 2 + i]
            vv, vu, uu = covariances[p, k]
            if not (vv > 0 and uu > 0 and vv * uu - vu * vu > 1e-10 * vv * uu):
                return False
    matrix[:] = 0.0
    height = SPAN // stride
    for top in range(0, ny, height):
        rows = min(height, ny - top)
        sums[:] = 0.0
        touched = False
        for p in range(parts):
            part = sums[6 * SPAN * p : 6 * SPAN * (p + 1)]
            for k in range(count):
                weight, scale = tables[p, k, 0], tables[p, k, 1]
                if weight == 0:
                    continue
                vv, vu, uu = covariances[p, k]
                touched |= add_gaussian(part, top, rows, ny, nx, stride, v0, u0, weight, scale, vv, vu, uu)
        if not touched:
            continue
        if stride > nx:
            _clear_padding(sums, rows, nx, stride)
        if parts == 1:
            _add_products(sums, image[top * stride :], rows * stride, matrix)
        else:
            _add_more_products(sums, image[top * stride :], rows * stride, matrix)
    return True


@compile_loop
def _add_more_products(sums, data, count, matrix):
    """Add products as `_add_products` does, for any number of parts."""
    size = len(matrix) - 1
    for a in range(size):
        first = sums[a * SPAN :]
        for b in range(a, size):
            second, total = sums[b * SPAN :], 0.0
            for n in range(count):
                total += first[n] * second[n]
            matrix[a, b] += total
        total = 0.0
        for n in range(count):
            total += first[n] * data[n]
        matrix[a, size] += total


@compile_loop
def project(image, ny, nx, stride, v0, u0, vv, vu, uu, sums, totals):
    """Sum over pixels the products of the data with one normalised Gaussian and its derivatives.

    Parameters are those of `correlate`; the sums are written to `totals`, shape (6,).
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
def reweighted(totals, v0, u0, wvv, wvu, wuu, ny, nx):
    """Return the next centre and weight of `weighted_moments`, and whether they are plausible.

    `totals` are from `project`. The function uses arithmetic only, as `derivatives` does.
    """
    # The sums with the derivatives give the moments: the mean is W q, the second moment W + W h W.
    qv, qu = totals[1] / totals[0], totals[2] / totals[0]
    hvv, hvu, huu = 2 * totals[3] / totals[0], totals[4] / totals[0], 2 * totals[5] / totals[0]
    dv, du = wvv * qv + wvu * qu, wvu * qv + wuu * qu
    avv, avu = wvv * hvv + wvu * hvu, wvv * hvu + wvu * huu
    auv, auu = wvu * hvv + wuu * hvu, wvu * hvu + wuu * huu
    mvv = wvv + avv * wvv + avu * wvu - dv * dv
    mvu = wvu + avv * wvu + avu * wuu - dv * du
    muu = wuu + auv * wvu + auu * wuu - du * du
    det_m, det_w = mvv * muu - mvu * mvu, wvv * wuu - wvu * wvu
    ivv, ivu, iuu = muu / det_m - wuu / det_w, wvu / det_w - mvu / det_m, mvv / det_m - wvv / det_w
    det = ivv * iuu - ivu * ivu
    fv, fu = (muu * dv - mvu * du) / det_m, (mvv * du - mvu * dv) / det_m
    plausible = (totals[0] > 0) & (mvv > 0) & (det_m > 0) & (ivv > 0)
    plausible = plausible & (det > 1e-3 * ivv * iuu) & (ivv + iuu > 8 / (ny * nx))
    wvv, wvu, wuu = iuu / det, -ivu / det, ivv / det
    v0, u0 = v0 + wvv * fv + wvu * fu, u0 + wvu * fv + wuu * fu
    plausible = plausible & (abs(v0) < 0.25 * ny) & (abs(u0) < 0.25 * nx)
    return v0, u0, wvv, wvu, wuu, plausible


@compile_loop
def weighted_moments(image, ny, nx, stride, variance, passes, sums, found):
    """Measure the centre and covariance of an image by weighted moments.

    For a Gaussian image of covariance S and a Gaussian weight of covariance W, the weighted covariance M
    obeys 1/M = 1/S + 1/W, and the weighted mean is M/S times the centre: so S and the centre follow exactly.
    The weight of each iteration is the result of the one before (adaptive moments: Bernstein & Jarvis 2002,
    AJ 123, 583, section 3).

    Parameters
    ----------
    image, ny, nx, stride, sums
        See `correlate`.
    variance : float
        Variance of the first weight, which is round and at the stamp's centre.
    passes : int
        Number of iterations.
    found : ndarray of float64, shape (5,)
        Output: row, column, covariance.

    Returns
    -------
    bool
        Whether all iterations gave plausible results.
    """
    totals = np.empty(6)
    v0 = u0 = wvu = 0.0
    wvv = wuu = variance
    for _ in range(passes):
        project(image, ny, nx, stride, v0, u0, wvv, wvu, wuu, sums, totals)
        v0, u0, wvv, wvu, wuu, plausible = reweighted(totals, v0, u0, wvv, wvu, wuu, ny, nx)
        if not plausible:
            return False
    found[0], found[1], found[2], found[3], found[4] = v0, u0, wvv, wvu, wuu
    return True


@compile_loop
def shape_of(vv, vu, uu):
    """Return (g1, g2) of a covariance, with |g| limited to 0.63, as the starting point of a fit."""
    e1, e2 = (uu - vv) / (uu + vv), 2 * vu / (uu + vv)
    e = math.sqrt(e1 * e1 + e2 * e2)
    kept = min(e, 0.9)
    fall = kept / max(e, 1e-300) / (1 + math.sqrt(1 - kept * kept))
    return fall * e1, fall * e2


@compile_loop
def _add_products(sums, data, count, matrix):
    # Written out instead of looped over, so that all 27 sums stay in registers.
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
    """Write the derivatives of the mean covariance (vv, vu, uu) by (g1, g2, T), shape (3, 3)."""
    fall = 2 / (1 + g1 * g1 + g2 * g2)
    e1, e2, half = fall * g1, fall * g2, 0.5 * size
    d11, d12, d22 = fall - e1 * e1, -e1 * e2, fall - e2 * e2
    jacobian[0, 0], jacobian[1, 0], jacobian[2, 0] = -half * d11, half * d12, half * d11
    jacobian[0, 1], jacobian[1, 1], jacobian[2, 1] = -half * d12, half * d22, half * d12
    jacobian[0, 2], jacobian[1, 2], jacobian[2, 2] = 0.5 * (1 - e1), 0.5 * e2, 0.5 * (1 + e1)


@compile_loop
def cholesky(matrix, factor):
    """Write the lower Cholesky factor; return whether the matrix is numerically positive definite."""
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


@compile_loop
def _descend(factor, gradient, step):
    """Write the step that solves L L^T step = -gradient."""
    for i in range(len(step)):
        step[i] = -gradient[i]
    substitute(factor, step)


@compile_loop
def _dot(a, b):
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@compile_entry
def fit_coelliptical(images, count, threshold, mixtures, core, centre, residual, good):
    """Fit PSF images with Gaussians that share centre and shape.

    Parameters
    ----------
    images : ndarray of float32, shape (m, ny, nx)
    count : int
        Gaussians, 1 to 5.
    threshold : float
        A single Gaussian is used if its residual (rms) is at most this fraction of the image's rms.
    mixtures : ndarray of float64, shape (m, count, 4)
        Output: share of the flux and covariance (row-row, row-column, column-column). If a single Gaussian is
        used, the others have no flux.
    core : ndarray of float64, shape (m, 3)
        Output: covariance of the best-fitting single Gaussian.
    centre : ndarray of float64, shape (m, 2)
        Output: row and column of the mixture's centre, relative to the image's centre.
    residual : ndarray of float64, shape (m,)
        Output: rms of image minus mixture over rms of the image.
    good : ndarray of bool, shape (m,)
        Output: whether the fits succeeded: a single Gaussian was fitted, and the mixture is at least as good.
    """
    m, ny, nx = images.shape
    stride = (nx + LANES - 1) // LANES * LANES
    image = np.zeros(ny * stride)
    sums = np.empty(6 * SPAN * count)
    found = np.empty(5)
    for i in range(m):
        square = peak = 0.0
        for row in range(ny):
            for col in range(nx):
                value = np.float64(images[i, row, col])
                image[row * stride + col] = value
                square += value * value
                peak = max(peak, value)
        good[i] = False
        mixtures[i] = np.nan
        core[i] = centre[i] = residual[i] = np.nan
        if not (math.isfinite(square) and weighted_moments(image, ny, nx, stride, 4.0, 4, sums, found)):
            continue
        pars = np.empty(6)
        pars[0], pars[1], pars[4] = found[0], found[1], found[2] + found[4]
        pars[2], pars[3] = shape_of(found[2], found[3], found[4])
        pars[5] = 2 * math.pi * math.sqrt(found[2] * found[4] - found[3] ** 2) * peak
        cost, converged = _fit_psf(image, ny, nx, stride, square, pars, sums)
        single = cost
        covariance_of(pars[2], pars[3], pars[4], core[i])
        kept = 1
        if count > 1 and math.sqrt(cost / square) > threshold:
            more = np.empty(4 + 2 * count)
            for k in range(4):
                more[k] = pars[k]
            for k in range(count):
                more[4 + k] = pars[4] * _SIZES[count - 1][k]
                more[4 + count + k] = pars[5] * _FLUXES[count - 1][k]
            cost, _ = _fit_psf(image, ny, nx, stride, square, more, sums)
            pars, kept = more, count
        total = 0.0
        for k in range(kept):
            total += pars[4 + kept + k]
        centre[i, 0], centre[i, 1] = pars[0], pars[1]
        residual[i] = math.sqrt(cost / square)
        # Fits of several Gaussians may converge slowly along a valley of equally good mixtures; any is good.
        good[i] = converged and total > 0 and cost <= single
        mixtures[i] = 0.0
        for k in range(count):
            covariance_of(pars[2], pars[3], pars[4 + min(k, kept - 1)], mixtures[i, k, 1:])
            mixtures[i, k, 0] = pars[4 + kept + k] / total if k < kept else 0.0


@compile_loop
def covariance_of(g1, g2, size, out):
    """Write the covariance (vv, vu, uu) of a profile of shape (g1, g2) and size T."""
    fall, half = 2 / (1 + g1 * g1 + g2 * g2), 0.5 * size
    out[0], out[1], out[2] = half * (1 - fall * g1), half * fall * g2, half * (1 + fall * g1)


@compile_loop
def _psf_products(image, ny, nx, stride, pars, sums, rows, matrix):
    """Write the products of the derivatives by the parameters and of the residual, which is the last."""
    count = (len(pars) - 4) // 2
    n = len(pars)
    jacobian, cov = np.empty((3, 3)), np.empty(3)
    matrix[:] = 0.0
    height = SPAN // stride
    for top in range(0, ny, height):
        tall = min(height, ny - top)
        pixels = tall * stride
        sums[:] = 0.0
        rows[:] = 0.0
        data = image[top * stride :]
        for j in range(pixels):
            rows[n, j] = -data[j]
        for k in range(count):
            size, flux = pars[4 + k], pars[4 + count + k]
            part = sums[6 * SPAN * k : 6 * SPAN * (k + 1)]
            covariance_of(pars[2], pars[3], size, cov)
            add_gaussian(part, top, tall, ny, nx, stride, pars[0], pars[1], 1.0, 1.0, cov[0], cov[1], cov[2])
            if stride > nx:
                for row in range(tall):
                    for quantity in range(6):
                        start = quantity * SPAN + row * stride
                        part[start + nx : start + stride] = 0.0
            chain(pars[2], pars[3], size, jacobian)
            for j in range(pixels):
                value = part[VALUE * SPAN + j]
                vv, vu, uu = part[VV * SPAN + j], part[VU * SPAN + j], part[UU * SPAN + j]
                rows[0, j] += flux * part[ROW * SPAN + j]
                rows[1, j] += flux * part[COL * SPAN + j]
                rows[2, j] += flux * (vv * jacobian[0, 0] + vu * jacobian[1, 0] + uu * jacobian[2, 0])
                rows[3, j] += flux * (vv * jacobian[0, 1] + vu * jacobian[1, 1] + uu * jacobian[2, 1])
                rows[4 + k, j] = flux * (vv * jacobian[0, 2] + vu * jacobian[1, 2] + uu * jacobian[2, 2])
                rows[4 + count + k, j] = value
                rows[n, j] += flux * value
        for a in range(n + 1):
            for b in range(a + 1):
                total = 0.0
                for j in range(pixels):
                    total += rows[a, j] * rows[b, j]
                matrix[a, b] += total
                matrix[b, a] = matrix[a, b]


@compile_loop
def _fit_psf(image, ny, nx, stride, square, pars, sums):
    """Fit the parameters, in place, by Levenberg-Marquardt; return the residual's square, and convergence."""
    n = len(pars)
    count = (n - 4) // 2
    rows = np.empty((n + 1, SPAN))
    matrix, trial_matrix = np.empty((n + 1, n + 1)), np.empty((n + 1, n + 1))
    damped, factor, step, trial = np.empty((n, n)), np.empty((n, n)), np.empty(n), np.empty(n)
    _psf_products(image, ny, nx, stride, pars, sums, rows, matrix)
    damping = 1e-3
    for _ in range(_PSF_EVALUATIONS):
        for i in range(n):
            step[i] = -matrix[i, n]
            for j in range(n):
                damped[i, j] = matrix[i, j]
            damped[i, i] *= 1 + damping
        if cholesky(damped, factor):
            substitute(factor, step)
            predicted = 0.0
            allowed = True
            for i in range(n):
                predicted += step[i] * (damping * matrix[i, i] * step[i] - matrix[i, n])
                trial[i] = pars[i] + step[i]
                if 4 <= i < 4 + count:
                    allowed &= trial[i] > 0
            allowed &= trial[2] ** 2 + trial[3] ** 2 < 1
            small = predicted <= _PSF_TOLERANCE * matrix[n, n] + ROUNDING * square
            if allowed:
                _psf_products(image, ny, nx, stride, trial, sums, rows, trial_matrix)
                fall = matrix[n, n] - trial_matrix[n, n]
                if fall > 0:
                    for i in range(n):
                        pars[i] = trial[i]
                    matrix, trial_matrix = trial_matrix, matrix
                    damping *= 0.1 if fall > 0.5 * predicted else 1.0
                    if small and fall <= 2 * predicted and damping < 1e-2:
                        return matrix[n, n], True
                    continue
            if small:
                return matrix[n, n], True
        damping = 10 * max(damping, 1e-4)
        if damping > 1e12:
            break
    return matrix[n, n], False


@compile_entry
def fit_stamps(
    images, tables, psf, centres, precision, prior, bounds, sizes, pars, covariances, quality, flags
):
    """Fit a profile of p parts, with the same centre and shape, to each stamp.

    Parameters
    ----------
    images : ndarray of float32, shape (n, ny, nx)
    tables : ndarray of float64, shape (1 or n, p, k, 5)
        The convolved Gaussians of each part, see `shearbench.measurement.mixture.kernels.correlate`.
    psf : ndarray of float64, shape (1 or n, 3)
        Covariance of the PSF's core, from which the fit starts; NaN if the PSF could not be fitted.
    centres : ndarray of float64, shape (1 or n, 2)
        Row and column of the PSF's centre, about which the prior of the centre is.
    precision : float
        Inverse variance of a pixel.
    prior : ndarray of float64, shape (3,)
        1 with a prior, else 0; the prior's widths in the centre and in the shape.
    bounds : ndarray of float64, shape (4,)
        Smallest and largest T allowed, smallest and largest flux allowed.
    sizes : ndarray of float64, shape (p,)
        T of each part over that of the best-fitting single Gaussian, approximately.
    pars : ndarray of float64, shape (n, 4 + 2 p)
        Output: row, col, g1, g2, the T of all parts, the fluxes of all parts; NaN if the fit failed.
    covariances : ndarray of float64, shape (n, 4 + 2 p, 4 + 2 p)
        Output: covariances of `pars`.
    quality : ndarray of float64, shape (n, 2)
        Output: chi^2 per degree of freedom, and the number of evaluations of the model.
    flags : ndarray of int64, shape (n,)
        Output: `Flag` bits.
    """
    n, ny, nx = images.shape
    stride = (nx + LANES - 1) // LANES * LANES
    image = np.zeros(ny * stride)
    sums = np.empty(6 * SPAN * len(sizes))
    x = np.empty(4 + len(sizes))
    centred = np.empty(5)
    centred[:3] = prior
    for i in range(n):
        centred[3:] = centres[min(i, len(centres) - 1)]
        square = load(images[i], stride, image)
        table, core = tables[min(i, len(tables) - 1)], psf[min(i, len(psf) - 1)]
        flags[i] = _BAD_PIXELS if math.isfinite(core[0]) else _FAILED
        evaluations = 0.0
        if math.isfinite(square) and math.isfinite(core[0]):
            for attempt in range(len(START_SIZES)):
                _start(attempt, image, ny, nx, stride, core, sizes, sums, x)
                flags[i] = _fit_galaxy(
                    image, ny, nx, stride, square, table, precision, centred, bounds, sums, x,
                    pars[i], covariances[i], quality[i],
                )  # fmt: skip
                evaluations += quality[i, 1]
                if flags[i] == _GOOD:
                    break
        quality[i, 1] = evaluations
        if flags[i] != _GOOD:
            pars[i] = np.nan
            covariances[i] = np.nan
            quality[i, 0] = np.nan


@compile_loop
def load(pixels, stride, image):
    """Copy an image [ny, nx] into padded rows; return the sum of its squared pixels."""
    square = 0.0
    for row in range(pixels.shape[0]):
        for col in range(pixels.shape[1]):
            value = np.float64(pixels[row, col])
            image[row * stride + col] = value
            square += value * value
    return square


@compile_loop
def allowed(pars, bounds):
    """Return whether all T and fluxes are within their bounds, and |g| < 1."""
    parts = (len(pars) - 4) // 2
    inside = pars[2] * pars[2] + pars[3] * pars[3] < 1
    for p in range(parts):
        inside &= bounds[0] <= pars[4 + p] <= bounds[1]
        inside &= bounds[2] <= pars[4 + parts + p] <= bounds[3]
    return inside


@compile_loop
def _start(attempt, image, ny, nx, stride, psf, sizes, sums, x):
    """Write the starting point of an attempt to x: row, col, g1, g2 and the T of all parts.

    The first attempt starts from the weighted moments, minus those of the PSF. Later attempts start from
    round galaxies at the centre, first of the PSF's size, then of twice its size.
    """
    round_size = psf[0] + psf[2]
    found = np.zeros(5)
    x[:] = 0.0
    size = round_size * START_SIZES[attempt] / sizes[len(sizes) // 2]
    if attempt == 0 and weighted_moments(image, ny, nx, stride, 2 * round_size, MOMENTS, sums, found):
        vv, vu, uu = found[2] - psf[0], found[3] - psf[1], found[4] - psf[2]
        x[0], x[1] = found[0], found[1]
        size = max(vv + uu, 0.1 * round_size)
        if vv + uu > 0.1 * round_size:
            x[2], x[3] = shape_of(vv, vu, uu)
    for p in range(len(sizes)):
        x[4 + p] = size * sizes[p]


@compile_loop
def _penalty(x, prior):
    """Return -2 ln p of the prior."""
    return minus_two_ln(x, prior, math.log1p(-x[2] * x[2] - x[3] * x[3])) if prior[0] != 0 else 0.0


@compile_loop
def minus_two_ln(x, prior, ln_rest):
    """Return -2 ln p of the prior, given ln(1 - g^2).

    `prior` ends with the row and column about which the prior of the centre is.

    The prior is Gaussian in the centre, and that of Bernstein & Armstrong 2014, eq. 24, in the shape. The
    function uses arithmetic only, as `derivatives` does.
    """
    row, col = x[0] - prior[3], x[1] - prior[4]
    centre = (row * row + col * col) / prior[1] ** 2
    return centre + (x[2] * x[2] + x[3] * x[3]) / prior[2] ** 2 - 4 * ln_rest


@compile_loop
def _evaluate(image, ny, nx, stride, tables, bounds, sums, x, matrix, flux):
    """Write the matrix of products at x and the best fluxes; return whether x and the fluxes are allowed."""
    parts = len(flux)
    if not x[2] * x[2] + x[3] * x[3] < 1:
        return False
    means = np.empty((parts, 3))
    for p in range(parts):
        if not bounds[0] <= x[4 + p] <= bounds[1]:
            return False
        covariance_of(x[2], x[3], x[4 + p], means[p])
    if not correlate(image, ny, nx, stride, x[0], x[1], means, tables, sums, matrix):
        return False
    data = len(matrix) - 1
    if parts == 1:
        flux[0] = matrix[VALUE, data] / matrix[VALUE, VALUE]
    else:
        square, factor = np.empty((parts, parts)), np.empty((parts, parts))
        for p in range(parts):
            flux[p] = matrix[6 * p, data]
            for q in range(parts):
                square[p, q] = matrix[6 * min(p, q), 6 * max(p, q)]
        if not cholesky(square, factor):
            return False
        substitute(factor, flux)
    fine = True
    for p in range(parts):
        fine &= math.isfinite(flux[p]) and bounds[2] <= flux[p] <= bounds[3]
    return fine


@compile_loop
def _equations(x, flux, matrix, precision, prior, basis, products, gradient, hessian):
    """Write half the gradient (P,) and half the Gauss-Newton Hessian (P, P) of chi^2 plus prior."""
    parts, size = len(flux), len(matrix) - 1
    many = 4 + 2 * parts
    jacobian = np.empty((3, 3))
    basis[:] = 0.0
    for p in range(parts):
        chain(x[2], x[3], x[4 + p], jacobian)
        first = 6 * p
        basis[0, first + ROW] = basis[1, first + COL] = flux[p]
        for j in range(3):
            basis[2, first + VV + j] = flux[p] * jacobian[j, 0]
            basis[3, first + VV + j] = flux[p] * jacobian[j, 1]
            basis[4 + p, first + VV + j] = flux[p] * jacobian[j, 2]
        basis[4 + parts + p, first] = 1.0
    for a in range(size):
        for b in range(a):
            matrix[a, b] = matrix[b, a]
    for i in range(many):
        for b in range(size):
            products[i, b] = 0.0
        for a in range(size):
            if basis[i, a] != 0:
                for b in range(size):
                    products[i, b] += basis[i, a] * matrix[a, b]
        pull = 0.0
        for p in range(parts):
            pull += products[i, 6 * p] * flux[p]
        for a in range(size):
            pull -= basis[i, a] * matrix[a, size]
        gradient[i] = precision * pull
        for j in range(i + 1):
            total = 0.0
            for b in range(size):
                total += products[i, b] * basis[j, b]
            hessian[i, j] = hessian[j, i] = precision * total
    if prior[0] != 0:
        add_prior(x, prior, gradient, hessian)


@compile_loop
def add_prior(x, prior, gradient, hessian):
    """Add the prior's part to half the gradient and half the Hessian, with arithmetic only."""
    for i in range(2):
        gradient[i] += (x[i] - prior[3 + i]) / prior[1] ** 2
        hessian[i, i] += 1 / prior[1] ** 2
    rest = 1 - x[2] * x[2] - x[3] * x[3]
    pull = 1 / prior[2] ** 2 + 4 / rest
    for i in range(2, 4):
        gradient[i] += pull * x[i]
        hessian[i, i] += pull
        for j in range(2, 4):
            hessian[i, j] += 8 * x[i] * x[j] / rest**2


@compile_loop
def _fit_galaxy(
    image, ny, nx, stride, square, tables, precision, prior, bounds, sums, x, pars, covariance, quality
):
    """Fit one stamp, starting from x.

    The model is linear in the fluxes, which have their best values for each x (variable projection, in
    Kaufman's approximation: BIT 15, 49, 1975). The other parameters take damped Gauss-Newton steps (Marquardt
    1963) until the next step is below `TOLERANCE` times the errors, or changes chi^2 by less than its
    rounding error. That last step is still taken, without another evaluation, so the result is more accurate
    than the test demands.
    """
    quality[0] = quality[1] = np.nan
    parts = len(tables)
    free, many, size = 4 + parts, 4 + 2 * parts, 6 * parts
    matrix, trial_matrix = np.empty((size + 1, size + 1)), np.empty((size + 1, size + 1))
    basis, products = np.empty((many, size)), np.empty((many, size))
    gradient, hessian = np.empty(many), np.empty((many, many))
    damped, factor = np.empty((many, many)), np.empty((many, many))
    step, trial = np.empty(many), np.empty(free)
    flux, trial_flux = np.empty(parts), np.empty(parts)
    freedom = ny * nx - many
    quality[1] = 1.0
    if not _evaluate(image, ny, nx, stride, tables, bounds, sums, x, matrix, flux):
        return _OUT_OF_RANGE
    chi2 = precision * _unexplained(square, flux, matrix)
    cost = chi2 + _penalty(x, prior)
    _equations(x, flux, matrix, precision, prior, basis, products, gradient, hessian)
    damping = 1e-4
    for evaluation in range(2, EVALUATIONS):
        regular = cholesky(hessian, factor)
        if regular:
            _descend(factor, gradient, step)
            decrement = -_dot(step, gradient)
            if decrement <= TOLERANCE**2 * chi2 / freedom + ROUNDING * precision * square:
                break
        for i in range(many):
            for j in range(i):
                damped[i, j] = hessian[i, j]
            damped[i, i] = hessian[i, i] * (1 + damping if i < free else 1)
        if not cholesky(damped, factor):
            damping = 10 * max(damping, 1e-3)
            if damping > 1e12:
                return _SINGULAR
            continue
        _descend(factor, gradient, step)
        predicted = -_dot(step, gradient)
        for i in range(free):
            predicted += damping * hessian[i, i] * step[i] * step[i]
            trial[i] = x[i] + step[i]
        quality[1] = evaluation
        fall = -1.0
        if _evaluate(image, ny, nx, stride, tables, bounds, sums, trial, trial_matrix, trial_flux):
            trial_chi2 = precision * _unexplained(square, trial_flux, trial_matrix)
            fall = cost - trial_chi2 - _penalty(trial, prior)
        if fall > 0:
            x[:] = trial
            chi2 = trial_chi2
            cost = chi2 + _penalty(x, prior)
            matrix, trial_matrix = trial_matrix, matrix
            flux, trial_flux = trial_flux, flux
            _equations(x, flux, matrix, precision, prior, basis, products, gradient, hessian)
            damping *= 0.1 if fall > 0.75 * predicted else (0.5 if fall > 0.25 * predicted else 2.0)
            stalled = evaluation > PATIENCE and max(fall, predicted) <= STALL * cost
        else:
            damping = 10 * max(damping, 1e-3)
            length = norm = 0.0
            for i in range(free):
                length += hessian[i, i] * step[i] * step[i]
                norm += hessian[i, i] * x[i] * x[i]
            stalled = length <= STALL**2 * norm
        if stalled:
            if not cholesky(hessian, factor):
                return _SINGULAR
            step[:] = 0.0
            decrement = 0.0
            break
    else:
        return _NOT_CONVERGED
    before = _penalty(x, prior)
    for i in range(free):
        x[i] += step[i]
        pars[i] = x[i]
    for p in range(parts):
        pars[free + p] = flux[p] + step[free + p]
    if not allowed(pars, bounds):
        return _OUT_OF_RANGE
    chi2 = max(chi2 - decrement + before - _penalty(x, prior), 0.0)
    quality[0] = chi2 / freedom
    if prior[0] != 0:
        quote_prior(x, prior, math.log1p(-x[2] * x[2] - x[3] * x[3]), hessian)
        if not cholesky(hessian, factor):
            return _SINGULAR
    for i in range(many):
        step[:] = 0.0
        step[i] = 1.0
        substitute(factor, step)
        for j in range(many):
            covariance[i, j] = step[j] * quality[0]
    return _GOOD


@compile_loop
def _unexplained(square, flux, matrix):
    """Return the sum of squares of data minus model at the best fluxes; `square` is that of the data."""
    for p in range(len(flux)):
        square -= flux[p] * matrix[6 * p, len(matrix) - 1]
    return square


@compile_loop
def quote_prior(x, prior, ln_rest, hessian):
    """Replace the prior's curvature in the shape by that from which errors are computed.

    As in ngmix, the prior of the shape counts as one more residual, sqrt(-2 ln p), beside those of the
    pixels. It has a curvature along the shape but not across it. `ln_rest` is ln(1 - g^2). The function uses
    arithmetic only, as `derivatives` does.
    """
    gg = x[2] * x[2] + x[3] * x[3]
    rest = 1 - gg
    pull = 1 / prior[2] ** 2 + 4 / rest
    ratio = pull * pull / (gg / prior[2] ** 2 - 4 * ln_rest + 1e-300)  # x is zero where the rest is
    for i in range(2, 4):
        hessian[i, i] -= pull
        for j in range(2, 4):
            hessian[i, j] += (ratio - 8 / rest**2) * x[i] * x[j]
