"""Metacalibration around any estimator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, ValidationError, model_validator

from shearbench.data.shapes import Shapes
from shearbench.estimators.base import Estimator

if TYPE_CHECKING:
    from shearbench.data.stamps import StampBatch


class Metacal(Estimator):
    """Shear the stamp a little, measure again, and so learn how the estimator answers to a shear.

    The answers are ellipticities with a response of their own, not shapes: they make sense divided by the
    mean response of an ensemble.
    """

    kind: ClassVar[str] = "metacal"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "metacal-mixture-gauss": {"estimator": "mixture-gauss", "label": "Metacal mixture gauss"},
        "metacal-hsm-regauss": {"estimator": "hsm-regauss", "label": "Metacal HSM"},
    }
    ensemble_response: ClassVar[bool] = True

    estimator: str = Field("mixture-gauss", description="preset that measures the sheared stamps")
    options: dict[str, Any] = Field(default_factory=dict, description="what it changes of that preset")
    step: float = Field(0.01, ge=1e-6, le=0.1, description="shear applied to the stamps, both ways")

    @model_validator(mode="after")
    def _check(self) -> Metacal:
        from shearbench.errors import nearest
        from shearbench.estimators import estimator_kinds, estimator_presets

        presets = estimator_presets()
        allowed = sorted(n for n, p in presets.items() if not estimator_kinds()[p["kind"]].ensemble_response)
        if self.estimator not in allowed:
            raise ValueError(
                f"estimator: there is no preset '{self.estimator}'{nearest(self.estimator, allowed)} that "
                f"gives shapes; there are {', '.join(allowed)}"
            )
        try:
            self.inner()
        except ValidationError as error:
            found = error.errors()[0]
            raise ValueError(f"options.{'.'.join(map(str, found['loc']))}: {found['msg']}") from None
        return self

    def inner(self) -> Estimator:
        """Return the estimator that measures the sheared stamps."""
        from shearbench.estimators import estimator_presets, make_estimator

        preset = estimator_presets()[self.estimator]
        return make_estimator({**preset, **self.options, "kind": preset["kind"]})

    def unavailable(self) -> str | None:
        """Return why the estimator inside cannot run here, if so."""
        return self.inner().unavailable()

    def modules(self) -> tuple[str, ...]:
        """Return this module and those of the estimator inside."""
        return (*super().modules(), *self.inner().modules())

    def measure(self, batch: StampBatch) -> Shapes:
        """Estimate the ellipticity of every stamp of a batch, and its response."""
        from shearbench.measurement.metacal import measure_response

        return measure_response(self.inner(), batch, self.step)
