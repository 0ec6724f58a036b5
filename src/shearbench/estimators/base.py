"""The base class of estimators: options, presets and one method that measures a batch of stamps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from shearbench.options import Label, Options

if TYPE_CHECKING:
    from shearbench.data.stamps import StampBatch
from shearbench.data.shapes import Shapes


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

        Stamps with bad pixels never reach it: `shearbench.measurement.running.measure_stamps` flags them. A
        failure of one stamp must not touch the others: it is flagged.
        """
        raise NotImplementedError
