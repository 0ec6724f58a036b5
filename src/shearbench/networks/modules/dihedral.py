"""The eight rotations and mirrors of a square stamp (the dihedral group), and how they change its shape.

A shape g = g1 + i g2 changes with the image as follows (rows increase with y, columns with x):

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
"""Number of elements of the group. Element k is k % 4 rotations by 90 degrees, after a mirror in x if k >= "
"4."""

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
"""Each element as signs (x, y, diagonal). If the third is negative, the image is transposed first; then it is
mirrored in x and in y where the first and the second are negative."""


def transform_images(images: Tensor, element: int) -> Tensor:
    """Apply an element of the group to square images [..., n, n]; the result may be a view of the input."""
    if element >= 4:
        images = images.flip(-1)
    return torch.rot90(images, element % 4, (-2, -1))


def signs(element: int) -> tuple[float, float]:
    """Return the signs by which an element of the group multiplies g1 and g2."""
    x, y, diagonal = MIRRORS[element]
    return diagonal, x * y


def product(first: int, second: int) -> int:
    """Return the element that applies `second` and, after it, `first`."""
    turns = first % 4 + (-second if first >= 4 else second) % 4
    return turns % 4 + 4 * ((first >= 4) != (second >= 4))


def inverse(element: int) -> int:
    """Return the inverse of an element; an element with a mirror is its own inverse."""
    return element if element >= 4 else -element % 4


def transform_shapes(shapes: Tensor, element: int) -> Tensor:
    """Apply an element of the group to shapes [n, 2] = (g1, g2)."""
    return shapes * shapes.new_tensor(signs(element))


def turned_back(
    answer: Tensor, signs: Sequence[Tensor] | Sequence[float], targets: tuple[str, ...]
) -> Tensor:
    """Transform the output for a mirrored stamp into the output for the original stamp.

    The stamp was first mirrored in x and y and then transposed, each where the sign is negative.

    Parameters
    ----------
    answer : Tensor, shape (..., n, T) or (..., n, T + 3)
        The T targets and, where given, the entries l11, l21, l22 of a lower triangular matrix that whitens
        the errors of (g1, g2).
    signs : three floats, or three Tensors of shape (n,)
        Negative if the stamp was mirrored in x, mirrored in y, and transposed, respectively.
    targets : tuple of str
        Names of the targets; ``x`` and ``y`` are the positions.

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
    """Apply an element of the group to the output of a network or to true parameters.

    Parameters and result are as for `turned_back`; `element` is an integer from 0 to 7.
    """
    return turned_back(answer, MIRRORS[element], targets)


def augment(
    images: Tensor,
    psf: Tensor,
    parameters: Tensor,
    targets: tuple[str, ...],
    counts: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotate and mirror a batch: its first eighth by the first element of the group, and so on.

    If the galaxies of the batch are in random order, each gets a random element.

    Parameters
    ----------
    images : Tensor, shape (..., n, ny, nx)
        The dimensions before the last three, if any, number several batches.
    psf : Tensor, shape (ny, nx) or (..., n, ny, nx)
        A PSF common to all stamps is returned unchanged, because it is not an input of the network.
    parameters : Tensor, shape (..., n, T)
        The true targets.
    targets : tuple of str
        Names of the targets.
    counts : sequence of int, optional
        Number of stamps for each of the 8 elements; by default as equal as possible.

    Returns
    -------
    images, psf, parameters : Tensor
        Of the same shapes as the arguments.
    """
    if counts is None:
        counts = [part.shape[-2] for part in parameters.tensor_split(ORDER, -2)]
    sizes = list(counts)

    def turned(stack: Tensor) -> Tensor:
        return torch.cat([transform_images(part, k) for k, part in enumerate(stack.split(sizes, -3))], -3)

    parts = parameters.split(sizes, -2)
    parameters = torch.cat([transform_answer(part, k, targets) for k, part in enumerate(parts)], -2)
    return turned(images), turned(psf) if psf.ndim > 2 else psf, parameters
