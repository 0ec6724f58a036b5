"""The power law by which errors fall with the number of galaxies or of training steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class PowerLaw(NamedTuple):
    """A fit of ``value = amplitude * size**exponent``.

    Attributes
    ----------
    amplitude : float
    exponent : float
    exponent_err : float
        Standard deviation. Where the points scatter more than their errors, it includes that.
    chi2 : float
        Sum of squared deviations in units of the errors.
    n : int
        Number of points.
    """

    amplitude: float
    exponent: float
    exponent_err: float
    chi2: float
    n: int


def power_law(sizes: Sequence[float], values: Sequence[float], errors: Sequence[float]) -> PowerLaw | None:
    """Fit a power law by weighted least squares in the logarithms.

    Parameters
    ----------
    sizes, values : sequence of float
        Positive. Points with a value or an error that is NaN are left out.
    errors : sequence of float
        Standard deviations of the values.

    Returns
    -------
    PowerLaw or None
        None if fewer than three points with different sizes are left. If chi2 is larger than its expectation,
        the n - 2 degrees of freedom, the error of the exponent is multiplied by the root of their ratio.
    """
    table = np.array([sizes, values, errors], dtype=float)
    table = table[:, np.isfinite(table).all(0) & (table > 0).all(0)]
    x, y, error = np.log(table[0]), np.log(table[1]), table[2] / table[1]
    if len(np.unique(x)) < 3:
        return None
    weight = error**-2
    centre, middle = np.average(x, weights=weight), np.average(y, weights=weight)
    moment = float((weight * (x - centre) ** 2).sum())
    exponent = float((weight * (x - centre) * (y - middle)).sum()) / moment
    chi2 = float((weight * (y - middle - exponent * (x - centre)) ** 2).sum())
    excess = max(1.0, chi2 / (len(x) - 2))
    amplitude = math.exp(middle - exponent * centre)
    return PowerLaw(amplitude, exponent, math.sqrt(excess / moment), chi2, len(x))
