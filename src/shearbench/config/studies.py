"""The studies of a run: read, resolved to networks, and checked against each other."""

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
    variants: dict[str, dict[str, Variant]]
    """The networks of each of them, by name."""
    wrong: dict[str, str]
    """Why the others cannot be asked for."""


def plan_studies(folder: str | os.PathLike[str], config: Config) -> Studies:
    """Read every study of a folder. One that is wrong, or does not fit the run, stops no other.

    Parameters
    ----------
    folder : path
        Each of its files ``<name>.yaml`` is a study; files whose names begin with a dot are not.
    config : Config

    Raises
    ------
    ConfigError
        A study that the run includes does not exist, or is wrong.
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
                    f"seeds: {trained} trainings are too many, as a run has at most {MAX_JOBS} jobs; give "
                    "fewer seeds or values"
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
            raise ConfigError(f"studies: no file {Path(folder, name)}.yaml{nearest(name, plan.known)}")
    return plan


def _study_collisions(plan: Studies, config: Config) -> Iterator[tuple[str, str]]:
    """Yield each study that has a network or a file of the run's, or of another study, and the reason."""
    of_the_run = {
        name.casefold(): f"{section}.{name}"
        for section in ("variants", "estimators")
        for name in getattr(config, section)
    }
    networks = {study: {name.casefold() for name in variants} for study, variants in plan.variants.items()}
    for study, names in networks.items():
        for name in sorted(names & of_the_run.keys()):
            yield study, f"its network '{name}' has the name of {of_the_run[name]} of the run; rename one"
    for one, other in combinations(sorted(networks), 2):
        shared = networks[one] & networks[other]
        if shared:
            reason = f"both have a network '{min(shared)}'"
        elif other.casefold() in (one.casefold(), f"{one}_accuracy".casefold()):
            reason = "both have files of the same name"
        else:
            continue
        for this, that in ((one, other), (other, one)):
            yield this, f"{that}.yaml and this file: {reason}; rename one"


def read_study(path: str | os.PathLike[str]) -> Study:
    """Read a study; its name is that of its file.

    Raises
    ------
    ConfigError
    """
    content = read_file(path)
    name = Path(path).stem
    if content.setdefault("name", name) != name:
        raise ConfigError(
            f"{path}.name: found {shown(content['name'])}, expected {name}, as the file is called"
        )
    return validated(Study, content, (str(path),))


def study_variants(study: Study, config: Config) -> dict[str, Variant]:
    """Return the networks of a study, by name; a base is one of the run's variants, or a preset.

    Raises
    ------
    ConfigError
        The study does not fit the run.
    """
    where = f"studies.{study.name}"
    if study.population not in config.populations:
        known = sorted(config.populations)
        raise ConfigError(
            f"{where}.population: '{study.population}' is not in this run{nearest(study.population, known)}; "
            f"it has {', '.join(known)}"
        )
    if study.noise not in config.noise_levels:
        raise ConfigError(
            f"{where}.noise: {study.noise:g} is not one of noise_levels {list(config.noise_levels)}"
        )
    variants = {}
    for name, entry in study.variants().items():
        if entry["base"] in config.variants:
            base = config.variants[entry["base"]].model_dump(mode="json")
            entry = merge(base, {key: value for key, value in entry.items() if key != "base"})
        variants[name] = resolve_variant(name, entry, config.training)
    check_variants(variants, config, [study.population])
    return variants
