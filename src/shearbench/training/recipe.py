"""The options of a training. Importing this module does not import torch."""

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
    """The options of a training; a unit, where there is one, is in the description of the field."""

    data: Literal["stored", "rendered"] = Field(
        "stored",
        description="Training stamps. `stored`: the stamps of the training split, drawn by GalSim and shown "
        "again in each epoch. `rendered`: new galaxies of the same population in each epoch, rendered during "
        "training. Validation and test stamps are always drawn by GalSim.",
    )
    noise: Sigma | tuple[Sigma, Sigma] = Field(
        (1e-5, 1e-1),
        description="Standard deviation of the noise of the training stamps [flux per pixel]: one value, or "
        "a range [lowest, highest] from which each stamp takes a value, uniform in the logarithm. The value "
        "is an input of the network.",
    )
    validation_noise: Annotated[list[Sigma], Field(min_length=1)] | None = Field(
        None,
        description="Noise levels of the validation, at which the errors are calibrated too [flux per "
        "pixel]; null: the range of `noise`, in steps of a factor of 10.",
    )
    validation_stamps: Stamps = Field(
        1000,
        description="Number of validation stamps that are measured at each noise level after each epoch. The "
        "calibration of the errors uses all validation stamps.",
    )
    fresh_noise: bool = Field(
        True,
        description="Draw new noise in each epoch; if false, each epoch repeats the stamps and the noise of "
        "the first epoch.",
    )
    d4: bool = Field(
        True,
        description="Data augmentation: show each stamp in a random one of its 8 orientations (rotations by "
        "multiples of 90 degrees, and their mirror images).",
    )
    epochs: Epochs = Field(
        8, description="Number of epochs; each ends with a validation and a checkpoint of the training."
    )
    epoch_stamps: Stamps | None = Field(
        None,
        description="Number of galaxies in an epoch; null: as many as the training split has.",
    )
    batch_size: Batch = Field(64, description="Number of stamps in a training step.")
    realisations: Batch = Field(
        1,
        description="Number of noise realisations of each galaxy in a step, all of one noise level; it must "
        "divide `batch_size`.",
    )
    loss: Literal["mse", "mae", "huber", "nll", "msb"] = Field(
        "mse",
        description="Loss function of the residual (estimate minus truth, divided as `loss_scaling` says): "
        "`mse`, its mean square; `mae`, its mean absolute value; `huber`, the Huber loss; `nll`, the "
        "negative log likelihood of a normal distribution (needs `head: gaussian`); `msb`, the square of its "
        "mean over the `realisations` of a galaxy (needs 2 or more), which reduces the bias and increases "
        "the scatter.",
    )
    loss_scaling: Literal["level", "none"] = Field(
        "level",
        description="Unit of the residuals in the loss. `level`: their running rms at the noise level of the "
        "stamp, so that all noise levels have the same weight. `none`: the standard deviation of the true "
        "values, so that the noisiest stamps have most of the weight.",
    )
    optimiser: Literal["adamw", "muon", "soap"] = Field(
        "muon",
        description="Optimiser. `adamw`: AdamW for all weights. `muon`: Muon for the weight matrices except "
        "that of the last layer, AdamW for the rest. `soap`: SOAP for all weight matrices, AdamW for the "
        "rest.",
    )
    learning_rate: float = Field(
        2e-3, ge=1e-12, le=1e30, description="Highest learning rate, reached at the end of the warm-up."
    )
    warmup: Fraction = Field(
        0.05,
        description="Fraction of all training steps in which the learning rate rises linearly to "
        "`learning_rate`.",
    )
    final_rate: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Learning rate of the last step, as a fraction of `learning_rate`; after the warm-up the "
        "rate falls to it along half a cosine.",
    )
    weight_decay: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="Decoupled weight decay, for weight matrices only: in each step they are multiplied by "
        "1 minus learning rate times `weight_decay`.",
    )
    gradient_clip: Annotated[float, Field(ge=1e-9, le=1e9)] | None = Field(
        1.0, description="A gradient with a larger norm is shortened to this norm; null: no limit."
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Decay per step of an exponential moving average of the weights, which is then validated "
        "and saved; null: no average. An average is of little use where the learning rate falls to zero.",
    )
    precision: Precision = Field(
        "float32",
        description="Arithmetic of the network in training steps. `tf32`: the factors of matrix products and "
        "convolutions are rounded to 10 bits of mantissa, on a GPU only; on a CPU it is float32. `bfloat16`: "
        "layers compute with 7 bits of mantissa, by autocast. The weights, the scaling of inputs, the "
        "forward model, the loss, validation and measurement are float32 in any case.",
    )
    compile: bool = Field(
        False,
        description="Compile the network for training steps with torch.compile, which needs Triton on a GPU "
        "and a C++ compiler on a CPU.",
    )
    patience: Epochs | None = Field(
        None,
        description="Stop the training after this number of epochs without a better validation loss; null: "
        "train for all `epochs`.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Recipe:
        if isinstance(self.noise, tuple) and self.noise[0] >= self.noise[1]:
            raise ValueError(f"noise: found {list(self.noise)}, expected [lowest, highest]")
        if self.batch_size % self.realisations:
            raise ValueError(
                f"realisations: {self.realisations} does not divide batch_size, which is {self.batch_size}"
            )
        if self.loss == "msb" and self.realisations == 1:
            raise ValueError(
                "loss: msb is a mean over the noise realisations of a galaxy; set realisations to 2 or more"
            )
        return self

    def objection(self, stamps: int) -> str | None:
        """Return why a training on this number of galaxies is impossible, or None if it is possible."""
        shown = self.epoch_stamps or stamps
        if shown < self.batch_size:
            return f"training.batch_size: {self.batch_size} is more than the {shown} stamps of an epoch"
        return None

    @property
    def batch_items(self) -> int:
        """Number of galaxies in a training step; each has `realisations` stamps."""
        return self.batch_size // self.realisations

    def epoch_steps(self, items: int) -> int:
        """Return the number of steps in an epoch of `items` galaxies."""
        return items // self.batch_items

    @property
    def noise_range(self) -> tuple[float, float]:
        """Lowest and highest noise level of the training stamps [flux per pixel]."""
        return self.noise if isinstance(self.noise, tuple) else (self.noise, self.noise)

    @property
    def validation_levels(self) -> list[float]:
        """Noise levels of the validation [flux per pixel], ascending."""
        if self.validation_noise is not None:
            return sorted(set(self.validation_noise))
        low, high = self.noise_range
        steps = max(1, math.ceil(math.log10(high / low) - 1e-9)) if high > low else 0
        return [low * (high / low) ** (k / max(steps, 1)) for k in range(steps + 1)]
