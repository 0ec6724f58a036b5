"""Shapes: what every estimator returns, and why one of them is not to be used."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Flag(enum.IntFlag):
    """Why an estimate is not to be used; 0 is a good one."""

    GOOD = 0
    BAD_PIXELS = 1  # NaN or infinite pixels
    NOT_CONVERGED = 2
    SINGULAR = 4  # no usable covariance
    OUT_OF_RANGE = 8  # |g| >= 1, a size or flux that cannot be: T <= 0 without a prior, too
    FAILED = 16  # the peer's code gave up, or raised
    DIVERGED = 32  # the network's training did not stay finite


@dataclass
class Shapes:
    """Estimated shapes of n stamps.

    Attributes
    ----------
    g1, g2 : ndarray of float64, shape (n,)
        Reduced-shear shape, GalSim's convention; NaN where there is none.
    g1_err, g2_err : ndarray of float64, shape (n,)
        The estimator's own 1-sigma errors; NaN where it has none.
    flag : ndarray of int64, shape (n,)
        `Flag` bits.
    extra : dict of str to ndarray, shape (n,)
        Further columns, such as ``flux`` and ``T``.
    """

    g1: NDArray[np.float64]
    g2: NDArray[np.float64]
    g1_err: NDArray[np.float64]
    g2_err: NDArray[np.float64]
    flag: NDArray[np.int64]
    extra: dict[str, NDArray[Any]] = field(default_factory=dict)

    @classmethod
    def failed(cls, n: int, flag: Flag) -> Shapes:
        """Return n estimates that all failed for the same cause."""
        import numpy as np

        nothing = np.full(n, np.nan)
        return cls(nothing, nothing.copy(), nothing.copy(), nothing.copy(), np.full(n, int(flag)))
