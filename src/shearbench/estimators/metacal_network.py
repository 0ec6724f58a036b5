"""Metacalibration around a network of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from shearbench.data.shapes import Shapes
from shearbench.estimators.base import Estimator
from shearbench.options import Name

if TYPE_CHECKING:
    from shearbench.data.stamps import StampBatch


class MetacalNetwork(Estimator):
    """Shear the stamp a little, let a trained network measure it again, and so learn the network's response.

    The answers are ellipticities with a response of their own, not shapes: they make sense divided by the
    mean response of an ensemble. The network sees a wider, rounder PSF than it was trained with; what that
    does to its answers is in the response.
    """

    kind: ClassVar[str] = "metacal-network"
    presets: ClassVar[dict[str, dict[str, Any]]] = {"metacal-network": {}}
    ensemble_response: ClassVar[bool] = True

    network: Name = Field(
        "pooled", description="one of the run's `variants`, as trained with the first of `seeds`"
    )
    network_file: str | None = Field(None, description="its model file; the workflow fills this in")
    step: float = Field(0.01, ge=1e-6, le=0.1, description="shear applied to the stamps, both ways")

    def measure(self, batch: StampBatch) -> Shapes:
        """Estimate the ellipticity of every stamp of a batch, and its response.

        Raises
        ------
        ContractError
            The model file cannot be read, or is another network's.
        """
        from shearbench.measurement.metacal import measure_response
        from shearbench.measurement.trained_network import load_network

        return measure_response(load_network(str(self.network_file), self.network), batch, self.step)
