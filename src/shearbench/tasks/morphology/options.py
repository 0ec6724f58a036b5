"""The section `morphology` of a configuration. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from shearbench.errors import ConfigError
from shearbench.networks.base import Architecture
from shearbench.options import Distinct, Label, Name, Options, Seed, shown, validated
from shearbench.simulation.morphology import CLASSES, SimulatedImages
from shearbench.tasks.contrastive.options import ContrastiveRecipe, Encoder
from shearbench.training.recipe import Augmentation, Recipe
from shearbench.training.variants import Variant, resolve_networks

Share = Annotated[float, Field(gt=0, lt=1)]
ImageAugmentation = Literal[Augmentation, "colour", "crop"]
_CHANGES = (
    "`brightness` is a factor of 0.8 to 1.25, `shift` at most 2 pixels; `colour` multiplies each band by a "
    "factor of its own of 0.5 to 2; `crop` magnifies a square with half or more of the area."
)


class ClassRecipe(Recipe):
    """The options of the training of a classifier: those of `Recipe` that apply, and its own."""

    without: ClassVar[tuple[str, ...]] = (
        "data",
        "noise",
        "noise_margin",
        "validation_noise",
        "validation_stamps",
        "curriculum",
        "fresh_noise",
        "realisations",
        "exponents",
        "labels",
        "response",
        "target_weights",
        "loss_scaling",
        "start_from",
    )
    """Options of `Recipe` that a classifier does not have."""

    galaxies: Annotated[int, Field(ge=1, le=10**9)] | None = Field(
        None,
        description="Number of training images whose labels are used, with the same fractions of each class; "
        "null: all.",
    )
    augmentation: Annotated[tuple[ImageAugmentation, ...], Distinct] = Field(  # type: ignore[assignment]
        ("d4", "rotation", "brightness"),
        description="Changes of each image, made one after the other; those of `training.augmentation`. "
        f"{_CHANGES} `mixup` and `cutmix` mix the classes as they mix the pixels.",
    )
    loss: Literal["cross_entropy"] = Field(  # type: ignore[assignment]
        "cross_entropy", description="Loss function: the cross-entropy of the classes."
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the true class that is spread over all classes in the loss, against "
        "overconfidence.",
    )
    class_weights: Literal["balanced", "none"] = Field(
        "balanced",
        description="Weight of an image in the loss: inverse to the number of training images of its class "
        "(`balanced`), so that rare classes count as much as frequent ones, or the same for all.",
    )
    optimiser: Literal["sgd", "adam", "adamw", "muon", "soap"] = Field(
        "adamw", description="Optimiser; see `training.optimiser`."
    )
    epochs: Annotated[int, Field(ge=1, le=10**5)] = Field(
        30, description="Number of epochs; each ends with a validation and a checkpoint of the training."
    )
    patience: Annotated[int, Field(ge=1, le=10**5)] | None = Field(
        10,
        description="Stop the training after this number of epochs without a lower validation loss; null: "
        "train for all `epochs`. The weights of the epoch with the lowest validation loss are kept.",
    )

    @model_validator(mode="after")
    def _for_classes(self) -> ClassRecipe:
        for name in self.without:
            if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True):
                raise ValueError(f"{name}: the training of a classifier has no such option; leave it out")
        return self

    def objection(self, stamps: int) -> str | None:
        """Return why a training on this number of images is impossible, or None if it is possible."""
        if self.galaxies is not None and self.galaxies > stamps:
            return (
                f"training.galaxies: {self.galaxies} is more than the {stamps} images of the training split; "
                "give at most as many"
            )
        if self.shown(stamps) < self.batch_size:
            return (
                f"training.batch_size: {self.batch_size} is more than the {self.shown(stamps)} images of an "
                "epoch"
            )
        return None


class ImageRecipe(ContrastiveRecipe):
    """The options of the training of an encoder of images."""

    without: ClassVar[tuple[str, ...]] = (
        *ContrastiveRecipe.without,
        "noise",
        "validation_stamps",
        "fresh_noise",
    )

    augmentation: Annotated[tuple[ImageAugmentation, ...], Distinct] = Field(  # type: ignore[assignment]
        ("crop", "d4", "rotation", "brightness"),
        description="Changes of each image, made one after the other, that make a view of it; those of "
        f"`training.augmentation` without `mixup` and `cutmix`. {_CHANGES}",
    )


class ImageEncoder(Encoder):
    """A network to train as an encoder of images, with all its options."""

    training: ImageRecipe = Field(description="Options of the training.")


class ClassVariant(Variant):
    """A network to train as a classifier, with all its options."""

    training: ClassRecipe = Field(description="Options of the training.")


class Contrastive(Options):
    """Encoders that are trained on the training images without labels, and what they are worth."""

    encoders: dict[Name, ImageEncoder] = Field(
        default_factory=dict,
        description="encoders: presets of networks, or new names with a `base` and the options that differ "
        "from it, as in `variants`; the encoder f has the outputs `training.features`",
    )
    seeds: Annotated[tuple[Seed, ...], Distinct] = Field(
        (1, 2, 3),
        min_length=1,
        description="seeds of the trainings of each encoder, and of all that is compared with it",
    )
    training: ImageRecipe = ImageRecipe()
    labels: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Distinct] = Field(
        (0.01, 0.1, 1.0),
        min_length=1,
        description="fractions of the training images whose labels are used, by a linear classifier on f and "
        "on g, by the nearest neighbours, by fine-tuning, and by a training from scratch",
    )
    neighbours: int = Field(10, ge=1, le=1000, description="number of nearest neighbours that vote")
    fine_tuning: ClassRecipe = ClassRecipe()


class ImageFile(Options):
    """A file of images with classes, as Galaxy10 is published."""

    file: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="HDF5 file of the images, such as `Galaxy10.h5`; it is only read. null: images are "
        "simulated",
    )
    images: str = Field("images", min_length=1, description="data set of the images [n, ny, nx, bands]")
    labels: str = Field("ans", min_length=1, description="data set of the classes, numbers from 0 [n]")
    classes: Annotated[tuple[Label, ...], Field(min_length=2, max_length=100), Distinct] = Field(
        CLASSES, description="names of the classes, in the order of their numbers"
    )


class Fractions(Options):
    """Fractions of the images in each split; each class is divided alike."""

    train: Share = Field(0.7, description="fraction of the images that networks are trained with")
    validation: Share = Field(0.15, description="fraction that chooses the best epoch")
    test: Share = Field(0.15, description="fraction that accuracies are measured with")

    @model_validator(mode="after")
    def _add_up(self) -> Fractions:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train, validation and test: their sum is {total:g}, expected 1")
        return self


class Morphology(Options):
    """The classification of galaxies by morphology (docs/morphology.md)."""

    images: ImageFile = ImageFile()
    simulation: SimulatedImages = SimulatedImages()
    fractions: Fractions = Fractions()
    variants: dict[Name, ClassVariant] = Field(
        default_factory=dict,
        description="classifiers: presets of networks, or new names with a `base` and the options that "
        "differ from it, as in the section `variants`",
    )
    seeds: Annotated[tuple[Seed, ...], Distinct] = Field(
        (1,), min_length=1, description="seeds of the trainings: each classifier is trained with each seed"
    )
    training: ClassRecipe = ClassRecipe()
    contrastive: Contrastive | None = Field(
        None,
        description="encoders that are trained on the images without labels (docs/morphology.md); null: none",
    )
    angles_deg: Annotated[tuple[Annotated[float, Field(ge=0, lt=360)], ...], Distinct] = Field(
        (0, 15, 30, 45, 60, 75, 90),
        min_length=1,
        description="angles by which the test images are turned for the accuracy against the angle [degrees]",
    )

    @model_validator(mode="after")
    def _upright(self) -> Morphology:
        if 0 not in self.angles_deg:
            raise ValueError(f"angles_deg: found {list(self.angles_deg)}; 0 must be one of the angles")
        if self.images.file is None and self.images.classes != CLASSES:
            raise ValueError(
                "images.classes: the simulated images have the ten classes of Galaxy10 SDSS; leave classes "
                "out, or name a file"
            )
        return self

    @property
    def count_in_simulation(self) -> dict[str, int]:
        """Number of simulated images in each split, up to rounding."""
        return {name: round(share * self.simulation.number) for name, share in self.fractions}


def resolve_morphology(given: Mapping[str, Any] | None) -> Morphology | None:
    """Return the section `morphology` of a configuration with all defaults, or None if there is none.

    Raises
    ------
    ConfigError
        One line for each fault, with its key.
    """
    if given is None:
        return None
    at = "morphology"
    if not isinstance(given, Mapping):
        raise ConfigError(f"{at}: found {shown(given)}, expected a mapping of options")
    variants = resolve_networks(given, "variants", ClassVariant, ClassRecipe, at)
    changes: dict[str, Any] = {"variants": variants}
    if given.get("contrastive") is not None:
        inner, where = given["contrastive"], f"{at}.contrastive"
        if not isinstance(inner, Mapping):
            raise ConfigError(f"{where}: found {shown(inner)}, expected a mapping of options")
        encoders = resolve_networks(inner, "encoders", ImageEncoder, ImageRecipe, where)
        changes["contrastive"] = validated(Contrastive, {**inner, "encoders": encoders}, (where,))
    section = validated(Morphology, {**given, **changes}, (at,))
    if section.images.file is None:
        side = section.simulation.size_pixels
        check_classifiers(section, (side, side), section.count_in_simulation["train"])
    return section


def check_classifiers(section: Morphology, shape: tuple[int, int], images: int) -> None:
    """Check that all classifiers and encoders can be trained.

    Parameters
    ----------
    section : Morphology
    shape : (int, int)
        Rows and columns of an image.
    images : int
        Number of training images.

    Raises
    ------
    ConfigError
        One line for each that cannot.
    """
    problems = []
    for name, variant in section.variants.items():
        reason = objection(variant.make(), shape) or variant.training.objection(images)
        if reason is not None:
            problems.append(f"morphology.variants.{name}: {reason}")
    if section.contrastive is not None:
        compared = section.contrastive.fine_tuning
        for name, encoder in section.contrastive.encoders.items():
            reason = objection(encoder.make(), shape) or encoder.training.objection(images)
            if reason is not None:
                problems.append(f"morphology.contrastive.encoders.{name}: {reason}")
        if compared.galaxies is not None:
            problems.append(
                "morphology.contrastive.fine_tuning.galaxies: the option `labels` gives the numbers of "
                "labels; leave it out"
            )
        elif (reason := compared.objection(images)) is not None:
            problems.append(f"morphology.contrastive.fine_tuning: {reason}")
    if problems:
        raise ConfigError("\n".join(problems))


def objection(architecture: Architecture, shape: tuple[int, int]) -> str | None:
    """Return why an architecture cannot classify images of this shape, or None if it can."""
    if type(architecture).build is Architecture.build:
        return f"the architecture '{architecture.kind}' is for shapes and cannot classify images"
    for name, value in (("head", "gaussian"), ("auxiliary", True), ("separate", True)):
        if getattr(architecture, name, None) == value:
            return f"options.{name}: it is for shapes, and a classifier has no such option; leave it out"
    return architecture.objection(shape)
