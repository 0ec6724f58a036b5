"""How a network is trained: plain options, cheap to import."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from shearbench.options import Options, Sigma

Fraction = Annotated[float, Field(ge=0, lt=1)]
Stamps = Annotated[int, Field(ge=1, le=10**9)]
Epochs = Annotated[int, Field(ge=1, le=10**5)]
Batch = Annotated[int, Field(ge=1, le=10**6)]
Precision = Literal["float32", "tf32", "bfloat16"]


class Recipe(Options):
    """The options of training. All fields have the unit in their description, or none."""

    data: Literal["stored", "rendered"] = Field(
        "stored",
        description="Train on the split's stored stamps, which GalSim drew, or on galaxies drawn anew from "
        "the population and rendered at every step. Validation and test stamps are GalSim's in any case.",
    )
    noise: Sigma | tuple[Sigma, Sigma] = Field(
        (1e-5, 1e-1),
        description="Noise per pixel (flux units) of the training stamps, drawn anew at every step: one "
        "sigma, or the ends of the range over which log sigma is uniform. The network is told the level.",
    )
    validation_noise: Annotated[list[Sigma], Field(min_length=1)] | None = Field(
        None,
        description="Noise levels (flux units per pixel) of validation and of the calibrated errors; null: "
        "those of `noise`, a level a decade.",
    )
    validation_stamps: Stamps = Field(
        1000, description="Stamps validated on after each epoch, at each level; the errors use all of them."
    )
    fresh_noise: bool = Field(
        True,
        description="Draw the noise anew in every epoch; if false, each epoch repeats the first, "
        "noise and all.",
    )
    d4: bool = Field(
        True,
        description="Show each stamp in a random one of its 8 orientations (quarter turns, mirrors).",
    )
    epochs: Epochs = Field(8, description="Epochs; after each, validation and a checkpoint.")
    epoch_stamps: Stamps | None = Field(
        None, description="Stamps shown in an epoch; null: as many as the training split has."
    )
    batch_size: Batch = Field(64, description="Stamps in a step.")
    realisations: Batch = Field(
        1, description="How often a step shows the same galaxy, each time with other noise of one level."
    )
    loss: Literal["mse", "mae", "huber", "nll", "msb"] = Field(
        "mse",
        description="What is minimised, of the residual in units of `loss_scaling`: "
        "the mean of its square, modulus, or Huber's loss; `nll`, the negative log "
        "likelihood of a normal distribution (needs `head: gaussian`); `msb`, the square of its mean over "
        "the `realisations` of a galaxy, which makes the answer unbiased at the price of scatter.",
    )
    loss_scaling: Literal["level", "none"] = Field(
        "level",
        description="Divide residuals by their running rms at that noise level, so that all levels "
        "weigh alike; or by the spread of the truth alone, so that the largest errors rule.",
    )
    optimiser: Literal["adamw", "muon", "soap"] = Field(
        "muon",
        description="AdamW for all weights; Muon for the inner weight matrices and AdamW for the rest; or "
        "SOAP for the weight matrices and AdamW for the rest.",
    )
    learning_rate: float = Field(2e-3, ge=1e-12, le=1e30, description="At its highest.")
    warmup: Fraction = Field(0.05, description="Part of the steps in which the rate rises to it, linearly.")
    final_rate: float = Field(
        0.0, ge=0, le=1, description="Part of the rate left at the end of the cosine that follows."
    )
    weight_decay: float = Field(
        0.0, ge=0, le=1e6, description="Decoupled, for weight matrices only; times the rate."
    )
    gradient_clip: Annotated[float, Field(ge=1e-9, le=1e9)] | None = Field(
        1.0, description="Largest norm of the gradient; null: no limit."
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Decay per step of the running mean of the weights that is then validated and kept; "
        "null: the weights themselves, which are better once the rate falls to zero.",
    )
    precision: Precision = Field(
        "float32",
        description="Of what the network computes in training steps; weights, scaling, forward model and "
        "loss stay float32, and so does measuring. `tf32` rounds the factors of its products to 10 bits, on "
        "a GPU only: on a CPU it changes nothing; `bfloat16` rounds its products and what lies between them "
        "to 7 bits, by autocast, on both.",
    )
    compile: bool = Field(
        False,
        description="Compile what the network computes in training steps by torch.compile, which needs "
        "Triton on a GPU and a C++ compiler on a CPU.",
    )
    patience: Epochs | None = Field(
        None, description="Epochs without a better validation loss after which training stops; null: never."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Recipe:
        if isinstance(self.noise, tuple) and self.noise[0] >= self.noise[1]:
            raise ValueError(f"noise: the range {list(self.noise)} must rise")
        if self.batch_size % self.realisations:
            raise ValueError(
                f"realisations: {self.realisations} does not divide batch_size, which is {self.batch_size}"
            )
        if self.loss == "msb" and self.realisations == 1:
            raise ValueError("loss: msb is a mean over noise; it needs realisations of 2 or more")
        return self

    def refuses(self, stamps: int) -> str | None:
        """Return why it cannot train on so many stamps, or None if it can."""
        shown = self.epoch_stamps or stamps
        if shown < self.batch_size:
            return f"training.batch_size: {self.batch_size} is more than the {shown} stamps of an epoch"
        return None

    @property
    def batch_items(self) -> int:
        """Examples of a step, each shown `realisations` times."""
        return self.batch_size // self.realisations

    def epoch_steps(self, items: int) -> int:
        """Return the steps of an epoch that shows so many examples."""
        return items // self.batch_items

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
