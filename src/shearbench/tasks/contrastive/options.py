"""Options of the training of an encoder without labels. Importing this module does not import torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from shearbench.networks.terms import Width
from shearbench.training.recipe import MIXING, Recipe
from shearbench.training.variants import Variant


class ContrastiveRecipe(Recipe):
    """The options of the training of an encoder: those of `Recipe` that apply, and its own."""

    without: ClassVar[tuple[str, ...]] = (
        "data",
        "galaxies",
        "validation_noise",
        "curriculum",
        "realisations",
        "exponents",
        "target_weights",
        "loss_scaling",
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


class Encoder(Variant):
    """A network to train as an encoder, with all its options."""

    training: ContrastiveRecipe = Field(description="Options of the training.")
