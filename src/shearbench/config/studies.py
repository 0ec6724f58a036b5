"""The studies of a run: read their files, make their networks, and check that they do not collide."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from shearbench.config.plain_yaml import read_file
from shearbench.config.reading import check_variants
from shearbench.config.schema import MAX_JOBS, Config, planned_jobs
from shearbench.errors import ConfigError, nearest
from shearbench.options import (
    merge,
    shown,
    validated,
)
from shearbench.studies import Study
from shearbench.training.variants import Variant, resolve_variant


class Studies(NamedTuple):
    """The studies of a folder, for one run."""

    known: dict[str, Study]
    """The studies without faults, by name."""
    variants: dict[str, dict[str, Variant]]
    """The networks of each of these studies, by the names of the study and of the network."""
    wrong: dict[str, str]
    """The error message of each of the other studies, by name."""


def plan_studies(folder: str | os.PathLike[str], config: Config) -> Studies:
    """Read all studies of a folder. A study with a fault, or that does not fit the run, stops no other.

    Parameters
    ----------
    folder : path
        Each of its files ``<name>.yaml`` is a study, except files whose names begin with a dot.
    config : Config

    Returns
    -------
    Studies

    Raises
    ------
    ConfigError
        A study in ``config.studies`` does not exist or has a fault.
    """
    paths = {path.stem: path for path in sorted(Path(folder).glob("*.yaml")) if not path.name.startswith(".")}
    plan = Studies({}, {}, {})
    for name, path in paths.items():
        try:
            study = read_study(path)
            plan.variants[name] = study_variants(study, config)
            plan.known[name] = study
            trained = len(study.values) * len(study.seeds)
            if sum(planned_jobs(config).values()) + trained > MAX_JOBS:
                raise ConfigError(
                    f"seeds: with the {trained} trainings of this study, the run would have more than "
                    f"{MAX_JOBS} jobs; use fewer seeds or values"
                )
        except ConfigError as error:
            lines = (
                line if line.startswith(str(path)) else f"{path}: {line}" for line in str(error).split("\n")
            )
            plan.wrong[name] = "\n".join(lines)
    for name, reason in _study_collisions(plan, config):
        plan.wrong.setdefault(name, f"{paths[name]}: {reason}")
    for name in plan.wrong:
        plan.known.pop(name, None)
        plan.variants.pop(name, None)
    for name in config.studies:
        if name in plan.wrong:
            raise ConfigError(plan.wrong[name])
        if name not in plan.known:
            raise ConfigError(
                f"studies: there is no file {Path(folder, name)}.yaml{nearest(name, plan.known)}"
            )
    return plan


def _study_collisions(plan: Studies, config: Config) -> Iterator[tuple[str, str]]:
    """Yield (study, reason) for each study with a network or file of the same name as another one's."""
    of_the_run = {
        name.casefold(): f"{section}.{name}"
        for section in ("variants", "estimators")
        for name in getattr(config, section)
    }
    networks = {study: {name.casefold() for name in variants} for study, variants in plan.variants.items()}
    for study, names in networks.items():
        for name in sorted(names & of_the_run.keys()):
            yield study, f"its network '{name}' has the same name as {of_the_run[name]}; rename one"
    for one, other in combinations(sorted(networks), 2):
        shared = networks[one] & networks[other]
        if shared:
            reason = f"both have a network named '{min(shared)}'"
        elif other.casefold() in (one.casefold(), f"{one}_accuracy".casefold()):
            reason = "their result files would have the same name"
        else:
            continue
        for this, that in ((one, other), (other, one)):
            yield this, f"{that}.yaml and this file: {reason}; rename one"


def read_study(path: str | os.PathLike[str]) -> Study:
    """Read the file of a study; the name of the study is that of the file.

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
    return validated(Study, content, (str(path),))


def study_variants(study: Study, config: Config) -> dict[str, Variant]:
    """Return the networks of a study, by name. The base of a study is a variant of the run, or a preset.

    Raises
    ------
    ConfigError
        The run has no such population or noise level, or a network cannot be trained on it.
    """
    where = f"studies.{study.name}"
    if study.population not in config.populations:
        known = sorted(config.populations)
        raise ConfigError(
            f"{where}.population: '{study.population}' is not in this run{nearest(study.population, known)}; "
            f"its populations are {', '.join(known)}"
        )
    for noise in study.levels:
        if noise not in config.noise_levels:
            raise ConfigError(
                f"{where}.noise: {noise:g} is not one of the run's noise_levels {list(config.noise_levels)}"
            )
    variants = {}
    for name, entry in study.variants().items():
        if entry["base"] in config.variants:
            base = config.variants[entry["base"]].model_dump(mode="json")
            entry = merge(base, {key: value for key, value in entry.items() if key != "base"})
        variants[name] = resolve_variant(name, entry, config.training)
    check_variants(variants, config, [study.population])
    return variants
