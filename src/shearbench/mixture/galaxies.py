"""Levenberg-Marquardt fits of galaxies, compiled. Lengths in pixels, rows and columns from the stamp's centre."""

from __future__ import annotations

import math

import numpy as np

from shearbench.estimators.base import Flag
from shearbench.mixture.kernels import (
    COL,
    DATA,
    LANES,
    ROW,
    SPAN,
    UU,
    VALUE,
    VU,
    VV,
    chain,
    cholesky,
    compile_loop,
    correlate,
    project,
    substitute,
)

_GOOD = int(Flag.GOOD)
_NOT_CONVERGED = int(Flag.NOT_CONVERGED)
_SINGULAR = int(Flag.SINGULAR)
_OUT_OF_RANGE = int(Flag.OUT_OF_RANGE)
_BAD_PIXELS = int(Flag.BAD_PIXELS)

_EVALUATIONS = 100
_TOLERANCE = 1e-3
_ROUNDING = 1e-14
_STALL = 1e-5
_PATIENCE = 20
_MOMENTS = 2
_STARTS = 3


@compile_loop
def fit_stamps(images, tables, psf, precision, prior, bounds, concentration, pars, covariances, quality, flags):
    """Fit every stamp by itself.

    Parameters
    ----------
    images : ndarray of float32, shape (n, ny, nx)
    tables : ndarray of float64, shape (1 or n, k, 5)
        The convolved Gaussians, see `shearbench.mixture.kernels.correlate`.
    psf : ndarray of float64, shape (1 or n, 3)
        Covariance of the PSF's core, which the fit starts from.
    precision : float
        Inverse variance of a pixel.
    prior : ndarray of float64, shape (3,)
        1 or 0 for a prior or none, the width of its centre, and of its shape.
    bounds : ndarray of float64, shape (4,)
        Least and greatest T and flux allowed.
    concentration : float
        T of a galaxy over that of the Gaussian that fits it best, about.
    pars : ndarray of float64, shape (n, 6)
        Filled: row, col, g1, g2, T, flux; NaN where a fit fails.
    covariances : ndarray of float64, shape (n, 6, 6)
        Filled: their covariances.
    quality : ndarray of float64, shape (n, 2)
        Filled: chi^2 per degree of freedom, evaluations of the model.
    flags : ndarray of int64, shape (n,)
        Filled: `Flag` bits.
    """
    n, ny, nx = images.shape
    stride = (nx + LANES - 1) // LANES * LANES
    image = np.zeros(ny * stride)
    sums = np.empty(6 * SPAN)
    x = np.empty(5)
    for i in range(n):
        square = 0.0
        for row in range(ny):
            for col in range(nx):
                value = np.float64(images[i, row, col])
                image[row * stride + col] = value
                square += value * value
        flags[i] = _BAD_PIXELS
        if math.isfinite(square):
            table, core = tables[min(i, len(tables) - 1)], psf[min(i, len(psf) - 1)]
            evaluations = 0.0
            for attempt in range(_STARTS):
                _start(attempt, image, ny, nx, stride, core, concentration, sums, x)
                flags[i] = _fit(
                    image, ny, nx, stride, square, table, precision, prior, bounds, sums, x,
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
def _start(attempt, image, ny, nx, stride, psf, concentration, sums, x):
    """Fill x with the parameters (row, col, g1, g2, T) to start from.

    First from moments weighted with a Gaussian. For a Gaussian image of covariance S and a weight of
    covariance W the weighted moments M obey 1/M = 1/S + 1/W, which gives S exactly (Bernstein & Jarvis 2002,
    AJ 123, 583, section 3); the PSF's are then subtracted. Later attempts start from round galaxies of the
    PSF's size and of twice its size.
    """
    round_size = psf[0] + psf[2]
    x[:] = 0.0
    x[4] = round_size * (1.0, 1.0, 4.0)[attempt]
    if attempt > 0:
        return
    totals = np.empty(6)
    v0 = u0 = 0.0
    wvv, wvu, wuu = 2 * round_size, 0.0, 2 * round_size
    for _ in range(_MOMENTS):
        project(image, ny, nx, stride, v0, u0, wvv, wvu, wuu, sums, totals)
        if not totals[0] > 0:
            return
        # The derivatives hold the moments: W q for the first, 2 W (dN/dS) W + W N for the second.
        qv, qu = totals[1] / totals[0], totals[2] / totals[0]
        dv, du = wvv * qv + wvu * qu, wvu * qv + wuu * qu
        hvv, hvu, huu = 2 * totals[3] / totals[0], totals[4] / totals[0], 2 * totals[5] / totals[0]
        # In units of W: 1/M - 1/W = W^-1/2 ((1 + h)^-1 - 1) W^-1/2, so S = W^(1/2) ... written with W h = a.
        avv, avu = wvv * hvv + wvu * hvu, wvv * hvu + wvu * huu
        auv, auu = wvu * hvv + wuu * hvu, wvu * hvu + wuu * huu
        mvv = wvv + avv * wvv + avu * wvu - dv * dv
        mvu = wvu + avv * wvu + avu * wuu - dv * du
        muu = wuu + auv * wvu + auu * wuu - du * du
        det_m, det_w = mvv * muu - mvu * mvu, wvv * wuu - wvu * wvu
        if not (mvv > 0 and det_m > 0):
            return
        ivv, ivu, iuu = muu / det_m - wuu / det_w, -mvu / det_m + wvu / det_w, mvv / det_m - wvv / det_w
        det_i = ivv * iuu - ivu * ivu
        if not (ivv > 0 and det_i > 1e-3 * ivv * iuu and ivv + iuu > 8 / (nx * nx)):
            return
        wvv, wvu, wuu = iuu / det_i, -ivu / det_i, ivv / det_i
        # S M^-1 times the weighted mean is the centre's shift.
        fv, fu = (muu * dv - mvu * du) / det_m, (mvv * du - mvu * dv) / det_m
        v0 += wvv * fv + wvu * fu
        u0 += wvu * fv + wuu * fu
        if not (abs(v0) < 0.25 * ny and abs(u0) < 0.25 * nx):
            return
    cvv, cvu, cuu = wvv - psf[0], wvu - psf[1], wuu - psf[2]
    size = max(cvv + cuu, 0.1 * round_size)
    e1, e2 = (cuu - cvv) / size, 2 * cvu / size
    e = math.sqrt(e1 * e1 + e2 * e2)
    shrink = min(1.0, 0.9 / max(e, 1e-300))
    e = min(e, 0.9)
    fall = shrink / (1 + math.sqrt(1 - e * e))
    x[0], x[1], x[2], x[3], x[4] = v0, u0, fall * e1, fall * e2, concentration * size


@compile_loop
def _penalty(x, prior):
    """Return -2 ln p of the prior: Gaussian in the centre; Bernstein & Armstrong 2014 (eq. 24) in the shape."""
    if prior[0] == 0:
        return 0.0
    gg = x[2] * x[2] + x[3] * x[3]
    return (x[0] * x[0] + x[1] * x[1]) / prior[1] ** 2 + gg / prior[2] ** 2 - 4 * math.log1p(-gg)


@compile_loop
def _evaluate(image, ny, nx, stride, table, bounds, sums, x, matrix):
    """Fill the matrix of products at x; return the best flux, NaN where x is not allowed."""
    gg = x[2] * x[2] + x[3] * x[3]
    if not (gg < 1 and bounds[0] <= x[4] <= bounds[1]):
        return np.nan
    fall, half = 2 / (1 + gg), 0.5 * x[4]
    cvv, cvu, cuu = half * (1 - fall * x[2]), half * fall * x[3], half * (1 + fall * x[2])
    if not correlate(image, ny, nx, stride, x[0], x[1], cvv, cvu, cuu, table, sums, matrix):
        return np.nan
    flux = matrix[VALUE, DATA] / matrix[VALUE, VALUE]
    return flux if bounds[2] <= flux <= bounds[3] else np.nan


@compile_loop
def _equations(x, flux, matrix, precision, prior, jacobian, basis, gradient, hessian):
    """Fill half the gradient and half the Gauss-Newton Hessian of chi^2 + prior, shapes (6,) and (6, 6)."""
    chain(x[2], x[3], x[4], jacobian)
    basis[:] = 0.0
    basis[0, ROW] = basis[1, COL] = flux
    for i in range(3):
        for j in range(3):
            basis[2 + i, VV + j] = flux * jacobian[j, i]
    basis[5, VALUE] = 1.0
    for i in range(6):
        gradient[i] = 0.0
        for a in range(6):
            if basis[i, a] != 0:
                gradient[i] += precision * basis[i, a] * (flux * matrix[VALUE, a] - matrix[a, DATA])
        for j in range(i + 1):
            total = 0.0
            for a in range(6):
                if basis[i, a] != 0:
                    for b in range(6):
                        total += basis[i, a] * basis[j, b] * matrix[min(a, b), max(a, b)]
            hessian[i, j] = hessian[j, i] = precision * total
    gradient[5] = 0.0  # the flux is at its best; what is left is rounding
    if prior[0] == 0:
        return
    for i in range(2):
        gradient[i] += x[i] / prior[1] ** 2
        hessian[i, i] += 1 / prior[1] ** 2
    rest = 1 - x[2] * x[2] - x[3] * x[3]
    pull = 1 / prior[2] ** 2 + 4 / rest
    for i in range(2, 4):
        gradient[i] += pull * x[i]
        hessian[i, i] += pull
        for j in range(2, 4):
            hessian[i, j] += 8 * x[i] * x[j] / rest**2


@compile_loop
def _fit(image, ny, nx, stride, square, table, precision, prior, bounds, sums, x, pars, covariance, quality):
    """Fit one stamp, starting from x.

    The flux, in which the model is linear, is at its best for every x (variable projection, in Kaufman's
    approximation: BIT 15, 49, 1975); the other parameters take damped Gauss-Newton steps (Marquardt 1963) until
    the next step is below `_TOLERANCE` of the quoted errors, or below what chi^2 resolves. That step is taken,
    unevaluated: so the result is a step more precise than the test.
    """
    quality[0] = quality[1] = np.nan
    matrix, trial_matrix = np.empty((7, 7)), np.empty((7, 7))
    basis, jacobian = np.empty((6, 6)), np.empty((3, 3))
    gradient, hessian = np.empty(6), np.empty((6, 6))
    damped, factor = np.empty((6, 6)), np.empty((6, 6))
    step, trial = np.empty(6), np.empty(5)
    freedom = ny * nx - 6
    quality[1] = 1.0
    flux = _evaluate(image, ny, nx, stride, table, bounds, sums, x, matrix)
    if not math.isfinite(flux):
        return _OUT_OF_RANGE
    chi2 = precision * (square - flux * matrix[VALUE, DATA])
    cost = chi2 + _penalty(x, prior)
    _equations(x, flux, matrix, precision, prior, jacobian, basis, gradient, hessian)
    damping = 1e-3
    for evaluation in range(2, _EVALUATIONS):
        regular = cholesky(hessian, factor)
        if regular:
            step[:] = -gradient
            substitute(factor, step)
            decrement = -(step * gradient).sum()
            if decrement <= _TOLERANCE**2 * chi2 / freedom + _ROUNDING * precision * square:
                break
        damped[:] = hessian
        for i in range(5):
            damped[i, i] *= 1 + damping
        if not cholesky(damped, factor):
            damping = 10 * max(damping, 1e-3)
            if damping > 1e12:
                return _SINGULAR
            continue
        step[:] = -gradient
        substitute(factor, step)
        predicted = -(step * gradient).sum()
        for i in range(5):
            predicted += damping * hessian[i, i] * step[i] * step[i]
            trial[i] = x[i] + step[i]
        quality[1] = evaluation
        trial_flux = _evaluate(image, ny, nx, stride, table, bounds, sums, trial, trial_matrix)
        trial_chi2 = precision * (square - trial_flux * trial_matrix[VALUE, DATA])
        fall = -1.0
        if math.isfinite(trial_flux):
            fall = cost - trial_chi2 - _penalty(trial, prior)
        if fall > 0:
            x[:] = trial
            flux, chi2 = trial_flux, trial_chi2
            cost = chi2 + _penalty(x, prior)
            matrix[:] = trial_matrix
            _equations(x, flux, matrix, precision, prior, jacobian, basis, gradient, hessian)
            damping *= 0.1 if fall > 0.75 * predicted else (0.5 if fall > 0.25 * predicted else 2.0)
            stalled = evaluation > _PATIENCE and max(fall, predicted) <= _STALL * cost
        else:
            damping = 10 * max(damping, 1e-3)
            length = size = 0.0
            for i in range(5):
                length += hessian[i, i] * step[i] * step[i]
                size += hessian[i, i] * x[i] * x[i]
            stalled = length <= _STALL**2 * size
        if stalled:
            if not cholesky(hessian, factor):
                return _SINGULAR
            step[:] = 0.0
            decrement = 0.0
            break
    else:
        return _NOT_CONVERGED
    before = _penalty(x, prior)
    for i in range(5):
        x[i] += step[i]
        pars[i] = x[i]
    pars[5] = flux + step[5]
    gg = x[2] * x[2] + x[3] * x[3]
    if not (gg < 1 and bounds[0] <= x[4] <= bounds[1] and bounds[2] <= pars[5] <= bounds[3]):
        return _OUT_OF_RANGE
    chi2 = max(chi2 - decrement + before - _penalty(x, prior), 0.0)
    quality[0] = chi2 / freedom
    if prior[0] != 0:
        _quote_prior(x, prior, hessian)
        if not cholesky(hessian, factor):
            return _SINGULAR
    for i in range(6):
        step[:] = 0.0
        step[i] = 1.0
        substitute(factor, step)
        covariance[i] = step * quality[0]
    return _GOOD


@compile_loop
def _quote_prior(x, prior, hessian):
    """Replace the prior's curvature in the shape by the one that errors are quoted with.

    As in ngmix, the shape's prior counts as one residual sqrt(-2 ln p) beside the pixels', which curves along
    the shape but not across it.
    """
    gg = x[2] * x[2] + x[3] * x[3]
    rest = 1 - gg
    pull = 1 / prior[2] ** 2 + 4 / rest
    minus_2_ln = gg / prior[2] ** 2 - 4 * math.log1p(-gg)
    ratio = pull * pull / minus_2_ln if minus_2_ln > 0 else 0.0
    for i in range(2, 4):
        hessian[i, i] -= pull
        for j in range(2, 4):
            hessian[i, j] += (ratio - 8 / rest**2) * x[i] * x[j]
