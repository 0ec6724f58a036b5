"""The configuration: what a run is made of, checked before any job starts.

This module sits on top of the others. It composes the option classes of populations, estimators, network
variants and studies; none of the science imports it. ``python -m shearbench.docs`` writes the JSON schema
and the table in ``config/README.md``, both generated from the classes below.

``python -m shearbench.config config/paper.yaml`` checks files as a run reads them, each laid over the one
before and the first over ``config/config.yaml``, and prints the folder of the run.
"""

from __future__ import annotations

import os
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, PrivateAttr, field_validator, model_validator

from shearbench.errors import ConfigError, nearest
from shearbench.estimators import estimator_kinds, estimator_presets, make_estimator
from shearbench.estimators.base import Estimator
from shearbench.networks import Variant, architecture_for, resolve_variant
from shearbench.options import (
    NAME_RULE,
    Distinct,
    Name,
    Options,
    Seed,
    Sigma,
    is_name,
    merge,
    shown,
    validated,
)
from shearbench.plain_yaml import read_arguments, read_file
from shearbench.populations import PRESETS as POPULATION_PRESETS
from shearbench.populations import SPLITS, Population, stamp_count
from shearbench.studies import Study
from shearbench.training.recipe import Recipe

DEFAULT = "config/config.yaml"
"""The file that every run reads first, in the folder that it is started from."""

MAX_JOBS = 4000
"""Jobs of a run. Snakemake needs 5 to 15 ms to plan one, in every process that it starts: a minute in all."""

Count = Annotated[int, Field(ge=1, le=10**9)]


class Stamps(Options):
    """The geometry of a stamp."""

    size_pixels: int = Field(48, ge=8, le=512, description="rows and columns of a stamp [pixels]")
    pixel_scale_arcsec: float = Field(0.2, ge=1e-3, le=10, description="pixel scale [arcsec]")


class Galaxies(Options):
    """How many galaxies each split has."""

    train: Count = Field(20000, description="galaxies the networks train on")
    validation: Count = Field(2000, description="galaxies that decide when to stop and calibrate errors")
    test: Count = Field(2000, description="galaxies every estimator is judged on")
    shear: Annotated[int, Field(ge=2, le=10**8)] = Field(
        500,
        description="galaxies that measure m and c; each gives 8 x `rotations` stamps: under 4 shears, with "
        "each noise field and with its negative",
    )


class ShearTest(Options):
    """How multiplicative and additive bias are measured."""

    shear: float = Field(
        0.02, ge=1e-6, le=0.1, description="reduced shear applied, with either sign, to g1 and to g2"
    )
    rotations: typing.Literal[2, 4] = Field(
        2, description="intrinsic orientations of each galaxy: 2 are 90 degrees apart, 4 are 45"
    )
    noise_levels: Annotated[tuple[Sigma, ...], Distinct] = Field(
        (1e-5, 1e-3), description="noise levels at which m and c are measured; each one of `noise_levels`"
    )


class BayesFloor(Options):
    """How the Bayes floor, the least RMSE of any estimator that knows the population, is computed."""

    galaxies: int = Field(
        200, ge=0, le=10**7, description="test galaxies whose posterior is sampled; 0 leaves the floor out"
    )
    samples: int = Field(
        240, ge=60, le=10**6, description="samples of each galaxy's posterior at each noise level"
    )


class Config(Options):
    """One run."""

    run: Name = Field("quick", description="name of the run; everything it makes is under `results/{run}/`")
    seed: int = Field(1, ge=0, lt=2**63, description="seeds every random number of the run")
    noise_levels: Annotated[tuple[Sigma, ...], Distinct] = Field(
        (1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
        min_length=1,
        description="standard deviation of the noise of a pixel, in the image's units (flux per pixel)",
    )
    stamps: Stamps = Stamps()
    galaxies: Galaxies = Galaxies()
    shear_test: ShearTest = ShearTest()
    bayes_floor: BayesFloor = BayesFloor()
    chunk_stamps: int = Field(5000, ge=1, le=10**7, description="stamps one simulation job draws")
    populations: dict[Name, Population] = Field(
        description="what is simulated: presets, or new names with `base: <preset>` and what they change"
    )
    estimators: dict[Name, dict[str, Any]] = Field(
        default_factory=dict,
        description="estimators other than networks: presets, or new names with a `base`",
    )
    variants: dict[Name, Variant] = Field(
        default_factory=dict, description="networks: presets, or new names with a `base`"
    )
    seeds: Annotated[tuple[Seed, ...], Distinct] = Field(
        (1,), min_length=1, description="each network is trained once with each of these"
    )
    training: Recipe = Recipe()
    studies: Annotated[tuple[Name, ...], Distinct] = Field(
        (), description="studies (files in `config/studies/`) that `all` includes"
    )
    bootstrap: int = Field(400, ge=20, le=10**5, description="bootstrap resamples behind every quoted error")

    _left_out: dict[str, list[str]] = PrivateAttr(default_factory=dict)

    @field_validator("noise_levels")
    @classmethod
    def _distinct_labels(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        for one, other in combinations(levels, 2):
            if noise_label(one) == noise_label(other):
                raise ValueError(
                    f"{one!r} and {other!r} are both {noise_label(one)} in file names; levels must differ in "
                    "their first six digits"
                )
        return levels

    @model_validator(mode="after")
    def _check(self) -> Config:
        stray = set(self.shear_test.noise_levels) - set(self.noise_levels)
        if stray:
            raise ValueError(
                f"shear_test.noise_levels: {sorted(stray)} is not in noise_levels {sorted(self.noise_levels)}"
            )
        if not self.populations:
            raise ValueError(f"populations: at least one is needed; there are {sorted(POPULATION_PRESETS)}")
        for name in self.estimators:
            network = getattr(self.estimator(name), "network", None)
            if network is not None and network not in self.variants:
                known = sorted(self.variants)
                raise ValueError(
                    f"estimators.{name}.network: '{network}' is no variant of this run"
                    f"{nearest(network, known)}; it has {', '.join(known) or 'none'}"
                )
        both = set(self.estimators) & set(self.variants)
        if both:
            raise ValueError(f"variants: '{min(both)}' is an estimator's name already")
        for name, population in self.populations.items():
            side = self.stamps.size_pixels * self.stamps.pixel_scale_arcsec
            sharpest = population.psf.fwhm_arcsec[0]
            if population.psf.profile != "image" and sharpest < side / 500:
                raise ValueError(
                    f"populations.{name}.psf.fwhm_arcsec: found {sharpest:g}, expected {side / 500:g} or "
                    "more: a five-hundredth of the stamp's side is the sharpest PSF that GalSim draws"
                )
            needed = 6 * population.extent_arcsec
            if side < needed:
                raise ValueError(
                    f"stamps.size_pixels: {self.stamps.size_pixels} pixels of "
                    f"{self.stamps.pixel_scale_arcsec:g} arcsec "
                    f"are too small for population '{name}', whose largest galaxy has a half-light radius of "
                    f"{population.extent_arcsec:.2f} arcsec after the PSF: six of these need "
                    f"{-(-needed // self.stamps.pixel_scale_arcsec):.0f} pixels"
                )
            shift, largest = population.centroid_shift_pixels, self.stamps.size_pixels / 4
            if shift > largest:
                raise ValueError(
                    f"populations.{name}.centroid_shift_pixels: found {shift:g}, expected at most "
                    f"{largest:g}, a quarter of the stamp's {self.stamps.size_pixels} pixels"
                )
            smallest = population.half_light_radius_arcsec[0]
            if smallest < 1e-3 * self.stamps.pixel_scale_arcsec:
                raise ValueError(
                    f"populations.{name}.half_light_radius_arcsec: found {smallest:g}, expected at least a "
                    f"thousandth of a pixel, {1e-3 * self.stamps.pixel_scale_arcsec:g}"
                )
        jobs = planned_jobs(self)
        if sum(jobs.values()) > MAX_JOBS:
            raise ValueError(_fewer_jobs(self, jobs))
        return self

    def estimator(self, name: str) -> Estimator:
        """Return the estimator of that name, with its options."""
        return make_estimator(self.estimators[name])

    def dump(self) -> dict[str, Any]:
        """Return the resolved configuration as plain values; `resolve` of it gives it again.

        Entries that were left out are in it as null: laid over the default, it must leave them out again.
        """
        plain = self.model_dump(mode="json")
        # What is said for all networks overrules presets, which what is left unsaid must not.
        plain["training"] = self.training.model_dump(mode="json", exclude_unset=True)
        for section, names in self._left_out.items():
            plain[section].update(dict.fromkeys(names))
        return plain


def resolve(given: Mapping[str, Any]) -> Config:
    """Check a configuration and fill in everything it leaves out.

    Parameters
    ----------
    given : mapping
        As read from YAML.

    Returns
    -------
    Config

    Raises
    ------
    ConfigError
        With one line for each thing that is wrong: the key, the value, what is allowed, the nearest name.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"the configuration is {shown(given)}, not a mapping of keys to values")
    given = dict(given)
    left_out = {
        section: sorted(
            name for name, entry in _mapping(section, given.get(section)).items() if entry is None
        )
        for section in ("populations", "estimators", "variants")
    }
    training = validated(Recipe, given.get("training", {}), ("training",))
    given["training"] = training
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
                f"estimators.{name}.kind: '{entry['kind']}' does not go with base '{entry['base']}'"
            )
        valid = validated(cls, options, ("estimators", name))
        estimators[name] = {"base": entry["base"], "kind": cls.kind, **valid.model_dump(mode="json")}
    given["estimators"] = estimators
    variants = _mapping("variants", given.get("variants", {}))
    given["variants"] = {
        name: resolve_variant(name, entry, training) for name, entry in variants.items() if entry is not None
    }
    config = validated(Config, given, ())
    _check_variants(config.variants, config)
    config._left_out = {section: names for section, names in left_out.items() if names}
    return config


def _mapping(section: str, value: Any) -> Mapping[str, Any]:
    value = {} if value is None else value
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{section}: found {shown(value)}, expected a mapping of names, such as '{section}: {{a: {{}}}}'"
        )
    for name in value:
        if not is_name(name):
            raise ConfigError(f"{section}: {shown(name)} cannot be a name: {NAME_RULE}")
    for one, other in _alike(value):
        raise ConfigError(f"{section}: {one} and {other} are the same file on some computers; rename one")
    return value


def _alike(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield pairs of names that differ in nothing but capitals."""
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(name.casefold(), name)
        if other != name:
            yield other, name


def _entries(
    section: str, value: Any, presets: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each entry of a library section laid over its preset; one that is null is left out."""
    for name, entry in _mapping(section, value).items():
        if entry is None:
            continue
        if not isinstance(entry, Mapping):
            raise ConfigError(
                f"{section}.{name}: found {shown(entry)}, expected a mapping of options, {{}} for none"
            )
        base = entry.get("base", name)
        if not isinstance(base, str) or base not in presets:
            known = sorted(presets)
            raise ConfigError(
                f"{section}.{name}: there is no preset '{base}'{nearest(str(base), known)}. Presets: "
                f"{', '.join(known)}. A new name says which it is "
                f"based on: '{name}: {{base: {known[0]}, ...}}'"
            )
        yield name, {**merge(presets[base], entry), "base": base}


def load(*paths: str | os.PathLike[str], arguments: Sequence[str] = ()) -> Config:
    """Read configuration files, each laid over the one before, and resolve the whole.

    Parameters
    ----------
    *paths : path
    arguments : sequence of str
        ``key=value``, laid over the files: those of Snakemake's ``--config``.

    Raises
    ------
    ConfigError
        Also where a file cannot be read.
    """
    merged: dict[str, Any] = {}
    for content in (*map(read_file, paths), read_arguments(arguments)):
        merged = merge(merged, content)
    return resolve(merged)


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
    _check_variants(variants, config, [study.population])
    return variants


def _check_variants(
    variants: Mapping[str, Variant], config: Config, populations: Sequence[str] | None = None
) -> None:
    """Raise a ConfigError where networks cannot be trained on populations of the run, all by default."""
    size = config.stamps.size_pixels
    problems: dict[str, None] = {}
    for name, variant in variants.items():
        for population in config.populations if populations is None else populations:
            try:
                options = config.populations[population]
                architecture_for(name, variant, options, (size, size), config.galaxies.train)
            except ConfigError as error:
                problems[str(error)] = None  # the same for several populations is said once
    if problems:
        raise ConfigError("\n".join(problems))


def noise_label(sigma: float) -> str:
    """Return a noise level as it is written in file names."""
    return f"{sigma:g}"


def planned_jobs(config: Config) -> dict[str, int]:
    """Return about how many jobs a run has of those rules that have many, by the rule; studies left out."""
    levels = len(config.noise_levels) + len(config.shear_test.noise_levels)
    stamps = [
        stamp_count(split, getattr(config.galaxies, split), config.shear_test.rotations) for split in SPLITS
    ]
    networks = len(config.variants) * len(config.seeds)
    a_population = {
        "simulate_stamps": sum(-(-n // config.chunk_stamps) for n in stamps),
        "measure": len(config.estimators) * levels,
        "train": networks,
        "predict": 2 * len(config.variants),
    }
    return {rule: len(config.populations) * number for rule, number in a_population.items()}


def _fewer_jobs(config: Config, jobs: Mapping[str, int]) -> str:
    """Return what to change where a run has too many jobs."""
    total = sum(jobs.values())
    most = max(jobs, key=lambda rule: jobs[rule])
    too_many = f"makes {jobs[most]} jobs of '{most}', and {total} in all; a run has at most {MAX_JOBS}"
    if most != "simulate_stamps":
        return (
            f"populations: with the other lists this {too_many}. Give fewer populations, noise_levels, "
            "estimators, variants or seeds, or several runs"
        )
    larger = config.chunk_stamps * -(-jobs[most] // (MAX_JOBS // 2))
    return f"chunk_stamps: {config.chunk_stamps} {too_many}. Give at least {larger}, or fewer galaxies"


# The profiles that a model is exact for. Mixtures are so under Gaussian PSFs alone; a Spergel profile, which
# with nu = 1/2 is the exponential, is drawn with the PSF as it is.
_EXACT = {"gauss": "gaussian", "exp": "exponential", "spergel": "exponential"}
_ONE_GAUSSIAN = ("gauss", "coellip1")


def labels(config: Config) -> dict[str, str]:
    """Return how figures and tables call each estimator; a fit says where its galaxy and PSF are right."""
    named = {}
    for name in config.estimators:
        estimator = config.estimator(name)
        label = estimator.label or name
        model = getattr(estimator, "model", None)
        if model is not None and not estimator.ensemble_response:
            one_gaussian = getattr(estimator, "psf_model", None) in _ONE_GAUSSIAN
            populations = config.populations.items()
            gaussian = [name for name, options in populations if options.psf.profile == "gaussian"]
            right = [
                name
                for name, options in populations
                if options.profile == _EXACT.get(model) and (name in gaussian or model == "spergel")
            ]
            label += f", matched{_where(right, config)}" if right else ", mismatched"
            blurred = [name for name, _ in populations if name not in gaussian]
            if one_gaussian and model != "spergel" and blurred:
                label += f", wrong PSF{_where(blurred, config)}"
        named[name] = label
    # Two of one name in a figure could not be told apart.
    shown_as = [*named.values(), *config.variants]
    return {
        name: f"{label} ({name})" if shown_as.count(label) > 1 else label for name, label in named.items()
    }


def _where(populations: list[str], config: Config) -> str:
    return "" if len(populations) == len(config.populations) else f" for {', '.join(populations)}"


def main(*paths: str) -> None:
    """Check configuration files, and print the folder of their run."""
    try:
        print(f"results/{load(DEFAULT, *paths).run}")
    except ConfigError as error:
        sys.exit(f"The configuration is wrong.\n{error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
