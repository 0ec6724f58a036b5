"""Response of single estimates to shear, by automatic differentiation through the renderer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from shearbench.forward_model.fourier import Psfs, Renderer


def shear_response(
    measure: Callable[[Tensor], Tensor],
    renderer: Renderer,
    parameters: Tensor,
    psf: Psfs,
    noise: Tensor | None = None,
) -> Tensor:
    """Return the response d ghat_i / d gamma_j of each galaxy's estimate to a shear of the galaxy.

    The response is the limit of (ghat(+s) - ghat(-s)) / 2s for small s, of two images with equal noise. It
    takes one image with derivatives and two forward passes with dual numbers; finite differences take four
    images and four forward passes.

    Parameters
    ----------
    measure : callable
        Function from images [m, ny, nx] to shapes [m, 2] that torch can differentiate, such as a network.
    renderer : Renderer
    parameters : Tensor, shape (m, P)
        True parameters, in the order of `shearbench.forward_model.fourier.parameter_names`.
    psf : Psfs
    noise : Tensor, shape (m, ny, nx), optional
        Noise to add to the images.

    Returns
    -------
    Tensor, shape (m, 2, 2)
        Rows: components of the estimate; columns: of the shear.

    Notes
    -----
    A shape g becomes (g + gamma) / (1 + gamma* g) (Seitz & Schneider 1997, A&A 318, 687, eq. 2.13), whose
    derivatives at gamma = 0 are 1 - g^2 and i (1 + g^2); flux, size and centroid stay.
    """
    images, derivatives = renderer.jacobian(parameters, psf)
    g1, g2 = parameters[:, 4].to(images), parameters[:, 5].to(images)
    real, imaginary = g1**2 - g2**2, 2 * g1 * g2
    # Columns of d g / d gamma: by gamma1 and by gamma2.
    by_shear = [(1 - real, -imaginary), (-imaginary, 1 + real)]
    point = images.detach() if noise is None else images.detach() + noise
    columns = []
    for along1, along2 in by_shear:
        tangent = along1[:, None, None] * derivatives[:, 4] + along2[:, None, None] * derivatives[:, 5]
        columns.append(torch.func.jvp(measure, (point,), (tangent.detach(),))[1])
    return torch.stack(columns, dim=-1)
