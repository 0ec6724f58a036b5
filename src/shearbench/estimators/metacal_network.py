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
    """Metacalibration of a trained network: its shear response is measured on artificially sheared stamps.

    The results are ellipticities and their shear responses, not shapes: the mean ellipticity of an ensemble
    over its mean response is a shear (Sheldon & Huff 2017, ApJ 841, 24). The sheared stamps have a wider and
    rounder PSF than those that the network was trained with; the response includes the effect of that. A
    network that whitens its input (`whitened`, and so `refined`) cannot measure them at low noise if the PSF
    of the population is elliptical: it amplifies the difference of the PSFs, and all its answers are flagged.
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
        """Estimate the ellipticity of every stamp of a batch, and its shear response.

        Raises
        ------
        ContractError
            The model file cannot be read, or holds another network.
        """
        from shearbench.measurement.metacal import measure_response
        from shearbench.measurement.trained_network import load_network

        return measure_response(load_network(str(self.network_file), self.network), batch, self.step)
