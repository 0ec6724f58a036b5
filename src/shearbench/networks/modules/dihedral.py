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

MIRRORS = (
    (1.0, 1.0, 1.0),
    (1.0, -1.0, -1.0),
    (-1.0, -1.0, 1.0),
    (-1.0, 1.0, -1.0),
    (-1.0, 1.0, 1.0),
    (1.0, 1.0, -1.0),
    (1.0, -1.0, 1.0),
    (-1.0, -1.0, -1.0),
)
"""Each element as signs (x, y, diagonal): a transposition where the third is negative, then mirrors."""


def transform_images(images: Tensor, element: int) -> Tensor:
    """Apply an element of the group to images [..., ny, nx], ny = nx; a view where torch can give one."""
    if element >= 4:
        images = images.flip(-1)
    return torch.rot90(images, element % 4, (-2, -1))


def signs(element: int) -> tuple[float, float]:
    """Return what an element of the group multiplies g1 and g2 by (its own inverse)."""
    x, y, diagonal = MIRRORS[element]
    return diagonal, x * y


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


def turned_back(
    answer: Tensor, signs: Sequence[Tensor] | Sequence[float], targets: tuple[str, ...]
) -> Tensor:
    """Undo, in what a network answers, that a stamp was mirrored in x and y and then transposed.

    Parameters
    ----------
    answer : Tensor, shape (..., n, T) or (..., n, T + 3)
        The targets and, behind them, the entries l11, l21, l22 of a matrix that whitens (g1, g2).
    signs : three floats, or three Tensors of shape (n,)
        Negative where the stamp was mirrored in x, in y, and in the diagonal.
    targets : tuple of str
        Their names; the positions are x and y.

    Returns
    -------
    Tensor, of the same shape
    """
    x, y, diagonal = signs
    columns = list(answer.unbind(-1))
    at = {name: columns[k] for k, name in enumerate(targets)}
    at["g1"], at["g2"] = at["g1"] * diagonal, at["g2"] * (x * y)
    if "x" in at:
        if isinstance(diagonal, Tensor):
            swap = diagonal < 0
            along = [torch.where(swap, at[b], at[a]) for a, b in ("xy", "yx")]
        else:
            along = [at[name] for name in ("yx" if diagonal < 0 else "xy")]
        at["x"], at["y"] = x * along[0], y * along[1]
    rest = columns[len(targets) :]
    if rest:
        rest[1] = rest[1] * (diagonal * x * y)
    return torch.stack([*(at[name] for name in targets), *rest], -1)


def transform_answer(answer: Tensor, element: int, targets: tuple[str, ...]) -> Tensor:
    """Apply an element of the group to what a network answers, or to true parameters; see `turned_back`."""
    return turned_back(answer, MIRRORS[element], targets)


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
    images : Tensor, shape (..., n, ny, nx)
        Before the last three there may be more dimensions, of several batches.
    psf : Tensor, shape (ny, nx) or (..., n, ny, nx)
        One PSF for all stays as it is: it has no part in what the network sees.
    parameters : Tensor, shape (..., n, T)
        The true targets.
    targets : tuple of str
        Their names.
    counts : sequence of int, optional
        How many stamps each element turns; by default as equal as can be.

    Returns
    -------
    images, psf, parameters : Tensor
    """
    if counts is None:
        counts = [part.shape[-2] for part in parameters.tensor_split(ORDER, -2)]
    sizes = list(counts)

    def turned(stack: Tensor) -> Tensor:
        return torch.cat([transform_images(part, k) for k, part in enumerate(stack.split(sizes, -3))], -3)

    parts = parameters.split(sizes, -2)
    parameters = torch.cat([transform_answer(part, k, targets) for k, part in enumerate(parts)], -2)
    return turned(images), turned(psf) if psf.ndim > 2 else psf, parameters
