"""The options of a training. Importing this module does not import torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from shearbench.forward_model.changes import MEANINGS, Change
from shearbench.options import Distinct, Name, Options, Sigma, shown

Fraction = Annotated[float, Field(ge=0, lt=1)]
Stamps = Annotated[int, Field(ge=1, le=10**9)]
Epochs = Annotated[int, Field(ge=1, le=10**5)]
Batch = Annotated[int, Field(ge=1, le=10**6)]
Precision = Literal["float32", "tf32", "bfloat16", "float64"]
Exponent = Annotated[float, Field(ge=1, le=10)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Augmentation = Literal["d4", "rotation", "shift", "brightness", "cutout", "mixup", "cutmix"]

MIXING = ("mixup", "cutmix")
"""The augmentations that mix the stamps of a batch with each other."""
_CURRICULUM = 0.5  # fraction of the training after which a curriculum has reached the whole range of noise


class Recipe(Options):
    """The options of a training; a unit, where there is one, is in the description of the field."""

    data: Literal["stored", "rendered"] = Field(
        "stored",
        description="Training stamps. `stored`: the stamps of the training split, drawn by GalSim and shown "
        "again in each epoch. `rendered`: new galaxies of the same population in each epoch, rendered during "
        "training. Validation and test stamps are always drawn by GalSim.",
    )
    galaxies: Stamps | None = Field(
        None,
        description="Number of different galaxies of the training. With `data: stored`, the first ones of "
        "the training split; null: all. With `data: rendered`, a fixed set, rendered again in each epoch and "
        "different for each seed; null: new galaxies in each epoch. The scaling of the inputs is measured "
        "from as many galaxies of the training split.",
    )
    noise: Sigma | tuple[Sigma, Sigma] = Field(
        (1e-5, 1e-1),
        description="Standard deviation of the noise of the training stamps [flux per pixel]: one value, or "
        "a range [lowest, highest] from which each stamp takes a value, uniform in the logarithm. The value "
        "is an input of the network.",
    )
    noise_margin: float = Field(
        1.0,
        ge=1,
        le=100,
        description="Factor by which the noise of training stamps extends below the lowest value of `noise`, "
        "if that is a range, because a network is less accurate at the end of the range that it was trained "
        "on. The network is validated and used within `noise`.",
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
    curriculum: Literal["mixed", "easy_to_hard", "hard_to_easy"] = Field(
        "mixed",
        description="Order of the noise levels. `mixed`: the whole range of `noise` in each step. "
        "`easy_to_hard`: the first steps have the lowest level only; the range grows to higher levels, "
        "evenly in the logarithm, and is complete after half of the training. `hard_to_easy`: the same, "
        "from the highest level down.",
    )
    fresh_noise: bool = Field(
        True,
        description="Draw new noise in each epoch; if false, each epoch repeats the stamps and the noise of "
        "the first epoch.",
    )
    augmentation: Annotated[tuple[Augmentation, ...], Distinct] = Field(
        ("d4",),
        description="Data augmentation: a list of changes of each stamp and its true values, made one after "
        "the other before the noise is added. `d4`: one of its 8 orientations (rotations by multiples of 90 "
        "degrees, and their mirror images). `rotation`: any angle. `shift`: up to a pixel along each axis. "
        "`brightness`: a factor of 0.5 to 2. `cutout`: a square of a quarter of the side is set to zero. "
        "`mixup`: the sum of two stamps with weights that add up to 1. `cutmix`: a rectangle is that of "
        "another stamp. For these two the true values are mixed as the pixels are, although a shape is not "
        "linear in the pixels.",
    )
    epochs: Epochs = Field(
        8, description="Number of epochs; each ends with a validation and a checkpoint of the training."
    )
    epoch_stamps: Stamps | None = Field(
        None,
        description="Number of galaxies in an epoch; null: as many as `galaxies`, or as the training split "
        "has.",
    )
    batch_size: Batch = Field(64, description="Number of stamps in a training step.")
    realisations: Batch = Field(
        1,
        description="Number of noise realisations of each galaxy in a step, all of one noise level; it must "
        "divide `batch_size`.",
    )
    loss: Literal["mse", "mae", "huber", "power", "nll", "msb"] = Field(
        "mse",
        description="Loss function of the residual (estimate minus truth, divided as `loss_scaling` says): "
        "`mse`, its mean square; `mae`, its mean absolute value; `huber`, the Huber loss; `power`, the "
        "mean of its absolute value to a power that depends on the noise level, see `exponents`; `nll`, the "
        "negative log likelihood of a normal distribution (needs `head: gaussian`); `msb`, the square of its "
        "mean over the `realisations` of a galaxy (needs 2 or more), which reduces the bias and increases "
        "the scatter.",
    )
    exponents: tuple[Exponent, Exponent] = Field(
        (1.0, 2.0),
        description="Exponents of the loss `power` at the lowest and at the highest level of `noise`; "
        "between them the exponent is linear in the logarithm of the level. [1, 1] is `mae`, [2, 2] is "
        "`mse`.",
    )
    labels: Literal["truth", "posterior", "best"] = Field(
        "truth",
        description="The values that the network is trained to answer. `truth`: the true parameters. "
        "`posterior`: the true parameters, each shifted to the mean of their posterior distribution given "
        "the noise of the stamp, computed as if the stamp were linear in them. These labels have less "
        "scatter, which lowers the floor, and the network learns the same answer, up to terms of second "
        "order in the noise. It needs `data: rendered`, white noise, no augmentation, one realisation, and "
        "a loss other than nll. Rendering takes about twice as long. `best`: `posterior` if these needs are "
        "met, else `truth`.",
    )
    response: dict[Change, Weight] = Field(
        {},
        description="Weights of further terms of the loss, by their names, such as {psf: 0.1}: each stamp is "
        "also rendered with a small change in a random direction and with the same noise, and the change of "
        f"the answer is compared with that of the true shape. {MEANINGS} has the unit and the function of "
        "the loss. It needs `data: rendered`; each term takes about as long as the rest of a step.",
    )
    target_weights: dict[str, Weight] = Field(
        {},
        description="Weight of each target in the loss, by its name, such as {flux: 0.1}; a target that is "
        "not named has the weight 1. The option `auxiliary` names the targets.",
    )
    loss_scaling: Literal["level", "none"] = Field(
        "level",
        description="Unit of the residuals in the loss. `level`: their running rms at the noise level of the "
        "stamp, so that all noise levels have the same weight. `none`: the standard deviation of the true "
        "values, so that the noisiest stamps have most of the weight.",
    )
    optimiser: Literal["sgd", "adam", "adamw", "muon", "soap"] = Field(
        "muon",
        description="Optimiser. `sgd`: stochastic gradient descent with a Nesterov momentum of 0.9; its "
        "learning rate has to be about 10 times that of the others. `adam`: Adam. `adamw`: AdamW for all "
        "weights. `muon`: Muon for the weight matrices except "
        "that of the last layer, AdamW for the rest. `soap`: SOAP for all weight matrices, AdamW for the "
        "rest.",
    )
    learning_rate: float = Field(
        2e-3, ge=1e-12, le=1e30, description="Highest learning rate, reached at the end of the warm-up."
    )
    schedule: Literal["cosine", "constant", "step", "one_cycle"] = Field(
        "cosine",
        description="Learning rate after the warm-up. `cosine`: it falls to `final_rate` along half a "
        "cosine. `constant`: it does not change. `step`: it is divided by 10 after half of the training, and "
        "again after three quarters. `one_cycle`: in place of `warmup`, it rises from 1/25 of "
        "`learning_rate` along half a cosine in the first 30% of the steps, then falls to 4e-6 of it.",
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
        description="Learning rate of the last step, as a fraction of `learning_rate`, with "
        "`schedule: cosine`.",
    )
    weight_decay: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="Weight decay, for weight matrices only. In each step they are multiplied by 1 minus "
        "learning rate times `weight_decay`. `sgd` and `adam` instead add `weight_decay` times the weights "
        "to the gradient, which is an L2 penalty.",
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
        "layers compute with 7 bits of mantissa, by autocast. `float64`: the layers, their weights and the "
        "optimiser have 52 bits of mantissa; the trained weights are rounded to float32. Without `float64` "
        "the weights are float32. The scaling of inputs, the forward model, the loss and measurement are "
        "float32 in any case.",
    )
    compile: bool = Field(
        False,
        description="Compile the network for training steps with torch.compile, which needs Triton on a GPU "
        "and a C++ compiler on a CPU.",
    )
    start_from: Name | None = Field(
        None,
        description="Encoder of the section `encoders`, trained without labels on the training stamps, from "
        "whose weights the network starts, except those of its last layer; null: random weights.",
    )
    patience: Epochs | None = Field(
        None,
        description="Stop the training after this number of epochs without a better validation loss; null: "
        "train for all `epochs`.",
    )

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "d4" in values:
            raise ValueError(
                f"d4: found {shown(values['d4'])}; this option is now augmentation: write augmentation: [d4] "
                "for true, and augmentation: [] for false"
            )
        return values

    @model_validator(mode="after")
    def _ordered(self) -> Recipe:
        if isinstance(self.noise, tuple) and self.noise[0] >= self.noise[1]:
            raise ValueError(f"noise: found {list(self.noise)}, expected [lowest, highest]")
        if self.batch_size % self.realisations:
            raise ValueError(
                f"realisations: {self.realisations} does not divide batch_size, which is {self.batch_size}"
            )
        unmet = self.unmet
        if self.labels == "posterior" and unmet is not None:
            raise ValueError(f"labels: 'posterior' needs {unmet}; change that, or set labels to truth")
        if self.changes and self.data != "rendered":
            raise ValueError(
                f"response: '{self.changes[0]}' needs data: rendered, but found {self.data}; change that, or "
                "leave response out"
            )
        if self.loss == "msb" and self.realisations == 1:
            raise ValueError(
                "loss: msb is a mean over the noise realisations of a galaxy; set realisations to 2 or more"
            )
        low, high = self.noise_range
        if self.loss == "power" and low == high:
            raise ValueError(
                f"loss: the exponent of 'power' depends on the noise level, and noise is the one level "
                f"{low:g}; give noise as [lowest, highest], or use mse or mae"
            )
        if self.curriculum != "mixed" and low == high:
            raise ValueError(
                f"curriculum: '{self.curriculum}' orders noise levels, and noise is the one level {low:g}; "
                "give noise as [lowest, highest], or use mixed"
            )
        if self.curriculum != "mixed" and not self.fresh_noise:
            raise ValueError(
                f"curriculum: '{self.curriculum}' changes the noise during the training, and with "
                "fresh_noise: false all epochs have the noise of the first one; set fresh_noise to true"
            )
        if self.loss == "nll" and self.target_weights:
            raise ValueError(
                "target_weights: the loss nll is the likelihood of all components together, without weights; "
                "leave target_weights out, or use another loss"
            )
        if self.schedule != "cosine" and self.final_rate:
            raise ValueError(
                f"final_rate: {self.final_rate:g} is for the schedule cosine, and schedule is "
                f"'{self.schedule}'; leave final_rate out"
            )
        return self

    @property
    def unmet(self) -> str | None:
        """What the labels `posterior` need that the recipe does not have, or None."""
        for name, found, needed in (
            ("data", self.data, "rendered"),
            ("augmentation", list(self.augmentation), []),
            ("realisations", self.realisations, 1),
        ):
            if found != needed:
                return f"{name}: {needed}, but found {found}"
        if self.loss == "nll":
            return (
                "a loss other than nll, which would learn the scatter of these labels, not that of the truth"
            )
        return None

    @property
    def changes(self) -> list[Change]:
        """The changes of the stamps whose responses are in the loss, see `response`."""
        return [name for name in get_args(Change) if self.response.get(name)]

    def objection(self, stamps: int) -> str | None:
        """Return why a training on this number of galaxies is impossible, or None if it is possible."""
        if self.data == "stored" and self.galaxies is not None and self.galaxies > stamps:
            return (
                f"training.galaxies: {self.galaxies} is more than the {stamps} galaxies of the training "
                "split; give at most as many, raise galaxies.train, or set training.data to rendered"
            )
        shown = self.shown(stamps)
        if shown < self.batch_size:
            return (
                f"training.batch_size: {self.batch_size} is more than the {shown} stamps of an epoch; "
                "give at most as many"
            )
        return None

    def shown(self, stamps: int) -> int:
        """Return the number of galaxies in an epoch, for a training split of this number of galaxies."""
        return self.epoch_stamps or self.galaxies or stamps

    @property
    def batch_items(self) -> int:
        """Number of galaxies in a training step; each has `realisations` stamps."""
        return self.batch_size // self.realisations

    def epoch_steps(self, items: int) -> int:
        """Return the number of steps in an epoch of `items` galaxies."""
        return items // self.batch_items

    @property
    def noise_range(self) -> tuple[float, float]:
        """Lowest and highest noise level that the network is for [flux per pixel]."""
        return self.noise if isinstance(self.noise, tuple) else (self.noise, self.noise)

    @property
    def drawn_range(self) -> tuple[float, float]:
        """`noise_range` with its margin: the levels of the training stamps [flux per pixel]."""
        low, high = self.noise_range
        return (low / self.noise_margin if low < high else low), high

    def noise_range_at(self, progress: float) -> tuple[float, float]:
        """Return the lowest and highest noise level of the steps at a fraction of the training (0 to 1)."""
        low, high = self.drawn_range
        share = min(1.0, progress / _CURRICULUM)
        if self.curriculum == "easy_to_hard":
            high = low * (high / low) ** share
        elif self.curriculum == "hard_to_easy":
            low = low * (high / low) ** (1 - share)
        return low, high

    @property
    def validation_levels(self) -> list[float]:
        """Noise levels of the validation [flux per pixel], ascending."""
        if self.validation_noise is not None:
            return sorted(set(self.validation_noise))
        low, high = self.noise_range
        steps = max(1, math.ceil(math.log10(high / low) - 1e-9)) if high > low else 0
        return [low * (high / low) ** (k / max(steps, 1)) for k in range(steps + 1)]
