"""The studies of a run: read their files, and find the networks that they train, each once."""

from __future__ import annotations

import os
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from shearbench.config.plain_yaml import faults_of, read_file
from shearbench.config.reading import check_variants
from shearbench.config.schema import MAX_JOBS, Config, planned_jobs
from shearbench.errors import ConfigError, nearest
from shearbench.options import (
    merge,
    shown,
    validated,
)
from shearbench.studies import INSIDE_KINDS, Study
from shearbench.training.variants import Variant, resolve_variant


class Studies(NamedTuple):
    """The studies of a folder, for one run."""

    known: dict[str, Study]
    """The studies without faults, by name."""
    networks: dict[str, dict[str, str]]
    """For each of these studies, the name of the trained network of each value, by the value's label.

    Equal values, of one study or of several, have the same network. If a variant of the run is equal too, it
    is this variant.
    """
    variants: dict[str, Variant]
    """The networks of these studies that are not variants of the run, by name."""
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
    plan = Studies({}, {}, {}, {})
    of_the_run = {variant.network: name for name, variant in reversed(config.variants.items())}
    variants: dict[str, dict[str, Variant]] = {}
    for name, path in paths.items():
        try:
            study = _as_in_run(read_study(path), config)
            variants[name] = study_variants(study, config)
            plan.known[name] = study
            trained = len(study.values) * len(study.seeds)
            if sum(planned_jobs(config).values()) + trained > MAX_JOBS:
                raise ConfigError(
                    f"seeds: with the {trained} trainings of this study, the run would have more than "
                    f"{MAX_JOBS} jobs; use fewer seeds or values"
                )
        except ConfigError as error:
            plan.wrong[name] = faults_of(path, error)
    for one, other in combinations(sorted(plan.known), 2):
        ends = ("", "_accuracy", "_attention_cost", "_shear", *(f"_{kind}" for kind in INSIDE_KINDS))
        files = [f"{one}{suffix}".casefold() for suffix in ends]
        if other.casefold() in files:
            for this, that in ((one, other), (other, one)):
                reason = "their result files would have the same name; rename one"
                plan.wrong[this] = f"{paths[this]}: {that}.yaml and this file: {reason}"
    for name in plan.wrong:
        plan.known.pop(name, None)
    for name in plan.known:
        named = {label: variant.network for label, variant in variants[name].items()}
        plan.networks[name] = {label: of_the_run.get(network, network) for label, network in named.items()}
        for label, network in named.items():
            if network not in of_the_run:
                plan.variants[network] = variants[name][label]
    for name in config.studies:
        if name in plan.wrong:
            raise ConfigError(plan.wrong[name])
        if name not in plan.known:
            raise ConfigError(
                f"studies: there is no file {Path(folder, name)}.yaml{nearest(name, plan.known)}"
            )
    return plan


def _as_in_run(study: Study, config: Config) -> Study:
    """Return a study with the seeds and the training that the configuration gives for all studies."""
    changes = {
        "seeds": study.seeds if config.study_seeds is None else config.study_seeds,
        "training": merge(study.training, config.study_training),
    }
    return study.model_copy(update=changes)


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
    """Return the networks of a study, by the labels of its values.

    The base of a study is a variant of the run, or a preset.

    Raises
    ------
    ConfigError
        The run has no such population or noise level, or a network cannot be trained on it.
    """
    if study.population not in config.populations:
        known = sorted(config.populations)
        raise ConfigError(
            f"population: '{study.population}' is not in this run{nearest(study.population, known)}; "
            f"its populations are {', '.join(known)}"
        )
    for noise in study.levels:
        if noise not in config.noise_levels:
            raise ConfigError(
                f"noise: {noise:g} is not one of the run's noise_levels {list(config.noise_levels)}"
            )
    variants = {}
    for label, entry in study.variants().items():
        if entry["base"] in config.variants:
            base = config.variants[entry["base"]].model_dump(mode="json")
            entry = merge(base, {key: value for key, value in entry.items() if key != "base"})
        variants[label] = resolve_variant(label, entry, config.training, f"values.{label}")
    check_variants(
        {f"values.{label}": variant for label, variant in variants.items()}, config, [study.population]
    )
    return variants
