"""GalSim's HSM moments, corrected for the PSF: re-Gaussianisation and KSB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from shearbench.data.shapes import Shapes
from shearbench.estimators.base import Estimator

if TYPE_CHECKING:
    from shearbench.data.stamps import StampBatch


class Hsm(Estimator):
    """GalSim's adaptive moments with a PSF correction (Hirata & Seljak 2003, MNRAS 343, 459)."""

    kind: ClassVar[str] = "hsm"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "hsm-regauss": {"method": "regauss", "label": "HSM re-Gaussianisation"},
        "hsm-ksb": {"method": "ksb", "label": "HSM KSB"},
    }

    method: Literal["regauss", "ksb"] = Field(
        "regauss",
        description="PSF correction: re-Gaussianisation (a distortion, converted to g) or KSB (a shear)",
    )

    def measure(self, batch: StampBatch) -> Shapes:
        """Estimate the shape of every stamp of a batch."""
        from shearbench.measurement.hsm import measure_moments

        return measure_moments(batch, self.method)
