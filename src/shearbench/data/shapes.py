"""Shapes: the result that all estimators return, with flags for shapes that must not be used."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Flag(enum.IntFlag):
    """The reasons why an estimate must not be used; 0 marks a good estimate."""

    GOOD = 0
    BAD_PIXELS = 1  # NaN or infinite pixels
    NOT_CONVERGED = 2
    SINGULAR = 4  # no usable covariance
    OUT_OF_RANGE = 8  # |g| >= 1, or an impossible size or flux, such as T <= 0 without a prior
    FAILED = 16  # the estimator's code reported a failure or raised an error
    DIVERGED = 32  # the training of the network diverged


@dataclass
class Shapes:
    """Estimated shapes of n stamps.

    Attributes
    ----------
    g1, g2 : ndarray of float64, shape (n,)
        Reduced-shear shapes in GalSim's convention; NaN where the measurement failed.
    g1_err, g2_err : ndarray of float64, shape (n,)
        The 1-sigma errors that the estimator itself gives; NaN if it gives none.
    flag : ndarray of int64, shape (n,)
        `Flag` bits.
    extra : dict of str to ndarray, shape (n,)
        Further results of the estimator, such as ``flux`` and ``T``.
    """

    g1: NDArray[np.float64]
    g2: NDArray[np.float64]
    g1_err: NDArray[np.float64]
    g2_err: NDArray[np.float64]
    flag: NDArray[np.int64]
    extra: dict[str, NDArray[Any]] = field(default_factory=dict)

    @classmethod
    def failed(cls, n: int, flag: Flag) -> Shapes:
        """Return n failed estimates: NaN, with the same flag for all."""
        import numpy as np

        nothing = np.full(n, np.nan)
        return cls(nothing, nothing.copy(), nothing.copy(), nothing.copy(), np.full(n, int(flag)))
