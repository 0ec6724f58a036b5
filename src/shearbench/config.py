"""The configuration: what a run is made of, checked before any job starts.

This module sits on top of the others. It composes the option classes of populations, estimators, network
variants and studies; none of the science imports it. ``python -m shearbench.docs`` writes the JSON schema
and the table in ``config/README.md``, both generated from the classes below.
"""

from __future__ import annotations

import os
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field, PrivateAttr, model_validator

from shearbench.errors import ConfigError, nearest
from shearbench.estimators import estimator_kinds, estimator_presets, make_estimator
from shearbench.estimators.base import Estimator
from shearbench.networks import Variant, architecture_for, resolve_variant
from shearbench.options import Options, merge, shown, validated
from shearbench.populations import PRESETS as POPULATION_PRESETS
from shearbench.populations import Population
from shearbench.studies import Study
from shearbench.training.recipe import Recipe

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def _plain_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            f"'{value}' is to be a file name: letters, digits, '-' and '_' only, no space, dot or slash"
        )
    return value


def _distinct(values: Any) -> Any:
    if len(set(values)) != len(values):
        raise ValueError(f"{list(values)} has the same entry twice")
    return values


Name = Annotated[str, AfterValidator(_plain_name)]
Sigma = Annotated[float, Field(gt=0, lt=1e6)]
Count = Annotated[int, Field(ge=1, le=10**9)]


class Stamps(Options):
    """The geometry of a stamp."""

    size_pixels: int = Field(48, ge=8, le=512, description="rows and columns of a stamp [pixels]")
    pixel_scale_arcsec: float = Field(0.2, gt=0, le=10, description="pixel scale [arcsec]")


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
        0.02, gt=0, le=0.1, description="reduced shear applied, with either sign, to g1 and to g2"
    )
    rotations: typing.Literal[2, 4] = Field(
        2, description="intrinsic orientations of each galaxy: 2 are 90 degrees apart, 4 are 45"
    )
    noise_levels: tuple[Sigma, ...] = Field(
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
    noise_levels: Annotated[tuple[Sigma, ...], AfterValidator(_distinct)] = Field(
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
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], AfterValidator(_distinct)] = Field(
        (1,), min_length=1, description="each network is trained once with each of these"
    )
    training: Recipe = Recipe()
    studies: tuple[Name, ...] = Field(
        (), description="studies (files in `config/studies/`) that `all` includes"
    )
    bootstrap: int = Field(400, ge=20, le=10**5, description="bootstrap resamples behind every quoted error")

    _left_out: dict[str, list[str]] = PrivateAttr(default_factory=dict)

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
            needed = 6 * population.extent_arcsec
            if side < needed:
                raise ValueError(
                    f"stamps.size_pixels: {self.stamps.size_pixels} pixels of "
                    f"{self.stamps.pixel_scale_arcsec:g} arcsec "
                    f"are too small for population '{name}', whose largest galaxy has a half-light radius of "
                    f"{population.extent_arcsec:.2f} arcsec after the PSF: six of these need "
                    f"{int(-(-needed // self.stamps.pixel_scale_arcsec))} pixels"
                )
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
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(f"{section}: {shown(name)} cannot be a name: letters, digits, '-' and '_' only")
    return value


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


def load(*paths: str | os.PathLike[str]) -> Config:
    """Read configuration files, each laid over the one before, and resolve the whole.

    Raises
    ------
    ConfigError
        Also where a file is not YAML.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        try:
            content = yaml.load(Path(path).read_text(encoding="utf-8"), _Yaml)
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from error
        if not isinstance(content, Mapping):
            raise ConfigError(f"{path}: found {shown(content)}, expected a mapping of keys to values")
        merged = merge(merged, content)
    return resolve(merged)


class _Yaml(yaml.SafeLoader):
    """YAML in which 1e-5 is a number, as it is for everybody but YAML 1.1."""


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def load_studies(folder: str | os.PathLike[str]) -> dict[str, Study]:
    """Read every study of a folder, by its name, which is the file's.

    Raises
    ------
    ConfigError
    """
    studies = {}
    for path in sorted(Path(folder).glob("*.yaml")):
        content = yaml.load(path.read_text(encoding="utf-8"), _Yaml)
        content = {"name": path.stem, **_mapping(str(path), content)}
        studies[path.stem] = validated(Study, content, (str(path),))
    return studies


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
    return named


def _where(populations: list[str], config: Config) -> str:
    return "" if len(populations) == len(config.populations) else f" for {', '.join(populations)}"
