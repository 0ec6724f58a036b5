"""Metacalibration around any estimator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, ValidationError, model_validator

from shearbench.data.shapes import Shapes
from shearbench.estimators.base import Estimator

if TYPE_CHECKING:
    from shearbench.data.stamps import StampBatch


class Metacal(Estimator):
    """Metacalibration: an estimator's shear response is measured on artificially sheared copies of a stamp.

    The results are ellipticities and their shear responses, not shapes: the mean ellipticity of an ensemble
    over its mean response is a shear (Sheldon & Huff 2017, ApJ 841, 24).
    """

    kind: ClassVar[str] = "metacal"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "metacal-mixture-gauss": {"estimator": "mixture-gauss", "label": "Metacal mixture gauss"},
        "metacal-hsm-regauss": {"estimator": "hsm-regauss", "label": "Metacal HSM"},
    }
    ensemble_response: ClassVar[bool] = True

    estimator: str = Field("mixture-gauss", description="preset that measures the sheared stamps")
    options: dict[str, Any] = Field(default_factory=dict, description="options that differ from that preset")
    step: float = Field(0.01, ge=1e-6, le=0.1, description="shear applied to the stamps, both ways")

    @model_validator(mode="after")
    def _check(self) -> Metacal:
        from shearbench.errors import nearest
        from shearbench.estimators import estimator_kinds, estimator_presets

        shapes = {
            kind
            for kind, cls in estimator_kinds().items()
            if not cls.ensemble_response and not {"network", "networks"} & set(cls.model_fields)
        }
        allowed = sorted(name for name, preset in estimator_presets().items() if preset["kind"] in shapes)
        if self.estimator not in allowed:
            raise ValueError(
                f"estimator: found '{self.estimator}', expected a preset of an estimator that returns "
                f"shapes and has no network of the run{nearest(self.estimator, allowed)}: "
                f"{', '.join(allowed)}"
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
        """Return why the estimator of the sheared stamps cannot run on this machine, or None if it can."""
        return self.inner().unavailable()

    def modules(self) -> tuple[str, ...]:
        """Return the names of this module and of those of the estimator that measures the sheared stamps."""
        return (*super().modules(), *self.inner().modules())

    def measure(self, batch: StampBatch) -> Shapes:
        """Estimate the ellipticity of every stamp of a batch, and its shear response."""
        from shearbench.measurement.metacal import measure_response

        return measure_response(self.inner(), batch, self.step)
