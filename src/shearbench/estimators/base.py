"""The base class of estimators: options, presets and one method that measures a batch of stamps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from shearbench.options import Label, Options

if TYPE_CHECKING:
    from shearbench.data.stamps import StampBatch
    from shearbench.networks.base import Architecture
from shearbench.data.shapes import Shapes


class Estimator(Options):
    """The options of an estimator, and the method that measures stamps.

    A concrete estimator is a subclass in a module of `shearbench.estimators`. It sets ``kind``, declares its
    options as fields, lists its ``presets`` and implements `measure`. Its module imports packages that take
    long to import, such as torch, only inside functions.
    """

    kind: ClassVar[str]
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    """Names that a configuration may use directly, each with its options."""
    ensemble_response: ClassVar[bool] = False
    """Whether the estimator returns ellipticities, whose mean over an ensemble must be divided by the mean of
    their responses (the extra columns R11, R12, R21, R22, with Rij = d e_i / d gamma_j) to give a shear."""
    weighs_masks: ClassVar[bool] = False
    """Whether the estimator leaves out masked pixels; others measure stamps in which they are filled."""
    label: Label | None = Field(None, description="how figures call it; the name by default")
    shear_galaxies: int | None = Field(
        None,
        ge=2,
        le=10**8,
        description="galaxies of the splits shear and leakage that it measures (the first ones), where all "
        "take too long",
    )

    def unavailable(self) -> str | None:
        """Return why the estimator cannot run on this machine and how to get it, or None if it can."""
        return None

    def objection(self, architecture: Architecture) -> str | None:
        """Return why the estimator cannot use a network of the run, or None if it can."""
        return None

    def modules(self) -> tuple[str, ...]:
        """Return the names of the modules that determine the result; those that they import are added."""
        return (type(self).__module__,)

    def batch_size(self) -> int | None:
        """Return the number of stamps that `measure` should get in a batch, or None for the default."""
        return None

    def measure(self, batch: StampBatch) -> Shapes:
        """Estimate the shape of every stamp of a batch.

        Stamps with NaN or infinite pixels are left out before:
        `shearbench.measurement.running.measure_stamps` flags them. If the measurement of a stamp fails, flag
        it, and measure the others.

        Parameters
        ----------
        batch : StampBatch

        Returns
        -------
        Shapes
        """
        raise NotImplementedError
