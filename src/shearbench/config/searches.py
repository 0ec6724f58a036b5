"""The searches of a run: read their files, and check that each of their trials can be trained."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from shearbench.config.plain_yaml import faults_of, read_file
from shearbench.config.reading import check_variants
from shearbench.config.schema import Config
from shearbench.errors import ConfigError, nearest
from shearbench.options import merge, shown, validated
from shearbench.training.search import Search, probes
from shearbench.training.variants import Variant, resolve_variant


class Searches(NamedTuple):
    """The searches of a folder, for one run."""

    known: dict[str, Search]
    """The searches without faults, by name."""
    bases: dict[str, Variant]
    """The variant whose options each of these changes."""
    wrong: dict[str, str]
    """The error message of each of the other searches, by name."""


def plan_searches(folder: str | os.PathLike[str], config: Config) -> Searches:
    """Read all searches of a folder. A search with a fault, or that does not fit the run, stops no other.

    Parameters
    ----------
    folder : path
        Each of its files ``<name>.yaml`` is a search, or one of each variant in its list `base`, except files
        whose names begin with a dot.
    config : Config

    Returns
    -------
    Searches
    """
    plan = Searches({}, {}, {})
    for path in sorted(Path(folder).glob("[!.]*.yaml")):
        try:
            found = read_searches(path)
        except ConfigError as error:
            plan.wrong[path.stem] = faults_of(path, error)
            continue
        for search in found:
            try:
                base = search_base(search, config)
            except ConfigError as error:
                plan.wrong[search.name] = faults_of(path, error)
            else:
                plan.known[search.name], plan.bases[search.name] = search, base
    return plan


def read_searches(path: str | os.PathLike[str]) -> list[Search]:
    """Read a file of searches; the name of its search is that of the file.

    If `base` is a list, the file is a search of each of these variants, whose name follows that of the file.

    Raises
    ------
    ConfigError
        The file cannot be read, or has faults: one line for each.
    """
    content = read_file(path)
    name = Path(path).stem
    if content.setdefault("name", name) != name:
        raise ConfigError(
            f"{path}.name: found {shown(content['name'])}, expected {name}, the name of the file"
        )
    bases = content.get("base")
    if not isinstance(bases, list):
        return [validated(Search, content, (str(path),))]
    if not bases or len({str(base) for base in bases}) < len(bases):
        raise ConfigError(f"{path}.base: found {shown(bases)}, expected one or more different variants")
    return [
        validated(Search, {**content, "base": base, "name": f"{name}-{base}"}, (str(path),)) for base in bases
    ]


def search_base(search: Search, config: Config) -> Variant:
    """Return the variant whose options a search changes: a variant of the run, or a preset.

    It is tried with each end and each choice of the space, one changed at a time.

    Raises
    ------
    ConfigError
        The run has no such population, or one of these networks cannot be trained on it: one line for each.
    """
    if search.population not in config.populations:
        known = sorted(config.populations)
        raise ConfigError(
            f"population: '{search.population}' is not in this run{nearest(search.population, known)}; "
            f"its populations are {', '.join(known)}"
        )
    entry = {"base": search.base, "training": search.training}
    if search.base in config.variants:
        given = config.variants[search.base].model_dump(mode="json")
        entry = merge(given, {"training": search.training})
    base = resolve_variant(search.name, entry, config.training, search.name)
    check_variants({search.name: base}, config, [search.population])
    problems = []
    for key, dimension in search.space.items():
        try:
            for variant in probes(base, key, dimension):
                check_variants({f"space.{key}": variant}, config, [search.population])
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return base
