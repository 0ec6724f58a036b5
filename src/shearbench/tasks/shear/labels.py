"""Labels that depend on the noise: the posterior mean of parameters, where stamps are linear in them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Prior(NamedTuple):
    """A normal distribution with the mean and the variances of a population's parameters.

    Attributes
    ----------
    mean, variance : Tensor of float64, shape (P,)
    targets : Tensor of int64, shape (T,)
        Places of the targets among the parameters.
    """

    mean: Tensor
    variance: Tensor
    targets: Tensor

    @classmethod
    def of(cls, parameters: Tensor, targets: tuple[int, ...]) -> Prior:
        """Return the distribution of parameters [n, P].

        A parameter that does not vary gets a small variance, so that no noise shifts it.
        """
        values = parameters.double()
        least = 1e-12 * (1 + values.square().mean(0))
        places = torch.tensor(targets, device=parameters.device)
        return cls(values.mean(0), values.var(0).clamp_min(least), places)


def posterior_shift(
    parameters: Tensor, information: Tensor, score: Tensor, prior: Prior, sigma: Tensor
) -> Tensor:
    """Return the posterior mean of the targets minus their true values, for stamps with this noise.

    With the derivatives D of a stamp, white noise sigma n, and a normal prior of mean m and covariance V, the
    posterior mean of parameters p is, where the stamp is linear in them,
    p + (D' D / sigma^2 + V^-1)^-1 (D' n / sigma - V^-1 (p - m)). Given the stamp, the expectation of this
    shift is then zero. A network that is trained on shifted labels therefore learns the same function as with
    true ones, from labels with less scatter: the shift is a control variate of the gradient. Where stamps are
    not linear or the prior is not normal, the expectation is of second order in sigma at low noise, and the
    shift of first order. The shift is multiplied by the fraction of the prior variance of the targets that
    the stamp removes, because stamps are not linear over the whole prior. D' n must be exact. With another
    matrix in place of D' D, the shift is multiplied by a matrix, so its expectation remains zero.

    Parameters
    ----------
    parameters : Tensor, shape (n, P)
        True parameters.
    information : Tensor, shape (n, P, P)
        D' D, for the derivatives of the noiseless stamp with respect to each parameter.
    score : Tensor, shape (n, P)
        D' n, for white noise n of unit variance.
    prior : Prior
    sigma : Tensor, shape (n,)
        Standard deviation of the noise in the stamp [flux per pixel].

    Returns
    -------
    Tensor, shape (n, T)
    """
    spread = prior.variance.sqrt()
    # In units of the prior's spread; the sums over pixels are exact enough in float32.
    weight = spread / sigma.double()[:, None]
    information = information.double() * weight[:, :, None] * weight[:, None, :]
    force = score.double() * weight
    deviation = (parameters.double() - prior.mean) / spread
    precision = information + torch.eye(len(spread), dtype=torch.float64, device=sigma.device)
    covariance = torch.linalg.inv_ex(precision)[0]  # `inv` would make the CPU wait for a GPU
    shift = (covariance @ (force - deviation)[:, :, None])[:, :, 0]
    left = covariance.diagonal(dim1=1, dim2=2).index_select(1, prior.targets)
    known = 1 - left.mean(1, keepdim=True)
    return ((shift * spread).index_select(1, prior.targets) * known).to(parameters.dtype)
