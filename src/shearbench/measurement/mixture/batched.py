"""The galaxy fits of `shearbench.measurement.mixture.kernels` in torch, for GPUs: thousands at a time.

The model, the steps, the decisions and the constants are the same; functions of arithmetic only are called
from there, with tensors. A batch of stamps is fitted together. Each round evaluates the model once for each
of them; a stamp whose fit has ended leaves the batch, and the next one takes its place. So batches are full
until the last stamps.

The time of a round is that of memory traffic. So only the model and its derivatives are tensors with pixels:
they are written once, by code that torch fuses, and read by one batched matrix product. All numbers are
float64, but the data are float32.

In this module b is the number of stamps in the batch, p the number of parts of the model, and P = 4 + 2 p the
number of its parameters. In the functions from kernels, the batch is the last dimension.
"""

from __future__ import annotations

import functools
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shearbench.data.shapes import Flag
from shearbench.measurement.mixture import kernels
from shearbench.measurement.mixture.kernels import COL, ROW, VV, WINDOW_END

_MOST = 16384  # largest number of stamps in a batch
_MEMORY = 0.5  # fraction of the GPU's free memory to use
_CPU_BYTES = 2**26  # memory to use on a CPU

_UNDER_WAY = -1
_GOOD = int(Flag.GOOD)

_derivatives = kernels.derivatives.py_func
_reweighted = kernels.reweighted.py_func
_chain = kernels.chain.py_func
_covariance_of = kernels.covariance_of.py_func
_add_prior = kernels.add_prior.py_func
_minus_two_ln = kernels.minus_two_ln.py_func
_quote_prior = kernels.quote_prior.py_func


@dataclass
class _Slots:
    """The states of the fits in the batch; the first dimension is b. See `kernels._fit_galaxy`."""

    stamp: Tensor  # index of the image
    attempt: Tensor
    evaluation: Tensor
    evaluations: Tensor  # number in the attempts before this one
    stalled: Tensor
    damping: Tensor
    x: Tensor  # [b, 4 + p]
    flux: Tensor  # [b, p]
    chi2: Tensor
    cost: Tensor
    matrix: Tensor  # [b, 6 p, 6 p + 1]

    def select(self, which: Tensor) -> _Slots:
        return _Slots(*(getattr(self, field.name)[which] for field in fields(self)))

    def join(self, other: _Slots) -> _Slots:
        return _Slots(*(torch.cat([getattr(s, field.name) for s in (self, other)]) for field in fields(self)))


class _Fits:
    """The stamps of a call and the model that is fitted to them."""

    def __init__(
        self,
        images: NDArray[np.float32],
        tables: NDArray[np.float64],
        psf: NDArray[np.float64],
        centres: NDArray[np.float64],
        precision: float,
        prior: NDArray[np.float64],
        bounds: NDArray[np.float64],
        sizes: NDArray[np.float64],
        device: torch.device,
    ) -> None:
        def moved(array: NDArray[np.floating]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        self.images, self.psf, self.sizes = moved(images), moved(psf), moved(sizes)
        self.centres = moved(centres)
        used = (tables[..., 0] != 0).any(axis=(0, 1))
        self.tables = moved(tables[:, :, used])
        self.prior, self.bounds, self.precision = prior.tolist(), bounds.tolist(), precision
        self.n, ny, nx = images.shape
        self.parts = len(sizes)
        self.v, self.u = (torch.arange(k, dtype=torch.float64, device=device) - (k - 1) / 2 for k in (ny, nx))
        self.freedom = ny * nx - (4 + 2 * self.parts)
        self.draw = _fused() if device.type == "cuda" else _draw
        pixels = 8 * ny * nx * (6 * self.parts + 1)
        if device.type == "cuda":
            room = int(_MEMORY * torch.cuda.mem_get_info(device)[0])
        else:
            room = _CPU_BYTES
        # Memory for the images, their copy in the product, and as much again for temporary tensors.
        self.most = max(1, min(_MOST, room // (4 * pixels)))

    def at(self, values: Tensor, stamp: Tensor) -> Tensor:
        """Return the values of some stamps, from one value for all stamps or one for each."""
        return values[stamp if len(values) > 1 else torch.zeros_like(stamp)]

    def products(self, stamp: Tensor, centre: Tensor, means: Tensor, tables: Tensor) -> tuple[Tensor, Tensor]:
        """Return the matrix of `kernels.correlate`, [b, 6 p, 6 p + 1], and whether it is valid.

        Shapes: centre [b, 2], means [b, p, 3], tables [b, p, k, 5].
        """
        covariances = tables[..., 1:2] * means[:, :, None] + tables[..., 2:]
        vv, vu, uu = covariances.unbind(-1)
        determinant = vv * uu - vu * vu
        regular = ((vv > 0) & (uu > 0) & (determinant > 1e-10 * vv * uu)).flatten(1).all(1)
        within = (vv + uu < 1e12) & (centre.abs().sum(1) < 1e6)[:, None, None] & (determinant > 0)
        weight = torch.where(within, tables[..., 0], 0.0)
        safe = torch.where(within[..., None], covariances, covariances.new_tensor([1.0, 0.0, 1.0]))
        centre = torch.where(within.flatten(1).any(1)[:, None], centre, 0.0)
        draw = self.draw if len(stamp) > 1 else _draw  # torch would compile again for a batch of one or none
        drawn = draw(self.v, self.u, centre, weight, tables[..., 1].contiguous(), safe)
        images = torch.stack([*drawn, self.images[stamp].double()], dim=1).flatten(2)
        return images[:, :-1] @ images.mT, regular

    def moments(self, stamp: Tensor) -> Tensor:
        """Return x of the first attempt, [b, 4 + p]."""
        psf = self.at(self.psf, stamp).T
        round_size = psf[0] + psf[2]
        zero = torch.zeros_like(round_size)
        state = [zero, zero, 2 * round_size, zero, 2 * round_size]
        found = torch.ones_like(zero, dtype=torch.bool)
        table = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64, device=zero.device)
        for _ in range(kernels.MOMENTS):
            v0, u0, *weight = state
            matrix, _ = self.products(
                stamp,
                torch.stack([v0, u0], 1),
                torch.stack(weight, 1)[:, None],
                table.expand(len(stamp), 1, 1, 5),
            )
            *after, plausible = _reweighted(matrix[:, :, 6].T, *state, len(self.v), len(self.u))
            found &= plausible
            state = [torch.where(found, new, old) for new, old in zip(after, state)]
        v0, u0, *covariance = state
        vv, vu, uu = (a - b for a, b in zip(covariance, psf))
        size = vv + uu
        e1, e2 = (uu - vv) / size, 2 * vu / size
        e = torch.hypot(e1, e2)
        kept = e.clamp(max=0.9)
        fall = torch.where(size > 0.1 * round_size, kept / e / (1 + torch.sqrt(1 - kept * kept)), 0.0)
        fall = torch.where(e > 0, fall, 0.0)
        size = torch.maximum(size, 0.1 * round_size)
        start = torch.stack([v0, u0, fall * e1, fall * e2, *(size * part for part in self.sizes)], dim=1)
        return torch.where(found[:, None], start, self.plain_start(stamp, torch.zeros_like(stamp)))

    def plain_start(self, stamp: Tensor, attempt: Tensor) -> Tensor:
        """Return x of a round galaxy at the centre, [b, 4 + p]."""
        psf = self.at(self.psf, stamp)
        factor = psf.new_tensor(kernels.START_SIZES)[attempt]
        size = (psf[:, 0] + psf[:, 2]) * factor / self.sizes[self.parts // 2]
        return torch.cat([size.new_zeros(len(size), 4), size[:, None] * self.sizes], dim=1)

    def arrivals(self, stamp: Tensor) -> _Slots:
        """Return the states of fits that begin."""
        count, like = torch.zeros_like(stamp), self.sizes.new_zeros(len(stamp))
        shape = (6 * self.parts, 6 * self.parts + 1)
        return _Slots(
            stamp,
            count,
            count,
            count,
            count.bool(),
            like + 1e-4,
            self.moments(stamp),
            like[:, None].expand(-1, self.parts),
            like,
            like,
            like[:, None, None].expand(-1, *shape),
        )

    def evaluate(self, stamp: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the matrix of products, the best fluxes [b, p], and whether x and the fluxes are allowed."""
        low, high, least, most = self.bounds
        sizes = x[:, 4:]
        fine = (x[:, 2] ** 2 + x[:, 3] ** 2 < 1) & ((sizes >= low) & (sizes <= high)).all(1)
        means = sizes.new_empty(3, *sizes.shape)
        _covariance_of(x[:, 2:3], x[:, 3:4], sizes, means)
        matrix, regular = self.products(stamp, x[:, :2], means.movedim(0, -1), self.at(self.tables, stamp))
        data = matrix[:, ::6, -1]
        if self.parts == 1:
            flux = data / matrix[:, :1, 0]
        else:
            factor, solvable = _cholesky(matrix[:, ::6, :-1:6])
            flux = torch.cholesky_solve(data[:, :, None], factor)[:, :, 0]
            regular = regular & solvable
        return matrix, flux, fine & regular & ((flux >= least) & (flux <= most)).all(1)

    def prior_of(self, stamp: Tensor) -> list[Any]:
        """Return the prior as `kernels.minus_two_ln` takes it; row and column of its centre are [b]."""
        return [*self.prior, *self.at(self.centres, stamp).T]

    def penalty(self, stamp: Tensor, x: Tensor) -> Tensor:
        """Return -2 ln p of the prior, [b]."""
        if self.prior[0] == 0:
            return torch.zeros_like(x[:, 0])
        return _minus_two_ln(x.T, self.prior_of(stamp), _ln_rest(x))

    def equations(self, slots: _Slots) -> tuple[Tensor, Tensor]:
        """Return half the gradient [b, P] and half the Hessian [b, P, P], as `kernels._equations`."""
        x, parts = slots.x.T, self.parts
        basis = x.new_zeros(4 + 2 * parts, 6 * parts, x.shape[1])
        jacobian = x.new_empty(3, 3, x.shape[1])
        for part, flux in enumerate(slots.flux.T):
            first = 6 * part
            _chain(x[2], x[3], x[4 + part], jacobian)
            basis[0, first + ROW] = basis[1, first + COL] = flux
            for row, column in ((2, 0), (3, 1), (4 + part, 2)):
                basis[row, first + VV : first + VV + 3] = flux * jacobian[:, column]
            basis[4 + parts + part, first] = 1.0
        rows = basis.movedim(2, 0)
        products = rows @ slots.matrix[:, :, :-1]
        residual = products[:, :, ::6] @ slots.flux[:, :, None] - rows @ slots.matrix[:, :, -1:]
        gradient, hessian = self.precision * residual[:, :, 0], self.precision * (products @ rows.mT)
        if self.prior[0] != 0:
            _add_prior(x, self.prior_of(slots.stamp), gradient.T, hessian.movedim(0, -1))
        return gradient, hessian


def fit_stamps(
    images: NDArray[np.float32],
    tables: NDArray[np.float64],
    psf: NDArray[np.float64],
    centres: NDArray[np.float64],
    precision: float,
    prior: NDArray[np.float64],
    bounds: NDArray[np.float64],
    sizes: NDArray[np.float64],
    pars: NDArray[np.float64],
    covariances: NDArray[np.float64],
    quality: NDArray[np.float64],
    flags: NDArray[np.int64],
    device: torch.device,
) -> None:
    """Fit stamps as `shearbench.measurement.mixture.kernels.fit_stamps` does, with torch on a device.

    Parameters
    ----------
    images, tables, psf, precision, prior, bounds, sizes, pars, covariances, quality, flags
        As there.
    device : torch.device
    """
    with torch.no_grad():
        fits = _Fits(images, tables, psf, centres, precision, prior, bounds, sizes, device)
        square = torch.cat([part.double().square().sum((1, 2)) for part in fits.images.split(fits.most)])
        known = fits.psf[:, 0].isfinite().expand(fits.n)
        flag = torch.where(known, int(Flag.BAD_PIXELS), int(Flag.FAILED))
        found = square.new_full((fits.n, pars.shape[1]), math.nan)
        spread = square.new_full((fits.n, pars.shape[1], pars.shape[1]), math.nan)
        grade = square.new_tensor([math.nan, 0.0]).repeat(fits.n, 1)
        queue = torch.nonzero(square.isfinite() & known)[:, 0]
        slots = fits.arrivals(queue[:0])
        while len(queue) or len(slots.stamp):
            room = fits.most - len(slots.stamp)
            if len(queue) and room:
                slots, queue = slots.join(fits.arrivals(queue[:room])), queue[room:]
            outcome, ends = _advance(fits, slots, square[slots.stamp])
            failed = (outcome > _GOOD) & (slots.attempt + 1 < len(kernels.START_SIZES))
            left = (outcome != _UNDER_WAY) & ~failed
            if left.any():
                stamp, good = slots.stamp[left], (outcome == _GOOD)[left]
                flag[stamp] = outcome[left]
                grade[stamp, 1] = (slots.evaluations + slots.evaluation)[left].double()
                values, errors, chi2 = (end[left] for end in ends)
                found[stamp[good]], spread[stamp[good]] = values[good], errors[good]
                grade[stamp[good], 0] = chi2[good]
            if failed.any():
                _restart(fits, slots, failed)
            slots = slots.select(~left)
    for array, tensor in ((pars, found), (covariances, spread), (quality, grade), (flags, flag)):
        array[:] = tensor.cpu().numpy()


def _restart(fits: _Fits, slots: _Slots, failed: Tensor) -> None:
    slots.attempt = slots.attempt + failed.long()
    slots.evaluations = slots.evaluations + torch.where(failed, slots.evaluation, 0)
    slots.evaluation = torch.where(failed, 0, slots.evaluation)
    slots.stalled = slots.stalled & ~failed
    slots.damping = torch.where(failed, 1e-4, slots.damping)
    slots.x = torch.where(failed[:, None], fits.plain_start(slots.stamp, slots.attempt), slots.x)


def _advance(fits: _Fits, slots: _Slots, square: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Advance each fit by one evaluation of the model, or end it; see `kernels._fit_galaxy`.

    Returns
    -------
    outcome : Tensor of int64, shape (b,)
        `Flag` bits of an attempt that has ended, -1 for one that continues.
    ends : tuple of Tensor
        Parameters [b, P], covariances [b, P, P] and chi^2 per degree of freedom [b], valid for good outcomes.
    """
    free, new = 4 + fits.parts, slots.evaluation == 0
    gradient, hessian = fits.equations(slots)
    hessian = torch.where(new[:, None, None], torch.eye(hessian.shape[1]).to(hessian), hessian)

    factor, regular = _cholesky(hessian)
    step = _solve(factor, gradient)
    decrement = -(step * gradient).sum(1)
    precise = kernels.TOLERANCE**2 * slots.chi2 / fits.freedom + kernels.ROUNDING * fits.precision * square
    exhausted = slots.evaluation + 1 >= kernels.EVALUATIONS
    arrived = regular & (slots.stalled | (~exhausted & (decrement <= precise))) & ~new
    outcome = torch.full_like(slots.stamp, _UNDER_WAY)
    outcome = torch.where(slots.stalled & ~regular, int(Flag.SINGULAR), outcome)
    outcome = torch.where(exhausted & ~slots.stalled, int(Flag.NOT_CONVERGED), outcome)
    moving = ~slots.stalled
    final = _finish(fits, slots, hessian, step * moving[:, None], torch.where(moving, decrement, 0.0))
    outcome = torch.where(arrived, final[0], outcome)

    diagonal = hessian.diagonal(dim1=1, dim2=2)
    raised = diagonal.clone()
    raised[:, :free] *= 1 + slots.damping[:, None]
    factor, solvable = _cholesky(hessian.diagonal_scatter(raised, dim1=1, dim2=2))
    solvable = solvable | new
    step = torch.where((solvable & ~new)[:, None], _solve(factor, gradient), 0.0)
    weighted = diagonal[:, :free] * step[:, :free] ** 2
    predicted = slots.damping * weighted.sum(1) - (step * gradient).sum(1)
    trial = slots.x + step[:, :free]
    going = outcome == _UNDER_WAY
    slots.evaluation = torch.where(going, slots.evaluation + 1, slots.evaluation)

    matrix, flux, fine = fits.evaluate(slots.stamp, trial)
    chi2 = fits.precision * (square - (flux * matrix[:, ::6, -1]).sum(1))
    cost = chi2 + fits.penalty(slots.stamp, trial)
    fall = torch.where(fine, slots.cost - cost, -1.0)
    better = going & torch.where(new, fine, solvable & (fall > 0))
    outcome = torch.where(new & ~fine, int(Flag.OUT_OF_RANGE), outcome)

    slots.x = torch.where(better[:, None], trial, slots.x)
    slots.flux = torch.where(better[:, None], flux, slots.flux)
    slots.matrix = torch.where(better[:, None, None], matrix, slots.matrix)
    slots.chi2, slots.cost = torch.where(better, chi2, slots.chi2), torch.where(better, cost, slots.cost)
    creeps = (slots.evaluation > kernels.PATIENCE) & (
        torch.maximum(fall, predicted) <= kernels.STALL * slots.cost
    )
    length = (diagonal[:, :free] * slots.x**2).sum(1)
    short = solvable & (weighted.sum(1) <= kernels.STALL**2 * length)
    slots.stalled = going & ~new & torch.where(better, creeps, short)
    gain = torch.where(fall > 0.75 * predicted, 0.1, torch.where(fall > 0.25 * predicted, 0.5, 2.0))
    raised_damping = 10 * slots.damping.clamp(min=1e-3)
    damping = torch.where(better, slots.damping * gain, raised_damping)
    slots.damping = torch.where(new, slots.damping, damping)
    hopeless = going & ~solvable & (slots.damping > 1e12)
    return torch.where(hopeless, int(Flag.SINGULAR), outcome), final[1:]


def _finish(
    fits: _Fits, slots: _Slots, hessian: Tensor, step: Tensor, decrement: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return flag, parameters, covariances and chi^2 per degree of freedom of fits after a last step."""
    free = 4 + fits.parts
    pars = torch.cat([slots.x, slots.flux], dim=1) + step
    low, high, least, most = fits.bounds
    sizes, fluxes = pars[:, 4:free], pars[:, free:]
    inside = (pars[:, 2] ** 2 + pars[:, 3] ** 2 < 1) & ((sizes >= low) & (sizes <= high)).all(1)
    inside &= ((fluxes >= least) & (fluxes <= most)).all(1)
    x = pars[:, :free]
    chi2 = slots.chi2 - decrement + fits.penalty(slots.stamp, slots.x) - fits.penalty(slots.stamp, x)
    per_dof = chi2.clamp(min=0) / fits.freedom
    hessian = hessian.clone()
    if fits.prior[0] != 0:
        _quote_prior(x.T, fits.prior, _ln_rest(x), hessian.movedim(0, -1))
    factor, regular = _cholesky(hessian)
    flag = torch.where(regular, _GOOD, int(Flag.SINGULAR))
    flag = torch.where(inside, flag, int(Flag.OUT_OF_RANGE))
    # torch.cholesky_inverse would be slower on a GPU: it inverts the matrices of a batch one by one.
    half = torch.linalg.solve_triangular(factor, torch.eye(factor.shape[1]).to(factor), upper=False)
    return flag, pars, half.mT @ half * per_dof[:, None, None], per_dof


def _draw(
    v: Tensor, u: Tensor, centre: Tensor, weight: Tensor, scale: Tensor, covariance: Tensor
) -> list[Tensor]:
    """Return for each part the image of unit flux and its five derivatives: 6 p tensors [b, ny, nx].

    They are separate tensors because code that torch fuses computes all six for each number of a stack.

    Shapes: v [ny], u [nx], centre [b, 2], weight and scale [b, p, k], covariance [b, p, k, 3].
    """
    dv = (v - centre[:, :1])[:, :, None]
    du = (u - centre[:, 1:])[:, None, :]
    images: list[Tensor] = []
    for part in range(weight.shape[1]):
        total: list[Tensor] = []
        for k in range(weight.shape[2]):
            vv, vu, uu = covariance[:, part, k, :, None, None].unbind(1)
            determinant = vv * uu - vu * vu
            qvv, qvu, quu = uu / determinant, -vu / determinant, vv / determinant
            y, x = qvv * dv + qvu * du, qvu * dv + quu * du
            distance = (dv * y + du * x).clamp(max=WINDOW_END)
            s = ((WINDOW_END - distance) * kernels.ROLL).clamp(max=1.0)
            peak = weight[:, part, k, None, None] / (2 * math.pi * torch.sqrt(determinant))
            half = 0.5 * scale[:, part, k, None, None]
            values = _derivatives(peak * torch.exp(-0.5 * distance), s, half, y, x, qvv, qvu, quu)
            total = [a + b for a, b in zip(total, values)] if total else list(values)
        images += total
    return images


@functools.cache
def _fused() -> Callable[..., list[Tensor]]:
    """Return `_draw` compiled by torch to one kernel, or as it is if there is no C compiler."""
    if not any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang")):
        return _draw
    return torch.compile(_draw, dynamic=True)


def _ln_rest(x: Tensor) -> Tensor:
    return torch.log1p(-(x[:, 2] ** 2) - x[:, 3] ** 2)


def _cholesky(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return lower Cholesky factors, and whether each is valid; an invalid one is set to the unit matrix."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    pivots = factor.diagonal(dim1=1, dim2=2) ** 2
    good = (info == 0) & (pivots > 1e-14 * matrix.diagonal(dim1=1, dim2=2)).all(1)
    return torch.where(good[:, None, None], factor, torch.eye(matrix.shape[1]).to(matrix)), good


def _solve(factor: Tensor, gradient: Tensor) -> Tensor:
    return -torch.cholesky_solve(gradient[:, :, None], factor)[:, :, 0]
