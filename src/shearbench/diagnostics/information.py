r"""Fisher information about the shape that the stages of a network still hold.

Near a galaxy, the numbers of a stage are a linear function of the pixels, with the Jacobian :math:`A`. For
white noise of standard deviation :math:`\sigma` a pixel, their covariance is :math:`\sigma^2 A A^T`; with the
derivatives :math:`D` of the image by the galaxy's parameters, their Fisher matrix is

.. math:: F = \frac{1}{\sigma^2} D \, A^T (A A^T)^+ A \, D^T = \frac{1}{\sigma^2} D \, P_A \, D^T ,

where :math:`P_A` projects on the space of pixels that the rows of :math:`A` span. If the numbers are stored
with rounding errors of variance :math:`R` (a diagonal matrix), :math:`\sigma^2 A A^T + R` takes the place of
the covariance.

Flux, position and size are marginalised over, with a Gaussian prior of their variances in the population;
the prior is needed where a stage has fewer numbers than a galaxy has parameters. The share is the mean, over
the two components, of the information about (g1, g2) that is left, over that of the pixels. A function of
other numbers holds no more than they do, so that the share never rises from stage to stage.

A stage of few numbers is computed from its whole Jacobian. For a stage of many, the space of its rows is
explored from the derivatives :math:`D` on, by products with :math:`A^T A` (block Krylov space); the result is
a lower bound, which grows with each product and is exact at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jvp, vjp

PRECISIONS = {"exact": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Types to which activations are rounded; `exact` means that they are not."""

_NARROW = 300  # numbers up to which the whole Jacobian is computed
_BLOCK = 512  # stamps computed at once
_RANK = 1e-10  # singular values of A below this fraction of the largest are zero
_RANK_SQUARED = 1e-13  # the same of A^T A, as far as float64 goes: about 3e-7 for A
_PROBES = 8  # random vectors from which the diagonal of A^T A is estimated
_STEPS = 60  # of the Krylov space
_CHECKED = 5  # steps after which the share is compared with the one before
_CONVERGED = 2e-4  # change of the share over this number of steps; the error is below 0.01 then


Function = Callable[[Tensor, Tensor], Tensor]
"""Numbers [B, M] of B stamps [B, ny, nx], given the galaxy of each stamp, an index tensor [B]."""


@dataclass(frozen=True)
class Held:
    """The information that a stage holds about each of n galaxies.

    Attributes
    ----------
    matrices : Tensor, shape (n, P, P)
        Fisher matrices for a noise of `sigma`.
    readout : Tensor, shape (n, M, P)
        Weights of the numbers: the best linear estimates of changes of the parameters are linear functions
        of the P weighted sums.
    exact : bool
        Whether the matrices have converged; if not, they are lower bounds.
    """

    matrices: Tensor
    readout: Tensor
    exact: bool


def held(
    function: Function,
    images: Tensor,
    slopes: Tensor,
    sigma: float,
    dtype: torch.dtype | None = None,
    share: Callable[[Tensor], Tensor] | None = None,
    steps: int = _STEPS,
) -> Held:
    """Return the information that the numbers of a stage hold about the parameters of galaxies.

    Parameters
    ----------
    function : callable
        The numbers, in float64.
    images : Tensor of float64, shape (n, ny, nx)
        Noiseless stamps.
    slopes : Tensor of float64, shape (n, P, ny, nx)
        Derivatives of the stamps by the parameters.
    sigma : float
        Noise per pixel.
    dtype : torch.dtype, optional
        Type to which the numbers are rounded.
    share : callable
        Function from Fisher matrices [n, P, P] to the shares [n] whose convergence is asked for; by default
        that of the trace.
    steps : int
        Largest number of steps of the Krylov space.
    """
    n, count, pixels = *slopes.shape[:2], images[0].numel()
    slopes = slopes.reshape(n, count, pixels)
    member = torch.arange(n)
    with torch.no_grad():
        numbers = function(images, member)
    weight = torch.ones_like(numbers)
    if dtype is not None:
        # Numbers that do not depend on the pixels, such as the zeros of dead units, are not rounded.
        weight = sigma / rounding_error(numbers, dtype)
    if numbers.shape[1] <= _NARROW:
        return _from_jacobian(function, images, slopes, sigma, weight, dtype is not None)
    if share is None:
        whole = (slopes**2).sum((1, 2)) / sigma**2

        def share(matrices: Tensor) -> Tensor:
            return matrices.diagonal(dim1=1, dim2=2).sum(1) / whole

    return _from_products(function, images, slopes, sigma, weight, dtype is not None, share, steps)


def rounding_error(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the standard deviation of the error by which numbers are rounded to a type.

    The error is taken as uniform between two neighbours of the type, whose distance is that at the number.
    """
    limits = torch.finfo(dtype)
    power = torch.frexp(numbers.abs().clamp_min(limits.smallest_normal)).exponent - 1
    return torch.ldexp(torch.full_like(numbers, limits.eps), power) / 12**0.5


def _jacobian(function: Function, images: Tensor) -> Tensor:
    """Return the derivatives of the numbers by the pixels, [n, M, pixels], in blocks of rows."""
    n = len(images)
    with torch.no_grad():
        total = function(images[:1], torch.zeros(1, dtype=torch.long)).shape[1]
    rows, each = [], max(_BLOCK // n, 1)
    for low in range(0, total, each):
        part = torch.arange(low, min(low + each, total))
        member = torch.arange(n).repeat_interleave(len(part))
        given = images[member].requires_grad_()
        numbers = function(given, member)
        chosen = numbers[torch.arange(len(member)), part.repeat(n)]
        (gradient,) = torch.autograd.grad(chosen.sum(), given, allow_unused=True)
        gradient = torch.zeros_like(given) if gradient is None else gradient
        rows.append(gradient.reshape(n, len(part), -1))
    return torch.cat(rows, 1)


def _from_jacobian(
    function: Function, images: Tensor, slopes: Tensor, sigma: float, weight: Tensor, rounded: bool
) -> Held:
    rows = weight[:, :, None] * _jacobian(function, images)
    left, values, right = torch.linalg.svd(rows, full_matrices=False)
    largest = values.amax(1, keepdim=True)
    kept = values > _RANK * largest
    # Share of the information along each direction of pixels; without rounding errors all or nothing.
    filtered = values**2 / (1 + values**2) if rounded else torch.ones_like(values)
    filtered = torch.where(kept, filtered, 0.0)
    along = slopes @ right.mT  # [n, P, rank]
    matrices = (along * filtered[:, None]) @ along.mT / sigma**2
    inverse = torch.where(kept, filtered / values.clamp_min(torch.finfo(values.dtype).tiny), 0.0)
    readout = weight[:, :, None] * (left * inverse[:, None]) @ along.mT
    return Held(matrices, readout, True)


def _from_products(
    function: Function,
    images: Tensor,
    slopes: Tensor,
    sigma: float,
    weight: Tensor,
    rounded: bool,
    share: Callable[[Tensor], Tensor],
    steps: int,
) -> Held:
    n, count, pixels = slopes.shape
    member = torch.arange(n).repeat_interleave(count)
    at = images[member]
    square = (weight**2)[member]

    def of(stamps: Tensor) -> Tensor:
        return function(stamps, member)

    _, pull = vjp(of, at)

    def forward(block: Tensor) -> Tensor:
        """Return A times a block of pixels [n, pixels, count], [n * count, M]."""
        return jvp(of, (at,), (block.mT.reshape(at.shape),))[1]

    # Conjugate gradients with a diagonal preconditioner: a network scales each pixel by its own number.
    signs = torch.randint(0, 2, (n, _PROBES, square.shape[1]), generator=torch.Generator().manual_seed(1))
    probes = torch.arange(n).repeat_interleave(_PROBES)
    _, back = vjp(lambda stamps: function(stamps, probes), images[probes])
    drawn = (2.0 * signs - 1).flatten(0, 1).to(weight) * weight[probes]
    diagonal = back(drawn)[0].detach().reshape(n, _PROBES, pixels).square().mean(1)
    least = (_RANK * diagonal.amax(1, keepdim=True)).clamp_min(torch.finfo(weight.dtype).tiny)
    scale = diagonal.maximum(least).reciprocal()[:, :, None]
    if rounded:
        scale = 1 / (1 + 1 / scale)
    if not diagonal.any():
        return Held(slopes.new_zeros(n, count, count), slopes.new_zeros(n, square.shape[1], count), True)
    block = _orthonormal(scale * slopes.mT)
    explored, mapped = block.new_zeros(n, pixels, 0), block.new_zeros(n, pixels, 0)
    matrices, before, exact = block.new_zeros(n, count, count), None, False
    mixture = explored
    for step in range(1, steps + 1):
        explored = torch.cat([explored, block], 2)
        image = pull(square * forward(block))[0].detach().reshape(n, count, pixels).mT
        mapped = torch.cat([mapped, image], 2)
        if step % _CHECKED == 0 or step == 1:
            matrices, mixture = _projected(slopes, explored, mapped, rounded)
            matrices = matrices / sigma**2
            now = share(matrices)
            if before is not None and bool(((now - before).abs() < _CONVERGED).all()):
                exact = True
                break
            before = now if step > 1 else None
            if not rounded and bool((now > 1 - _CONVERGED).all()):
                exact = True
                break
        rest = scale * image
        for _ in range(2):  # twice, because of rounding errors
            rest = rest - explored @ (explored.mT @ rest)
        block = _orthonormal(rest)
        if explored.shape[2] + count > pixels:
            exact = True
            break
    readout = (square * forward(explored @ mixture)).reshape(n, count, -1).mT
    return Held(matrices, readout, exact)


def _orthonormal(block: Tensor) -> Tensor:
    """Return an orthonormal basis of the columns of a block [n, pixels, count]."""
    scale = block.norm(dim=1, keepdim=True).clamp_min(torch.finfo(block.dtype).tiny)
    return torch.linalg.qr(block / scale)[0]


def _projected(slopes: Tensor, explored: Tensor, mapped: Tensor, rounded: bool) -> tuple[Tensor, Tensor]:
    """Return the information, for unit noise, in the sums of the numbers weighted by A v, for explored v.

    It is D Y (Y' Y + V' Y)^-1 Y' D' with the explored pixels V and Y = A' A V; without rounding errors, the
    second term is absent. Also return the combination [n, k, P] of the columns of V that gives the readout.
    """
    rows = mapped
    if rounded:
        values, vectors = torch.linalg.eigh((explored.mT @ mapped + mapped.mT @ explored) / 2)
        rows = torch.cat([mapped, (vectors * values.clamp_min(0).sqrt()[:, None]).mT], 1)
    basis, upper = torch.linalg.qr(rows)
    left, values, right = torch.linalg.svd(upper)
    kept = values > _RANK_SQUARED * values.amax(1, keepdim=True)
    along = slopes @ (basis[:, : slopes.shape[2]] @ left)
    along = torch.where(kept[:, None], along, 0.0)
    mixture = right.mT @ torch.where(
        kept[:, :, None], along.mT / values.clamp_min(torch.finfo(values.dtype).tiny)[:, :, None], 0.0
    )
    return along @ along.mT, mixture


def about_shape(matrices: Tensor, names: Sequence[str], precision: Tensor) -> Tensor:
    """Return the information about (g1, g2), marginalised over the other parameters.

    Parameters
    ----------
    matrices : Tensor, shape (n, P, P)
        Fisher matrices.
    names : sequence of str
        The P parameters.
    precision : Tensor, shape (P,)
        Inverse variances of the prior of the other parameters, infinite for a parameter that is known. Those
        of g1 and g2 are not used.

    Returns
    -------
    Tensor, shape (n, 2, 2)
    """
    shape = [names.index(name) for name in ("g1", "g2")]
    others = [k for k in range(len(names)) if k not in shape and bool(torch.isfinite(precision[k]))]
    inside, across = matrices[:, shape][:, :, shape], matrices[:, shape][:, :, others]
    nuisance = matrices[:, others][:, :, others] + precision[others].diag()
    # With a unit diagonal the matrix is ill-conditioned only if its parameters are correlated.
    scale = nuisance.diagonal(dim1=1, dim2=2).clamp_min(torch.finfo(matrices.dtype).tiny).rsqrt()
    scaled = scale[:, :, None] * nuisance * scale[:, None]
    across = across * scale[:, None]
    return inside - across @ torch.linalg.pinv(scaled, rtol=1e-13, hermitian=True) @ across.mT


def share_of(part: Tensor, whole: Tensor) -> Tensor:
    """Return the mean share of information about g1 and g2, [n], of matrices [n, 2, 2] in others."""
    return torch.linalg.solve(whole, part).diagonal(dim1=1, dim2=2).mean(1)


def sampled(
    function: Function,
    images: Tensor,
    slopes: Tensor,
    sigma: float,
    readout: Tensor,
    realisations: int,
    generator: torch.Generator,
) -> Tensor:
    """Return the information in weighted sums of the numbers of a stage, from realisations of the noise.

    The derivatives of the mean of the sums and their covariance are averages over noisy stamps, so that they
    hold where the noise is too large for a linear approximation. It is the information that a linear function
    of the sums can use.

    Parameters
    ----------
    function, images, slopes, sigma
        As for `held`.
    readout : Tensor, shape (n, M, R)
        Weights of R sums.
    realisations : int
        Number of noisy stamps of each galaxy. Those of a pair have opposite noise.
    generator : torch.Generator

    Returns
    -------
    Tensor, shape (n, P, P)
    """
    n, sums = len(images), readout.shape[2]
    noise = torch.randn(n, realisations // 2, *images.shape[1:], generator=generator, dtype=images.dtype)
    noise = sigma * torch.cat([noise, -noise], 1)

    def of_sums(stamps: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums [B, R] of stamps [B, ny, nx] and their derivatives [B, R, ny, nx] by the pixels."""
        values, slope = [], []
        each = max(_BLOCK // sums, 1)
        for low in range(0, len(stamps), each):
            which = owner[low : low + each].repeat_interleave(sums)
            given = stamps[low : low + each].repeat_interleave(sums, 0).requires_grad_()
            column = torch.arange(sums).repeat(len(which) // sums)
            chosen = (function(given, which) * readout[which, :, column]).sum(1)
            (gradient,) = torch.autograd.grad(chosen.sum(), given, allow_unused=True)
            gradient = torch.zeros_like(given) if gradient is None else gradient
            values.append(chosen.detach().reshape(-1, sums))
            slope.append(gradient.reshape(-1, sums, *images.shape[1:]))
        return torch.cat(values), torch.cat(slope)

    _, near = of_sums(images, torch.arange(n))
    owner = torch.arange(n).repeat_interleave(noise.shape[1])
    value, slope = of_sums((images[:, None] + noise).flatten(0, 1), owner)
    mean_slope = slope.unflatten(0, (n, -1)).mean(1).flatten(2) @ slopes.flatten(2).mT  # [n, R, P]
    # The covariance of the linear approximation is known, and its error in the sample is that of the sums.
    linear = noise.flatten(2) @ near.flatten(2).mT
    left, values, _ = torch.linalg.svd(sigma * near.flatten(2), full_matrices=False)
    good = values > _RANK * values.amax(1, keepdim=True)
    whiten = torch.where(good[:, None], left / values.clamp_min(torch.finfo(values.dtype).tiny)[:, None], 0.0)
    first, second = (
        away.mT @ away / realisations
        for part in (linear, value.unflatten(0, (n, -1)))
        for away in [(part - part.mean(1, keepdim=True)) @ whiten]
    )
    seen, axes = torch.linalg.eigh(first)
    correction = (axes * seen.clamp_min(_RANK).rsqrt()[:, None]) @ axes.mT
    covariance = correction @ second @ correction
    direction = whiten.mT @ mean_slope
    return direction.mT @ torch.linalg.pinv(covariance, rtol=_RANK, hermitian=True) @ direction
