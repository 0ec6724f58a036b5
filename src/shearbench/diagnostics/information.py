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

PRECISIONS = {"exact": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Types to which activations are rounded; `exact` means that they are not."""

NARROW = 300
"""Count of numbers up to which the whole Jacobian of a stage is computed."""

_BLOCK = 256  # stamps computed at once
_RANK = 1e-10  # singular values of A below this fraction of the largest are zero
_RANK_SQUARED = 1e-13  # the same of A^T A, as far as float64 goes: about 3e-7 for A
_PROBES = 8  # random vectors from which the diagonal of A^T A is estimated
_STEPS = 40  # of the Krylov space
_FULL = 0.995  # share above which it is not explored further
_REALISATIONS = 400  # of the noise, at least
_SLOPES = 64  # realisations for the derivatives of the mean
_STEP = 1e-2  # of these derivatives, over the noise
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
    exact : bool
        Whether the matrices have converged; if not, they are lower bounds.
    """

    matrices: Tensor
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
    if numbers.shape[1] <= NARROW:
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
    _, values, right = torch.linalg.svd(rows, full_matrices=False)
    largest = values.amax(1, keepdim=True)
    kept = values > _RANK * largest
    # Share of the information along each direction of pixels; without rounding errors all or nothing.
    filtered = values**2 / (1 + values**2) if rounded else torch.ones_like(values)
    filtered = torch.where(kept, filtered, 0.0)
    along = slopes @ right.mT  # [n, P, rank]
    matrices = (along * filtered[:, None]) @ along.mT / sigma**2
    return Held(matrices, True)


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
    square = (weight**2)[member]
    forward, back = _products(function, images[member], member)

    # Conjugate gradients with a diagonal preconditioner: a network scales each pixel by its own number.
    signs = torch.randint(0, 2, (n, _PROBES, square.shape[1]), generator=torch.Generator().manual_seed(1))
    probes = torch.arange(n).repeat_interleave(_PROBES)
    _, back_to_probes = _products(function, images[probes], probes)
    drawn = (2.0 * signs - 1).flatten(0, 1).to(weight) * weight[probes]
    diagonal = back_to_probes(drawn).reshape(n, _PROBES, pixels).square().mean(1)
    least = (_RANK * diagonal.amax(1, keepdim=True)).clamp_min(torch.finfo(weight.dtype).tiny)
    scale = diagonal.maximum(least).reciprocal()[:, :, None]
    if rounded:
        scale = 1 / (1 + 1 / scale)
    if not diagonal.any():
        return Held(slopes.new_zeros(n, count, count), True)
    block = _orthonormal(scale * slopes.mT)
    explored, mapped = block.new_zeros(n, pixels, 0), block.new_zeros(n, pixels, 0)
    matrices, before, exact = block.new_zeros(n, count, count), None, False
    for step in range(1, steps + 1):
        explored = torch.cat([explored, block], 2)
        numbers = forward(block.mT.reshape(-1, *images.shape[1:]))
        image = back(square * numbers).reshape(n, count, pixels).mT
        mapped = torch.cat([mapped, image], 2)
        complete = explored.shape[2] + count > pixels
        if step % _CHECKED == 0 or step in (1, steps) or complete:
            matrices = _projected(slopes, explored, mapped, rounded) / sigma**2
            now = share(matrices)
            unchanged = before is not None and bool(((now - before).abs() < _CONVERGED).all())
            exact = complete or unchanged or (not rounded and bool((now > _FULL).all()))
            if exact:
                break
            before = now if step > 1 else None
        rest = scale * image
        for _ in range(2):  # twice, because of rounding errors
            rest = rest - explored @ (explored.mT @ rest)
        block = _orthonormal(rest)
    return Held(matrices, exact)


def _products(
    function: Function, images: Tensor, member: Tensor
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Return the products of A with images [B, ny, nx], and of A^T with numbers [B, M].

    A^T u is linear in u, and its own derivative gives A. (`torch.func.jvp` repeats the forward pass with
    decomposed operations, and the import of `torch.func`'s transforms takes seconds.)
    """
    at = images.clone().requires_grad_()
    made = function(at, member)
    weights = torch.zeros_like(made, requires_grad=True)
    (pulled,) = torch.autograd.grad(made, at, weights, create_graph=True)

    def forward(stamps: Tensor) -> Tensor:
        return torch.autograd.grad(pulled, weights, stamps, retain_graph=True)[0]

    def back(numbers: Tensor) -> Tensor:
        return torch.autograd.grad(made, at, numbers, retain_graph=True)[0]

    return forward, back


def _orthonormal(block: Tensor) -> Tensor:
    """Return an orthonormal basis of the columns of a block [n, pixels, count]."""
    scale = block.norm(dim=1, keepdim=True).clamp_min(torch.finfo(block.dtype).tiny)
    return torch.linalg.qr(block / scale)[0]


def _projected(slopes: Tensor, explored: Tensor, mapped: Tensor, rounded: bool) -> Tensor:
    """Return the information, for unit noise, in the sums of the numbers weighted by A v, for explored v.

    It is D Y (Y' Y + V' Y)^-1 Y' D' with the explored pixels V and Y = A' A V; without rounding errors, the
    second term is absent.
    """
    rows = mapped
    if rounded:
        values, vectors = torch.linalg.eigh((explored.mT @ mapped + mapped.mT @ explored) / 2)
        rows = torch.cat([mapped, (vectors * values.clamp_min(0).sqrt()[:, None]).mT], 1)
    basis, upper = torch.linalg.qr(rows)
    left, values, _ = torch.linalg.svd(upper)
    kept = values > _RANK_SQUARED * values.amax(1, keepdim=True)
    along = slopes @ (basis[:, : slopes.shape[2]] @ left)
    along = torch.where(kept[:, None], along, 0.0)
    return along @ along.mT


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


def from_realisations(
    function: Callable[[Tensor, Tensor], Sequence[Tensor]],
    images: Tensor,
    slopes: Tensor,
    sigma: float,
    generator: torch.Generator,
) -> list[Tensor]:
    """Return the information that a linear function of the numbers of stages can use, with real noise.

    The derivatives of the mean of the numbers and their covariance are measured on noisy stamps, so that they
    hold where the numbers are no linear function of the noise. The cost grows with the square of the count of
    numbers; a stage should have a few hundred at most.

    Parameters
    ----------
    function : callable
        As `Function`, but it returns the numbers of several stages.
    images, slopes, sigma
        As for `held`.
    generator : torch.Generator

    Returns
    -------
    list of Tensor, each of shape (n, P, P)
    """
    with torch.no_grad():
        widest = max(part.shape[1] for part in function(images[:1], torch.zeros(1, dtype=torch.long)))
    count, found = max(_REALISATIONS, 5 * widest), []
    for k, (image, slope) in enumerate(zip(images, slopes, strict=True)):
        noise = sigma * torch.randn(count, *image.shape, generator=generator, dtype=image.dtype)
        values = _computed(function, image + noise, k)
        # Steps far below the noise, for which float64 is precise enough.
        steps = _STEP * sigma / slope.flatten(1).norm(dim=1).clamp_min(torch.finfo(slope.dtype).tiny)
        moved = (steps[:, None, None] * slope)[:, None]
        few = image + noise[:_SLOPES]
        ahead, back = (_computed(function, (few + sign * moved).flatten(0, 1), k) for sign in (1, -1))
        matrices = []
        for value, plus, minus in zip(values, ahead, back, strict=True):
            mean = (plus - minus).unflatten(0, (len(slope), -1)).mean(1) / (2 * steps[:, None])  # [P, M]
            spread = value.std(0)
            used = spread > 0
            value, mean = (
                (value[:, used] - value[:, used].mean(0)) / spread[used],
                mean[:, used] / spread[used],
            )
            covariance = value.mT @ value / (count - 1)
            # An unbiased estimate of the inverse of the covariance (Hartlap et al. 2007, A&A 464, 399).
            factor = (count - value.shape[1] - 2) / (count - 1)
            inverse = torch.linalg.pinv(covariance, rtol=_RANK, hermitian=True)
            matrices.append(factor * mean @ inverse @ mean.mT)
        found.append(matrices)
    return [torch.stack(parts) for parts in zip(*found, strict=True)]


@torch.no_grad()
def _computed(
    function: Callable[[Tensor, Tensor], Sequence[Tensor]], stamps: Tensor, member: int
) -> list[Tensor]:
    """Return the numbers of stages for stamps of one galaxy."""
    parts = [function(part, torch.full((len(part),), member)) for part in stamps.split(_BLOCK)]
    return [torch.cat(columns) for columns in zip(*parts, strict=True)]
