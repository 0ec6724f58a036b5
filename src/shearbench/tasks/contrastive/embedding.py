"""Measures of an embedding: alignment, uniformity, and the rank that shows a collapse.

Alignment and uniformity are those of Wang & Isola (2020, arXiv:2005.10242), the effective rank that of Roy &
Vetterli (2007, EUSIPCO, 606).
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_RANK = 2.0
"""An embedding of a lower effective rank has collapsed: all images lie on a line."""
LEAST_VARIANCE = 0.01
"""An embedding of a lower variance of the unit vectors has collapsed: all images lie on a point."""
_PAIRS = 2000  # images of which all pairs are compared


def unit(vectors: Tensor) -> Tensor:
    """Return vectors [..., d] divided by their norms."""
    return torch.nn.functional.normalize(vectors, dim=-1)


def alignment(one: Tensor, other: Tensor) -> float:
    """Return the mean squared distance between unit vectors [n, d] of the two views of each image.

    It is 0 if both views have the same embedding, and 2 if they have nothing in common.
    """
    return float((one - other).square().sum(-1).mean())


def uniformity(vectors: Tensor) -> float:
    """Return log(mean(exp(-2 d^2))) over all pairs of unit vectors [n, d] with distances d.

    It is 0 if all vectors are equal, and near -4 if they are spread evenly over a sphere of many dimensions.
    """
    return float(torch.pdist(vectors[:_PAIRS]).square().mul(-2).exp().mean().log())


def singular_values(vectors: Tensor) -> Tensor:
    """Return the singular values, descending, of unit vectors [n, d] minus their mean, divided by sqrt(n).

    The sum of their squares is the variance of the vectors, at most 1.
    """
    centred = vectors - vectors.mean(0)
    return torch.linalg.svdvals(centred.double()) / len(vectors) ** 0.5


def effective_rank(values: Tensor) -> float:
    """Return exp(entropy) of singular values [d]: the number of dimensions that an embedding uses.

    It is d if all are equal, 1 if all but one are zero, and 0 if all are.
    """
    share = values / values.sum()
    return float(torch.special.entr(share).sum().exp()) if float(values.sum()) > 0 else 0.0


def collapsed(values: Tensor) -> bool:
    """Return whether an embedding with these singular values [d] has collapsed to a line or a point."""
    return effective_rank(values) < LEAST_RANK or float(values.square().sum()) < LEAST_VARIANCE
