"""Variants: named networks, each an architecture with its options and a recipe for its training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from shearbench.errors import ConfigError, nearest
from shearbench.networks.base import Architecture
from shearbench.options import Options, library, merge, validated
from shearbench.training.recipe import Recipe

if TYPE_CHECKING:
    from shearbench.simulation.populations import Population
from shearbench.networks import architecture_kinds


class Variant(Options):
    """A network to train, with everything spelled out."""

    architecture: str = Field(description="Kind of the architecture.")
    options: dict[str, Any] = Field(description="All options of the architecture.")
    training: Recipe = Field(description="How it is trained.")

    def make(self) -> Architecture:
        """Return the architecture with these options."""
        return architecture_kinds()[self.architecture](**self.options)


class VariantEntry(Options):
    """What a configuration says of a variant: its base, and what it changes."""

    base: str | None = Field(
        None,
        description="A preset, or an architecture's kind for its defaults; the variant's own name if null.",
    )
    architecture: str | None = Field(
        None, description="An architecture's kind instead of a base, as in a resolved configuration."
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Options of the architecture that differ."
    )
    training: dict[str, Any] = Field(default_factory=dict, description="Fields of the recipe that differ.")


def architecture_for(
    name: str, variant: Variant, population: Population, shape: tuple[int, int], stamps: int
) -> Architecture:
    """Return the architecture of a variant as it is trained on a population.

    Parameters
    ----------
    name : str
        The variant's.
    variant : Variant
    population : Population
    shape : (int, int)
        Rows and columns of a stamp.
    stamps : int
        How many there are to train on.

    Raises
    ------
    ConfigError
        The architecture or the recipe does not go with such stamps, or the one with the other.
    """
    recipe = variant.training
    try:
        architecture = variant.make().adapted(population)
    except ValueError as error:
        raise ConfigError(f"variants.{name}: {error}") from None
    problem = architecture.refuses(shape) or recipe.refuses(stamps)
    if shape[0] != shape[1]:
        problem = f"stamps of {shape[0]} by {shape[1]} pixels cannot be turned by 90 degrees"
    elif problem is None and recipe.loss == "nll" and architecture.head != "gaussian":
        problem = "training.loss: 'nll' needs a likelihood; set options.head to gaussian"
    elif problem is None and recipe.loss != "nll" and architecture.head == "gaussian":
        problem = "options.head: 'gaussian' is trained by its likelihood alone; set training.loss to nll"
    elif problem is None and recipe.loss == "msb":
        refined = round(architecture.refined_share * recipe.batch_size)
        if refined < recipe.realisations:
            problem = (
                f"options.share: {refined} of a batch of {recipe.batch_size} are refined, less than the "
                f"{recipe.realisations} realisations of a galaxy that loss msb takes"
            )
    if problem is not None:
        raise ConfigError(f"variants.{name}: {problem}")
    return architecture


def variant_presets() -> dict[str, dict[str, Any]]:
    """Return every name a variant may be given at once: ``{architecture, options, training}``."""
    return {
        name: {"architecture": kind, "options": {}, "training": {}, **preset}
        for name, (kind, preset) in library(architecture_kinds()).items()
    }


def resolve_variant(name: str, entry: Mapping[str, Any], recipe: Recipe) -> Variant:
    """Make a variant of what a configuration says.

    Later ones win: the default recipe, the preset's, what the configuration's `recipe` for all variants
    says, the entry.

    Parameters
    ----------
    name : str
        The variant's name.
    entry : mapping
        See `VariantEntry`; or a `Variant` as plain values.
    recipe : Recipe
        The configuration's, for all variants.

    Returns
    -------
    Variant

    Raises
    ------
    ConfigError
        With a line for each thing that is wrong: the key, the value, what is allowed, the nearest name.
    """
    at = f"variants.{name}"
    given = validated(VariantEntry, entry, (at,))
    if given.architecture is None:
        key, base, known = (f"{at}.base" if given.base else at), given.base or name, variant_presets()
    else:
        key, base = f"{at}.architecture", given.architecture
        known = {kind: {"architecture": kind, "options": {}, "training": {}} for kind in architecture_kinds()}
        if given.base is not None:
            raise ConfigError(f"{at}.base: '{given.base}' beside an architecture; give one of the two")
    if base not in known:
        names = sorted(known)
        raise ConfigError(
            f"{key}: there is no network '{base}'{nearest(base, names)}. Allowed: {', '.join(names)}. "
            f"A new name says which it is based on: '{name}: {{base: {names[0]}, options: {{...}}}}'"
        )
    preset = known[base]
    cls = architecture_kinds()[preset["architecture"]]
    options = validated(cls, merge(preset["options"], given.options), (at, "options"))
    common = {field: getattr(recipe, field) for field in recipe.model_fields_set}
    training = validated(Recipe, merge(merge(preset["training"], common), given.training), (at, "training"))
    return Variant(
        architecture=preset["architecture"], options=options.model_dump(mode="json"), training=training
    )
