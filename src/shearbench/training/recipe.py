"""How a network is trained: plain options, cheap to import."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from shearbench.options import Options

Fraction = Annotated[float, Field(ge=0, lt=1)]


class Recipe(Options):
    """The options of training. All fields have the unit in their description, or none."""

    noise: PositiveFloat | tuple[PositiveFloat, PositiveFloat] = Field(
        (1e-5, 1e-1),
        description="Noise per pixel (flux units) of the training stamps, drawn anew at every step: one "
        "sigma, or the ends of the range over which log sigma is uniform. The network is told the level.",
    )
    validation_noise: list[PositiveFloat] | None = Field(
        None,
        description="Noise levels (flux units per pixel) of validation and of the calibrated errors; null: "
        "those of `noise`, a level a decade.",
    )
    validation_stamps: PositiveInt = Field(
        1000, description="Stamps validated on after each epoch, at each level; the errors use all of them."
    )
    d4: bool = Field(
        True,
        description="Show each stamp in a random one of its 8 orientations (quarter turns, mirrors).",
    )
    epochs: PositiveInt = Field(8, description="Epochs; after each, validation and a checkpoint.")
    epoch_stamps: PositiveInt | None = Field(
        None, description="Stamps shown in an epoch; null: each training stamp once."
    )
    batch_size: PositiveInt = Field(64, description="Stamps in a step.")
    loss: Literal["mse", "mae", "huber"] = Field(
        "mse",
        description="What is minimised, of the residual over its running rms at that noise level, so that "
        "all levels weigh alike.",
    )
    optimiser: Literal["adamw", "muon"] = Field(
        "muon",
        description="AdamW for all weights, or Muon for the inner weight matrices and AdamW for the rest.",
    )
    learning_rate: PositiveFloat = Field(2e-3, description="At its highest.")
    warmup: Fraction = Field(0.05, description="Part of the steps in which the rate rises to it, linearly.")
    final_rate: Fraction = Field(
        0.0, description="Part of the rate left at the end of the cosine that follows."
    )
    weight_decay: float = Field(0.0, ge=0, description="Decoupled, for weight matrices only; times the rate.")
    gradient_clip: PositiveFloat | None = Field(
        1.0, description="Largest norm of the gradient; null: no limit."
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Decay per step of the running mean of the weights that is then validated and kept; "
        "null: the weights themselves, which are better once the rate falls to zero.",
    )
    patience: PositiveInt | None = Field(
        None, description="Epochs without a better validation loss after which training stops; null: never."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Recipe:
        if isinstance(self.noise, tuple) and self.noise[0] >= self.noise[1]:
            raise ValueError(f"noise: the range {list(self.noise)} must rise")
        return self

    def refuses(self, stamps: int) -> str | None:
        """Return why it cannot train on so many stamps, or None if it can."""
        shown = self.epoch_stamps or stamps
        if shown < self.batch_size:
            return f"training.batch_size: {self.batch_size} is more than the {shown} stamps of an epoch"
        return None

    @property
    def noise_range(self) -> tuple[float, float]:
        """Lowest and highest noise level."""
        return self.noise if isinstance(self.noise, tuple) else (self.noise, self.noise)

    @property
    def validation_levels(self) -> list[float]:
        """Noise levels to validate at, ascending."""
        if self.validation_noise is not None:
            return sorted(set(self.validation_noise))
        low, high = self.noise_range
        steps = max(1, math.ceil(math.log10(high / low) - 1e-9)) if high > low else 0
        return [low * (high / low) ** (k / max(steps, 1)) for k in range(steps + 1)]
