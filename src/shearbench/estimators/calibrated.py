"""A network of the run whose answers a committee of small networks corrects, as in FORKLENS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, model_validator

from shearbench.data.shapes import Shapes
from shearbench.estimators.base import Estimator
from shearbench.options import Name, Sigma

if TYPE_CHECKING:
    from shearbench.data.stamps import StampBatch


class Calibrated(Estimator):
    """A trained network with a committee of perceptrons that removes the bias of its shears.

    The committee is trained on the mean squared bias over noise realisations of simulated galaxies, as in
    FORKLENS (Zhang et al. 2024, A&A 683, A209). `shearbench.tasks.shear.calibration` says what is followed
    and what differs; the weights of galaxies in FORKLENS are left out.
    """

    kind: ClassVar[str] = "calibrated"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "calibrated": {},
        "forklens-calibrated": {"network": "forklens"},
    }

    network: Name = Field(
        "shearnet", description="one of the run's `variants`, as trained with the first of `seeds`"
    )
    network_file: str | None = Field(None, description="the model file of both; the workflow fills this in")
    galaxies: int = Field(
        256,
        ge=8,
        le=10**7,
        description="simulated galaxies that the committee is trained on, in none of the run's splits: each "
        "in four orientations and under four shears, which makes four cases",
    )
    realisations: int = Field(
        4,
        ge=2,
        le=10**5,
        description="noise fields of each orientation, each used with both signs and under all four shears: "
        "a case has 8 times as many stamps",
    )
    noise: tuple[Sigma, Sigma] = Field(
        (1e-5, 1e-2),
        description="range of the noise of these galaxies [flux per pixel], as far as the network was "
        "trained with it. Of noisier stamps, the correction is that of the range's end: where the answers "
        "hardly depend on the shape, no useful correction exists",
    )
    shear: float = Field(
        0.1, ge=1e-3, le=0.3, description="largest shear of the cases, which are uniform in a disc"
    )
    members: int = Field(
        8, ge=2, le=100, description="perceptrons of each shear component; their mean is the answer"
    )
    hidden: Annotated[list[Annotated[int, Field(ge=1, le=1000)]], Field(max_length=10)] = Field(
        [5, 5, 5], description="units of each hidden layer of a perceptron"
    )
    iterations: int = Field(
        100, ge=1, le=10**6, description="largest number of iterations in the training of a perceptron"
    )

    @model_validator(mode="after")
    def _is_a_range(self) -> Calibrated:
        if self.noise[0] > self.noise[1]:
            raise ValueError(
                f"noise: found {list(self.noise)}, expected the lowest value first: "
                f"[{self.noise[1]:g}, {self.noise[0]:g}]"
            )
        return self

    def common_noise(self, trained: float | tuple[float, float]) -> tuple[float, float] | None:
        """Return the part of `noise` that a network was trained with, or None if there is none."""
        low, high = (trained, trained) if isinstance(trained, (int, float)) else trained
        both = max(self.noise[0], low), min(self.noise[1], high)
        return both if both[0] <= both[1] else None

    def training(self, trained: float | tuple[float, float]) -> dict[str, Any]:
        """Return the options of the training of the committee, as plain values.

        Parameters
        ----------
        trained : float or (float, float)
            Noise that the network was trained with, see `shearbench.training.recipe.Recipe.noise`.
        """
        names = ("galaxies", "realisations", "shear", "members", "hidden", "iterations")
        noise = self.common_noise(trained)
        return {**self.model_dump(mode="json", include={*names}), "noise": noise and list(noise)}

    def modules(self) -> tuple[str, ...]:
        """Return the names of the modules that determine the result."""
        return (*super().modules(), "shearbench.measurement.calibrated")

    def measure(self, batch: StampBatch) -> Shapes:
        """Estimate the shape of every stamp of a batch.

        Raises
        ------
        ContractError
            The model file cannot be read, holds another network, or one without a calibration.
        """
        from shearbench.measurement.calibrated import measure_calibrated

        return measure_calibrated(str(self.network_file), self.network, batch)
