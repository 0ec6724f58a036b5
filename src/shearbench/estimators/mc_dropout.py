"""Monte Carlo dropout: a network of the run, measured many times with some of its units left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from shearbench.data.shapes import Shapes
from shearbench.estimators.base import Estimator
from shearbench.options import Name

if TYPE_CHECKING:
    from shearbench.data.stamps import StampBatch
    from shearbench.networks.base import Architecture


class McDropout(Estimator):
    """Mean of a network's answers with units left out at random; its error includes how much they differ.

    The network must have been trained with dropout (Gal & Ghahramani 2016, ICML). The units that are left out
    are the same for all stamps, so the answers are those of a fixed ensemble of thinned networks.
    """

    kind: ClassVar[str] = "mc-dropout"
    presets: ClassVar[dict[str, dict[str, Any]]] = {"mc-dropout": {}}

    network: Name = Field(
        "pooled",
        description="one of the run's `variants`, with `dropout` or `spatial_dropout`, as trained with the "
        "first of `seeds`",
    )
    network_file: str | None = Field(None, description="its model file; the workflow fills this in")
    passes: int = Field(16, ge=2, le=1000, description="number of thinned networks")

    def objection(self, architecture: Architecture) -> str | None:
        """Return why the estimator cannot use a network, or None if it can."""
        if any(value for name, value in architecture if "dropout" in name):
            return None
        return "it has no dropout; give it the option dropout or spatial_dropout"

    def modules(self) -> tuple[str, ...]:
        """Return the names of the modules that determine the result."""
        return (*super().modules(), "shearbench.measurement.mc_dropout")

    def measure(self, batch: StampBatch) -> Shapes:
        """Estimate the shape of every stamp of a batch.

        Raises
        ------
        ContractError
            The model file cannot be read, or holds another network.
        """
        from shearbench.measurement.mc_dropout import measure_thinned

        return measure_thinned(str(self.network_file), self.network, batch, self.passes)
