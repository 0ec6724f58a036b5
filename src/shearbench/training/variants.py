"""Variants: a variant is a name for an architecture with its options and the recipe of its training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field, model_validator

from shearbench.errors import ConfigError, nearest
from shearbench.jobs.provenance import digest
from shearbench.networks import architecture_kinds
from shearbench.networks.base import Architecture
from shearbench.options import Options, is_name, library, merge, shown, validated
from shearbench.training.recipe import MIXING, Recipe

if TYPE_CHECKING:
    from shearbench.simulation.populations import Population


class Searched(Options):
    """The search that has found the options of a variant; labels in tables and figures state it."""

    trials: int = Field(ge=1, le=10**6, description="Number of trials, those that were pruned included.")
    core_minutes: float = Field(
        ge=0, le=1e9, description="Training time of all trials, times the CPU cores of a training [minutes]."
    )

    @property
    def label(self) -> str:
        """The budget in words, such as ``40 trials, 61 core-minutes``."""
        trials = "1 trial" if self.trials == 1 else f"{self.trials} trials"
        return f"{trials}, {self.core_minutes:.3g} core-minutes"


class Variant(Options):
    """A network to train, with all its options."""

    architecture: str = Field(description="Kind of the architecture.")
    options: dict[str, Any] = Field(description="All options of the architecture.")
    training: Recipe = Field(description="Options of the training.")
    # Left out of its plain values, because a network does not depend on it.
    searched: Searched | None = Field(
        None,
        exclude=True,
        description="Budget of the search that has found these options, {trials, core_minutes}; the labels "
        "of the variant in tables and figures state it. null: they were not searched.",
    )

    def make(self) -> Architecture:
        """Return the architecture with these options."""
        return architecture_kinds()[self.architecture](**self.options)

    @property
    def network(self) -> str:
        """The name of the trained network where the configuration gives none: kind and digest.

        It depends on the options that differ from their defaults alone, so that it stays the same when the
        architecture or the recipe gets a new option. Its dot keeps it apart from the names of variants.
        """
        training = self.training.model_dump(mode="json", exclude_defaults=True)
        return f"{self.architecture}.{digest(_differing(self.architecture, self.options), training)[:8]}"


def _differing(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of an architecture that differ from its defaults, also of one inside it."""
    found = architecture_kinds()[kind](**options).model_dump(mode="json", exclude_defaults=True)
    for name, value in found.items():
        if isinstance(value, dict) and "architecture" in value:
            inner = value["architecture"]
            found[name] = [inner, _differing(inner, value.get("options", {}))]
    return found


class VariantEntry(Options):
    """The entry of a variant in a configuration: its base, and the options that differ from the base."""

    base: str | None = Field(
        None,
        description="A preset, or the kind of an architecture, whose defaults are then taken; null: the "
        "preset or kind with the name of the variant.",
    )
    architecture: str | None = Field(
        None,
        description="Kind of the architecture, instead of `base`. Configurations written by the workflow use "
        "it.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Options of the architecture that differ from the base."
    )
    training: dict[str, Any] = Field(
        default_factory=dict, description="Options of the training that differ from the base."
    )
    searched: Searched | None = Field(
        None,
        description="Budget of the search that has found these options, {trials, core_minutes}: tables and "
        "figures show it with the name. null: they were not searched.",
    )

    @model_validator(mode="before")
    @classmethod
    def _in_its_place(cls, entry: Any) -> Any:
        """Say where an option belongs that is given beside `options` and `training`, not inside."""
        for key in entry if isinstance(entry, Mapping) else ():
            if key in cls.model_fields:
                continue
            kinds: list[type[Options]] = list(architecture_kinds().values())
            owners: dict[str, list[type[Options]]] = {"training": [Recipe], "options": kinds}
            for section, classes in owners.items():
                if any(key in owner.model_fields for owner in classes):
                    raise ValueError(f"{key}: belongs inside `{section}`, as in '{section}: {{{key}: ...}}'")
        return entry


def architecture_for(
    where: str, variant: Variant, population: Population, shape: tuple[int, int], stamps: int
) -> Architecture:
    """Return the architecture of a variant as it is trained on a population.

    Parameters
    ----------
    where : str
        The key of the configuration that gives the variant, for errors.
    variant : Variant
    population : Population
    shape : (int, int)
        Rows and columns of a stamp.
    stamps : int
        Number of galaxies of the training split.

    Raises
    ------
    ConfigError
        The architecture or the recipe does not fit the population, the shape or the number of stamps, or
        the recipe does not fit the architecture.
    """
    recipe = variant.training
    try:
        architecture = variant.make().adapted(population)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    problem = next(_objections(architecture, recipe, population, shape, stamps), None)
    if problem is not None:
        raise ConfigError(f"{where}: {problem}")
    return architecture


def _objections(
    architecture: Architecture, recipe: Recipe, population: Population, shape: tuple[int, int], stamps: int
) -> Iterator[str]:
    """Yield each reason why a network cannot be trained on a population, see `architecture_for`."""
    if shape[0] != shape[1]:
        yield f"stamps of {shape[0]} by {shape[1]} pixels are not square"
    for reason in (architecture.objection(shape), recipe.objection(stamps)):
        if reason is not None:
            yield reason
    if recipe.data == "rendered" and population.unrenderable:
        yield (
            f"training.data: 'rendered' needs galaxies with a formula, but {population.unrenderable}; use "
            "'stored'"
        )
    if recipe.labels == "posterior" and population.noise.correlation_pixels:
        yield "training.labels: 'posterior' needs white noise, and this population's is correlated; use truth"
    if "psf" in recipe.changes and (population.psf.constant or not population.psf.has_formula):
        yield (
            "training.response: 'psf' needs PSFs that have a formula and differ from galaxy to galaxy; "
            f"here {'all have the same' if population.psf.constant else 'they are images'}; leave psf out"
        )
    if recipe.loss == "nll" and architecture.head != "gaussian":
        yield "training.loss: 'nll' needs the covariance of the shape; set options.head to gaussian"
    if recipe.loss != "nll" and architecture.head == "gaussian":
        yield "options.head: 'gaussian' can only be trained with the loss nll; set training.loss to nll"
    refined = round(architecture.refined_share * recipe.batch_size)
    if recipe.loss == "msb" and refined < recipe.realisations:
        yield (
            f"options.share: {refined} of the {recipe.batch_size} stamps of a step are refined, but the "
            f"loss msb needs at least {recipe.realisations}, the realisations of a galaxy; raise "
            "options.share"
        )
    mixing = [name for name in recipe.augmentation if name in MIXING]
    if mixing and not population.psf.constant:
        yield (
            f"training.augmentation: '{mixing[0]}' mixes two stamps, and in this population each stamp has "
            f"its own PSF; leave {mixing[0]} out"
        )
    if not any(recipe.target_weights.get(target, 1.0) for target in architecture.targets):
        yield (
            f"training.target_weights: all targets, {', '.join(architecture.targets)}, have the weight 0; "
            "give one of them a larger weight"
        )
    for target in recipe.target_weights:
        if target not in architecture.targets:
            yield (
                f"training.target_weights: this network has no target '{target}'"
                f"{nearest(target, architecture.targets)}. Its targets are {', '.join(architecture.targets)}"
            )


def variant_presets() -> dict[str, dict[str, Any]]:
    """Return all presets of networks, by name: ``{"architecture", "options", "training"}``.

    The kind of each architecture is a preset too, with the defaults.
    """
    return {
        name: {"architecture": kind, "options": {}, "training": {}, **preset}
        for name, (kind, preset) in library(architecture_kinds()).items()
    }


def resolve_variant(name: str, entry: Mapping[str, Any], recipe: Recipe, where: str | None = None) -> Variant:
    """Return the variant that an entry of a configuration describes, with all its options.

    An option of the training is taken from the last of these that gives it: the defaults of `Recipe`, the
    preset, `recipe`, the entry.

    Parameters
    ----------
    name : str
        Name of the variant.
    entry : mapping
        The fields of `VariantEntry`, or those of a `Variant` as plain values.
    recipe : Recipe
        The section ``training`` of the configuration, which applies to all variants.
    where : str, optional
        The key of the configuration that has the entry, for errors; by default ``variants.<name>``.

    Returns
    -------
    Variant

    Raises
    ------
    ConfigError
        One line for each fault: the key, the value, the allowed values, the most similar name.
    """
    at = where or f"variants.{name}"
    searched = None
    if isinstance(entry, Mapping) and entry.get("searched") is not None:
        searched = validated(Searched, entry["searched"], (at, "searched"))
    kind, options, defaults, changes = resolve_network(name, entry, at)
    common = {field: getattr(recipe, field) for field in recipe.model_fields_set}
    training = validated(Recipe, merge(merge(defaults, common), changes), (at, "training"))
    return Variant(architecture=kind, options=options, training=training, searched=searched)


def resolve_network(
    name: str, entry: Mapping[str, Any], where: str
) -> tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return the network that an entry of a configuration describes, without a check of its recipe.

    Parameters
    ----------
    name : str
        Name of the variant.
    entry : mapping
        The fields of `VariantEntry`.
    where : str
        The key of the configuration that has the entry, for errors.

    Returns
    -------
    architecture : str
        Its kind.
    options : dict
        All its options.
    defaults, changes : dict
        Options of the training that the preset and the entry give.

    Raises
    ------
    ConfigError
        As for `resolve_variant`.
    """
    at, given = where, validated(VariantEntry, entry, (where,))
    if given.architecture is None:
        key, base, known = (f"{at}.base" if given.base else at), given.base or name, variant_presets()
    else:
        key, base = f"{at}.architecture", given.architecture
        known = {kind: {"architecture": kind, "options": {}, "training": {}} for kind in architecture_kinds()}
        if given.base is not None:
            raise ConfigError(
                f"{at}.base: found '{given.base}' together with 'architecture'; give only one of the two"
            )
    if base not in known:
        names = sorted(known)
        raise ConfigError(
            f"{key}: there is no network '{base}'{nearest(base, names)}. Allowed: {', '.join(names)}"
            + (f". A new name needs a base: '{name}: {{base: {names[0]}, options: {{...}}}}'" * (key == at))
        )
    preset = known[base]
    cls = architecture_kinds()[preset["architecture"]]
    options = validated(cls, merge(preset["options"], given.options), (at, "options"))
    return preset["architecture"], options.model_dump(mode="json"), preset["training"], given.training


V = TypeVar("V", bound=Variant)


def resolve_networks(
    section: Mapping[str, Any], key: str, variant: type[V], recipe: type[Recipe], at: str = ""
) -> dict[str, V]:
    """Return the networks of another task that a section names, with all their options.

    Parameters
    ----------
    section : mapping
        Its ``training``, where it has one, applies to all of its networks. The recipes of presets do not:
        they are for shapes.
    key : str
        Key of the networks in the section; an entry is as for `resolve_variant`, or None, which leaves it
        out.
    variant, recipe : type
        Class of a network of the task, and of its recipe.
    at : str
        Key of the configuration that has the section.

    Raises
    ------
    ConfigError
        As for `resolve_variant`.
    """
    place = f"{at}.{key}" if at else key
    entries = section.get(key) or {}
    if not isinstance(entries, Mapping) or not all(map(is_name, entries)):
        raise ConfigError(f"{place}: found {shown(entries)}, expected a mapping of names to options")
    common = (section.get("training") or {}) if at else {}
    validated(recipe, common, (at, "training"))
    found = {}
    for name, entry in entries.items():
        if entry is None:
            continue
        where = f"{place}.{name}"
        if isinstance(entry, Mapping) and entry.get("searched") is not None:
            raise ConfigError(f"{where}.searched: only the section variants has it; leave it out")
        kind, options, _, changes = resolve_network(name, entry, where)
        training = validated(recipe, merge(common, changes), (where, "training"))
        found[name] = variant(architecture=kind, options=options, training=training)
    return found
