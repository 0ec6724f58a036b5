"""What an estimator is, and what it answers."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from shearbench.options import Label, Options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from shearbench.stamps import StampBatch


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


class Estimator(Options):
    """Options of an estimator, and the measurement itself.

    A concrete estimator is a subclass in a module of `shearbench.estimators`. It sets ``kind``, declares
    its options as fields, lists its ``presets``, and implements `measure`. Its module imports heavy
    packages only inside functions.
    """

    kind: ClassVar[str]
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    """Names a configuration may use at once, with the options they stand for."""
    ensemble_response: ClassVar[bool] = False
    """Whether its answers are ellipticities that mean something only divided by the mean response of an
    ensemble, which it gives in the extras R11, R12, R21, R22 (Rij = d e_i / d gamma_j)."""
    label: Label | None = Field(None, description="how figures call it; the name by default")
    shear_galaxies: int | None = Field(
        None,
        ge=2,
        le=10**8,
        description="galaxies of the shear split that it measures (the first ones), where all take too long",
    )

    def unavailable(self) -> str | None:
        """Return why the estimator cannot run on this machine and how to get it, or None if it can."""
        return None

    def modules(self) -> tuple[str, ...]:
        """Return the modules whose code decides the answer; what they import is found from there."""
        return (type(self).__module__,)

    def batch_size(self) -> int | None:
        """Return how many stamps `measure` should get at once, or None where the usual number will do."""
        return None

    def measure(self, batch: StampBatch) -> Shapes:
        """Estimate the shape of every stamp of a batch.

        Stamps with bad pixels never reach it (`shearbench.measurement.measure_stamps` flags them), and
        a failure of one stamp must not touch the others: it is flagged.
        """
        raise NotImplementedError
