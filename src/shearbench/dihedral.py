"""The eight rotations and mirrors of a square stamp, and what they do to its shape.

A spin-2 shape g = g1 + i g2 follows the image (rows grow with +y, columns with +x):

====================  =================
image                 (g1, g2) becomes
====================  =================
turned by 90 degrees  (-g1, -g2)
turned by 180         (g1, g2)
mirrored in x or y    (g1, -g2)
transposed            (-g1, g2)
====================  =================
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ORDER = 8
"""Elements of the group: ``element % 4`` quarter turns, after a mirror in x when ``element >= 4``."""


def transform_images(images: Tensor, element: int) -> Tensor:
    """Apply an element of the group to images [..., ny, nx], ny = nx; a view where torch can give one."""
    if element >= 4:
        images = images.flip(-1)
    return torch.rot90(images, element % 4, (-2, -1))


def signs(element: int) -> tuple[float, float]:
    """Return what an element of the group multiplies g1 and g2 by (its own inverse)."""
    turn = -1.0 if element % 2 else 1.0
    return turn, -turn if element >= 4 else turn


def product(first: int, second: int) -> int:
    """Return the element that applies `second` and, after it, `first`."""
    turns = first % 4 + (-second if first >= 4 else second) % 4
    return turns % 4 + 4 * ((first >= 4) != (second >= 4))


def inverse(element: int) -> int:
    """Return the element that undoes another: a mirror, together with any turn, is its own inverse."""
    return element if element >= 4 else -element % 4


def transform_shapes(shapes: Tensor, element: int) -> Tensor:
    """Apply an element of the group to shapes [n, 2] = (g1, g2)."""
    return shapes * shapes.new_tensor(signs(element))


def transform_answer(answer: Tensor, element: int, targets: tuple[str, ...]) -> Tensor:
    """Apply an element of the group to what a network answers, or to true parameters.

    Parameters
    ----------
    answer : Tensor, shape (n, T) or (n, T + 3)
        The targets and, behind them, the entries l11, l21, l22 of a matrix that whitens (g1, g2).
    element : int
    targets : tuple of str
        Their names; the positions are x and y.

    Returns
    -------
    Tensor, of the same shape
    """
    by_g1, by_g2 = signs(element)
    columns = list(answer.unbind(1))
    at = {name: k for k, name in enumerate(targets)}
    columns[at["g1"]] = columns[at["g1"]] * by_g1
    columns[at["g2"]] = columns[at["g2"]] * by_g2
    if "x" in at:
        x, y = columns[at["x"]], columns[at["y"]]
        x = -x if element >= 4 else x
        for _ in range(element % 4):
            x, y = y, -x
        columns[at["x"]], columns[at["y"]] = x, y
    if len(columns) > len(targets):
        columns[len(targets) + 1] = columns[len(targets) + 1] * (by_g1 * by_g2)
    return torch.stack(columns, 1)


def augment(
    images: Tensor,
    psf: Tensor,
    parameters: Tensor,
    targets: tuple[str, ...],
    counts: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Turn and mirror a batch: its i-th eighth by the i-th element of the group.

    In a batch in random order that is a random element for each stamp, at the price of a copy.

    Parameters
    ----------
    images : Tensor, shape (n, ny, nx)
    psf : Tensor, shape (ny, nx) or (n, ny, nx)
        One PSF for all stays as it is: it has no part in what the network sees.
    parameters : Tensor, shape (n, T)
        The true targets.
    targets : tuple of str
        Their names.
    counts : sequence of int, optional
        How many stamps each element turns; by default as equal as can be.

    Returns
    -------
    images, psf, parameters : Tensor
    """
    sizes = [len(part) for part in parameters.tensor_split(ORDER)] if counts is None else list(counts)

    def turned(stack: Tensor) -> Tensor:
        return torch.cat([transform_images(part, k) for k, part in enumerate(stack.split(sizes))])

    parts = parameters.split(sizes)
    parameters = torch.cat([transform_answer(part, k, targets) for k, part in enumerate(parts)])
    return turned(images), turned(psf) if psf.ndim == 3 else psf, parameters
