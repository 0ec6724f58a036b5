"""Reading of a configuration: merge its files, check it, and fill in all defaults.

``python -m shearbench.config config/paper.yaml`` reads configuration files as a run does, and prints the
folder of the run or the errors. The files are merged into ``config/config.yaml``, one after the other.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from shearbench.config.plain_yaml import read_arguments, read_file
from shearbench.config.schema import Config
from shearbench.errors import ConfigError, nearest
from shearbench.estimators import estimator_kinds, estimator_presets
from shearbench.options import (
    NAME_RULE,
    is_name,
    merge,
    shown,
    validated,
)
from shearbench.simulation.populations import PRESETS as POPULATION_PRESETS
from shearbench.simulation.populations import Population
from shearbench.tasks.contrastive.options import StampEncoder, StampRecipe
from shearbench.tasks.morphology.options import resolve_morphology
from shearbench.training.recipe import Recipe
from shearbench.training.variants import Variant, architecture_for, resolve_networks, resolve_variant

DEFAULT = "config/config.yaml"
"""The file that every run reads first, relative to the folder in which the run is started."""


def resolve(given: Mapping[str, Any]) -> Config:
    """Check a configuration and fill in all defaults.

    Parameters
    ----------
    given : mapping
        The configuration as read from YAML.

    Returns
    -------
    Config

    Raises
    ------
    ConfigError
        One line for each fault: the key, the value, the allowed values, the most similar name.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"the configuration is {shown(given)}, not a mapping of keys to values")
    given = dict(given)
    left_out = {
        section: sorted(
            name for name, entry in named_entries(section, given.get(section)).items() if entry is None
        )
        for section in ("populations", "estimators", "variants")
    }
    training = validated(Recipe, given.get("training", {}), ("training",))
    given["training"] = training
    validated(Recipe, given.get("study_training") or {}, ("study_training",))
    given["populations"] = {
        name: validated(Population, {k: v for k, v in entry.items() if k != "base"}, ("populations", name))
        for name, entry in _entries("populations", given.get("populations", {}), POPULATION_PRESETS)
    }
    presets = estimator_presets()
    estimators: dict[str, Any] = {}
    for name, entry in _entries("estimators", given.get("estimators", {}), presets):
        options = {k: v for k, v in entry.items() if k not in ("base", "kind")}
        cls = estimator_kinds()[presets[entry["base"]]["kind"]]
        if entry["kind"] != cls.kind:
            raise ConfigError(
                f"estimators.{name}.kind: found '{entry['kind']}', but base '{entry['base']}' is of kind "
                f"'{cls.kind}'; leave kind out"
            )
        valid = validated(cls, options, ("estimators", name))
        estimators[name] = {"base": entry["base"], "kind": cls.kind, **valid.model_dump(mode="json")}
    given["estimators"] = estimators
    variants = named_entries("variants", given.get("variants", {}))
    given["variants"] = {
        name: resolve_variant(name, entry, training) for name, entry in variants.items() if entry is not None
    }
    given["morphology"] = resolve_morphology(given.get("morphology"))
    given["encoders"] = resolve_networks(given, "encoders", StampEncoder, StampRecipe)
    config = validated(Config, given, ())
    check_encoders(config)
    check_variants({f"variants.{name}": one for name, one in config.variants.items()}, config)
    config._left_out = {section: names for section, names in left_out.items() if names}
    return config


def named_entries(section: str, value: Any) -> Mapping[str, Any]:
    """Return the entries of a section that maps names to options; None is an empty section.

    Raises
    ------
    ConfigError
        The section is not a mapping, a key cannot be a name, or two names differ in capital letters only.
    """
    value = {} if value is None else value
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{section}: found {shown(value)}, expected a mapping of names, such as '{section}: {{a: {{}}}}'"
        )
    for name in value:
        if not is_name(name):
            raise ConfigError(f"{section}: {shown(name)} cannot be a name: {NAME_RULE}")
    for one, other in _alike(value):
        raise ConfigError(
            f"{section}: {one} and {other} differ in capital letters only, and would be the same file on "
            "some computers; rename one"
        )
    return value


def _alike(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield pairs of names that differ in capital letters only."""
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(name.casefold(), name)
        if other != name:
            yield other, name


def _entries(
    section: str, value: Any, presets: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, options) of each entry of a section, merged into its preset; null entries are left out."""
    for name, entry in named_entries(section, value).items():
        if entry is None:
            continue
        if not isinstance(entry, Mapping):
            raise ConfigError(
                f"{section}.{name}: found {shown(entry)}, expected a mapping of options ({{}} for the "
                "defaults)"
            )
        base = entry.get("base", name)
        if not isinstance(base, str) or base not in presets:
            known = sorted(presets)
            raise ConfigError(
                f"{section}.{name}: there is no preset '{base}'{nearest(str(base), known)}. Presets: "
                f"{', '.join(known)}. A new name needs a base: "
                f"'{name}: {{base: {known[0]}, ...}}'"
            )
        yield name, {**merge(presets[base], entry), "base": base}


def load(*paths: str | os.PathLike[str], arguments: Sequence[str] = ()) -> Config:
    """Read configuration files, merge each into those before it, check the result, and fill in defaults.

    Parameters
    ----------
    *paths : path
    arguments : sequence of str
        The arguments ``key=value`` of Snakemake's ``--config``, which are merged last.

    Raises
    ------
    ConfigError
        A file cannot be read, or the configuration has faults, see `resolve`.
    """
    merged: dict[str, Any] = {}
    for content in (*map(read_file, paths), read_arguments(arguments)):
        merged = merge(merged, content)
    return resolve(merged)


def check_variants(
    variants: Mapping[str, Variant], config: Config, populations: Sequence[str] | None = None
) -> None:
    """Check that networks can be trained on populations of a run.

    Parameters
    ----------
    variants : mapping of str to Variant
        By the keys of the configuration that give them, for errors.
    config : Config
    populations : sequence of str, optional
        By default all populations of the run.

    Raises
    ------
    ConfigError
        One line for each fault, see `architecture_for`.
    """
    size = config.stamps.size_pixels
    problems: dict[str, None] = {}
    for where, variant in variants.items():
        for population in config.populations if populations is None else populations:
            try:
                options = config.populations[population]
                architecture_for(where, variant, options, (size, size), config.galaxies.train)
                _check_start(where, variant, config)
            except ConfigError as error:
                problems[str(error)] = None  # one line if the fault is the same for several populations
    if problems:
        raise ConfigError("\n".join(problems))


def _check_start(where: str, variant: Variant, config: Config) -> None:
    """Check that the encoder from which a network starts exists, and has its architecture."""
    name = variant.training.start_from
    if name is None:
        return
    at = f"{where}: training.start_from"
    if name not in config.encoders:
        known = ", ".join(config.encoders) or "none"
        raise ConfigError(
            f"{at}: there is no encoder '{name}'{nearest(name, config.encoders)}; the section encoders has "
            f"{known}"
        )
    if (reason := config.encoders[name].unlike(variant)) is not None:
        raise ConfigError(f"{at}: the encoder '{name}' {reason}; give both the same")


def check_encoders(config: Config) -> None:
    """Check that the encoders of stamps can be trained.

    Raises
    ------
    ConfigError
        One line for each that cannot.
    """
    size, problems = config.stamps.size_pixels, []
    for name, encoder in config.encoders.items():
        reason = (
            encoder.objection()
            or encoder.make().objection((size, size))
            or encoder.training.objection(config.galaxies.train)
        )
        if reason is not None:
            problems.append(f"encoders.{name}: {reason}")
    if problems:
        raise ConfigError("\n".join(problems))


def main(*paths: str) -> None:
    """Check configuration files, and print the folder of their run or the errors."""
    try:
        print(f"results/{load(DEFAULT, *paths).run}")
    except ConfigError as error:
        sys.exit(f"The configuration has errors:\n{error}")
