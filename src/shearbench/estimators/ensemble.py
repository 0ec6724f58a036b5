"""Ensembles of trained networks."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from shearbench.estimators.base import Estimator
from shearbench.options import Distinct, Name


class Ensemble(Estimator):
    """Mean of trained networks, with an error that includes how much they differ.

    Its members have measured the stamps already, so it is computed from their estimates.
    """

    kind: ClassVar[str] = "ensemble"
    presets: ClassVar[dict[str, dict[str, Any]]] = {"ensemble": {}}
    without: ClassVar[tuple[str, ...]] = ("shear_galaxies",)

    networks: Annotated[tuple[Name, ...], Distinct] = Field(
        (),
        description="some of the run's `variants`; the members are these, as trained with each of `seeds`: "
        "two members or more",
    )

    @model_validator(mode="after")
    def _measures_nothing(self) -> Ensemble:
        if self.shear_galaxies is not None:
            raise ValueError(
                "shear_galaxies: an ensemble is computed from the estimates of its members; leave this out"
            )
        return self

    def modules(self) -> tuple[str, ...]:
        """Return the names of the modules that determine the result."""
        return (*super().modules(), "shearbench.measurement.ensemble")
