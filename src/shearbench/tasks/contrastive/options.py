"""Options of the training of an encoder without labels. Importing this module does not import torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from shearbench.networks.base import Architecture
from shearbench.networks.terms import Width
from shearbench.options import Distinct
from shearbench.training.recipe import MIXING, Augmentation, Recipe
from shearbench.training.variants import Variant


class ContrastiveRecipe(Recipe):
    """The options of the training of an encoder: those of `Recipe` that apply, and its own."""

    without: ClassVar[tuple[str, ...]] = (
        "data",
        "galaxies",
        "noise_margin",
        "validation_noise",
        "curriculum",
        "realisations",
        "exponents",
        "labels",
        "response",
        "target_weights",
        "loss_scaling",
        "start_from",
    )
    """Options of `Recipe` that the training of an encoder does not have."""

    loss: Literal["info_nce"] = Field(  # type: ignore[assignment]
        "info_nce",
        description="Loss function: InfoNCE of SimCLR (Chen et al. 2020, arXiv:2002.05709). Two changed "
        "views of each image are made; of all views in the batch, each is to find the other one of its "
        "image.",
    )
    temperature: float = Field(
        0.2,
        ge=1e-3,
        le=100,
        description="Temperature of the loss, by which the cosines between embeddings are divided.",
    )
    features: Width = Field(64, description="Number of outputs of the encoder f.")
    projection: Annotated[tuple[Width, Width], Field()] = Field(
        (64, 32),
        description="Units of the hidden layer and of the output of the projection g, in which views are "
        "compared; it is not used after the training.",
    )
    batch_size: Annotated[int, Field(ge=2, le=10**6)] = Field(
        256, description="Number of images in a training step; each has two views."
    )
    optimiser: Literal["sgd", "adam", "adamw", "muon", "soap"] = Field(
        "adamw", description="Optimiser; see `training.optimiser`."
    )
    epochs: Annotated[int, Field(ge=1, le=10**5)] = Field(
        30, description="Number of epochs; each ends with a validation and a checkpoint of the training."
    )

    @model_validator(mode="after")
    def _without_labels(self) -> ContrastiveRecipe:
        for name in self.without:
            if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True):
                raise ValueError(f"{name}: the training of an encoder has no such option; leave it out")
        for name in self.augmentation:
            if name in MIXING:
                raise ValueError(
                    f"augmentation: '{name}' mixes images, and a view must be of one; leave it out"
                )
        if not self.augmentation:
            raise ValueError("augmentation: without changes both views are equal; name some")
        return self


class StampRecipe(ContrastiveRecipe):
    """The options of the training of an encoder of stamps."""

    augmentation: Annotated[tuple[Augmentation, ...], Distinct] = Field(
        ("shift", "brightness"),
        description="Changes of each stamp, made one after the other, that make a view of it; those of "
        "`training.augmentation` without `mixup` and `cutmix`. `d4` turns both views alike. `rotation` turns "
        "each by an angle of its own, so that the encoder learns to ignore the orientation, which is what "
        "shear is measured from. The noise of each view, and its level, are drawn anew.",
    )


class Encoder(Variant):
    """A network to train as an encoder, with all its options."""

    training: ContrastiveRecipe = Field(description="Options of the training.")


class StampEncoder(Encoder):
    """A network to train as an encoder of stamps, with all its options."""

    training: StampRecipe = Field(description="Options of the training.")

    def objection(self) -> str | None:
        """Return why this architecture cannot be an encoder of stamps, or None if it can."""
        architecture = self.make()
        if type(architecture).refinement is not Architecture.refinement:
            return f"the architecture '{architecture.kind}' has a forward model and cannot be an encoder"
        for name, value in (("head", "gaussian"), ("auxiliary", True), ("separate", True)):
            if getattr(architecture, name, None) == value:
                return f"options.{name}: an encoder has no targets and no such option; leave it out"
        return None

    def unlike(self, variant: Variant) -> str | None:
        """Return why a network cannot start from the weights of this encoder, or None if it can.

        Options that only the last layer or the use of the network depends on may differ.
        """
        if variant.architecture != self.architecture:
            return f"has the architecture '{self.architecture}', and this network '{variant.architecture}'"
        for name, value in self.options.items():
            if name not in _OF_THE_OUTPUT and variant.options[name] != value:
                return f"has options.{name} {value!r}, and this network {variant.options[name]!r}"
        return None


_OF_THE_OUTPUT = ("head", "auxiliary", "symmetrise", "dropout", "initialisation")
