"""What can be read from the numbers of a stage: regressions of galaxy parameters on them.

A linear probe is a ridge regression. The other is a ridge regression with a Gaussian kernel, which can follow
smooth functions of all numbers. Their strength and the width of the kernel are chosen on galaxies of their
own, for each parameter, and errors are measured on further ones. Both are computed from the products of the
numbers of pairs of galaxies, so that their cost hardly depends on how many numbers a stage has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_STRENGTHS = torch.logspace(-14, 2, 33, dtype=torch.float64)  # of the ridge, over the mean eigenvalue
_WIDTHS = (1.0, 3.0, 10.0)  # of the kernel, over the rms distance of two galaxies


class Parts(NamedTuple):
    """Numbers [n, M] or targets [n, T] of the galaxies to fit, to choose and to judge."""

    fit: Tensor
    choose: Tensor
    judge: Tensor


def probe(numbers: Parts, targets: Parts, kernel: bool = True) -> dict[str, Tensor]:
    """Predict targets from the numbers of a stage.

    Parameters
    ----------
    numbers, targets : Parts
    kernel : bool
        Whether to use the probe with a kernel too.

    Returns
    -------
    dict of str to Tensor, shape (n, T)
        ``linear`` and, if wanted, ``kernel``: predictions for the galaxies to judge.
    """
    centre, targets_centre = numbers.fit.double().mean(0), targets.fit.double().mean(0)
    spread = numbers.fit.double().std(0)
    used = spread > 0
    rows = [((part.double() - centre) / spread)[:, used] for part in numbers]
    wanted = [part.double() - targets_centre for part in targets]
    if not used.any():
        constant = targets_centre.expand_as(targets.judge)
        return {"linear": constant, **({"kernel": constant} if kernel else {})}
    products = [part @ rows[0].mT for part in rows]
    found = {"linear": targets_centre + _best([products], wanted)}
    if kernel:
        squares = [part.square().sum(1) for part in rows]
        distances = [
            (own[:, None] + squares[0] - 2 * product).clamp_min(0) for own, product in zip(squares, products)
        ]
        typical = distances[0].mean()
        kernels = [[torch.exp(-part / (width**2 * typical)) for part in distances] for width in _WIDTHS]
        found["kernel"] = targets_centre + _best(kernels, wanted)
    return found


def _best(kernels: Sequence[Sequence[Tensor]], targets: Sequence[Tensor]) -> Tensor:
    """Return the predictions [n, T] with the kernel and the strength that are best for each target.

    A kernel is given as its values between the galaxies to fit, to choose and to judge, and those to fit.
    """
    least = torch.full((targets[0].shape[1],), torch.inf, dtype=torch.float64)
    found = torch.zeros(len(kernels[0][2]), targets[0].shape[1], dtype=torch.float64)
    for kernel in kernels:
        values, vectors = torch.linalg.eigh(kernel[0])
        values = values.clamp_min(0)
        seen = vectors.mT @ targets[0]
        choose, judge = kernel[1] @ vectors, kernel[2] @ vectors
        for strength in (_STRENGTHS * values.mean()).tolist():
            weights = seen / (values + strength)[:, None]
            error = (choose @ weights - targets[1]).square().mean(0)
            better = error < least
            least = torch.where(better, error, least)
            if better.any():
                found[:, better] = judge @ weights[:, better]
    return found
