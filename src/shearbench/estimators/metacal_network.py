"""Metacalibration around a network of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from shearbench.data.shapes import Shapes
from shearbench.estimators.base import Estimator
from shearbench.options import Name

if TYPE_CHECKING:
    from shearbench.data.stamps import StampBatch
    from shearbench.networks.base import Architecture


class MetacalNetwork(Estimator):
    """Metacalibration of a trained network: its shear response is measured on artificially sheared stamps.

    The results are ellipticities and their shear responses, not shapes: the mean ellipticity of an ensemble
    over its mean response is a shear (Sheldon & Huff 2017, ApJ 841, 24). The sheared stamps have a wider and
    rounder PSF than those that the network was trained with; the response includes the effect of that. A
    network that whitens its input (`whitened`, and so `refined`) cannot measure them at low noise if the PSF
    of the population is elliptical: it amplifies the difference of the PSFs, and all its answers are flagged.
    `anacal-network` computes the response through the layers of the network instead, as the published `d4cnn`
    is calibrated (Lin et al. 2026, arXiv:2603.19046).
    """

    kind: ClassVar[str] = "metacal-network"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "metacal-network": {},
        "anacal-network": {"response": "analytic"},
    }
    ensemble_response: ClassVar[bool] = True

    network: Name = Field(
        "pooled", description="one of the run's `variants`, as trained with the first of `seeds`"
    )
    network_file: str | None = Field(None, description="its model file; the workflow fills this in")
    response: Literal["finite", "analytic"] = Field(
        "finite",
        description="`finite`: from the answers to stamps sheared both ways. `analytic`: the derivative at "
        "zero shear, through the Fourier transform of the stamp and the layers of the network, as in AnaCal; "
        "not for networks with a forward model",
    )
    step: float = Field(
        0.01,
        ge=1e-6,
        le=0.1,
        description="shear applied to the stamps, both ways; the PSF of the sheared stamps is wider by twice "
        "this fraction, also with `response: analytic`",
    )

    def objection(self, architecture: Architecture) -> str | None:
        """Return why the estimator cannot use a network, or None if it can."""
        from shearbench.networks.base import Architecture

        if self.response == "analytic" and type(architecture).refinement is not Architecture.refinement:
            return (
                "its forward model is not differentiated by the pixels, which response: analytic needs; set "
                "response to finite"
            )
        return None

    def measure(self, batch: StampBatch) -> Shapes:
        """Estimate the ellipticity of every stamp of a batch, and its shear response.

        Raises
        ------
        ContractError
            The model file cannot be read, or holds another network.
        """
        from shearbench.measurement.metacal import analytic_response, measure_response
        from shearbench.measurement.trained_network import load_network

        network = load_network(str(self.network_file), self.network)
        measured = analytic_response if self.response == "analytic" else measure_response
        return measured(network, batch, self.step)
