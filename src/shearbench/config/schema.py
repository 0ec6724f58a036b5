"""The option classes of a configuration."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from itertools import combinations
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, field_validator, model_validator

from shearbench.errors import nearest
from shearbench.estimators import make_estimator
from shearbench.estimators.base import Estimator
from shearbench.estimators.calibrated import Calibrated
from shearbench.frameworks.options import Frameworks
from shearbench.options import (
    Distinct,
    Name,
    Options,
    Seed,
    Sigma,
)
from shearbench.simulation.populations import PRESETS as POPULATION_PRESETS
from shearbench.simulation.populations import SPLITS, Population, stamp_count
from shearbench.tasks.contrastive.options import StampEncoder
from shearbench.tasks.morphology.options import Morphology
from shearbench.training.recipe import Recipe
from shearbench.training.tracking import Tracker
from shearbench.training.variants import Variant

MAX_JOBS = 4000
"""Largest number of jobs of a run. Each process of Snakemake plans them all, at 5 to 15 ms a job."""
Count = Annotated[int, Field(ge=1, le=10**9)]


class Stamps(Options):
    """The geometry of a stamp."""

    size_pixels: int = Field(48, ge=8, le=512, description="rows and columns of a stamp [pixels]")
    pixel_scale_arcsec: float = Field(0.2, ge=1e-3, le=10, description="pixel scale [arcsec]")


class Galaxies(Options):
    """Number of galaxies of each split."""

    train: Count = Field(20000, description="number of galaxies on which the networks are trained")
    validation: Count = Field(
        2000,
        description="number of galaxies used to select the best epoch of a training and to calibrate the "
        "errors of networks",
    )
    test: Count = Field(2000, description="number of galaxies on which all estimators are compared")
    shear: Annotated[int, Field(ge=2, le=10**8)] = Field(
        500,
        description="number of galaxies from which m and c are measured. Each gives 8 x `rotations` stamps: "
        "4 applied shears, and for each of them a noise field and its negative",
    )
    leakage: Annotated[int, Field(ge=2, le=10**8)] = Field(
        50,
        description="number of galaxies from which the leakage of the PSF's shape is measured. Each gives "
        "8 x `rotations` stamps: 4 shapes of the PSF, and for each of them a noise field and its negative",
    )


class ShearTest(Options):
    """How multiplicative and additive bias, and the leakage of the PSF's shape, are measured."""

    shear: float = Field(
        0.02,
        ge=1e-6,
        le=0.1,
        description="reduced shear that is applied: plus and minus this value, in g1 and in g2",
    )
    rotations: typing.Literal[2, 4] = Field(
        2,
        description="number of intrinsic orientations of each galaxy: 2 (90 degrees apart) or 4 (45 degrees "
        "apart)",
    )
    psf_shape: float = Field(
        0.05,
        ge=1e-6,
        le=0.2,
        description="for the leakage: plus and minus this value is added to the PSF's shape g, in g1 and in "
        "g2; a PSF that is an image is sheared by it",
    )
    noise_levels: Annotated[tuple[Sigma, ...], Distinct] = Field(
        (1e-5, 1e-3),
        description="noise levels at which m, c and the leakage are measured [flux per pixel]; each must be "
        "one of `noise_levels`",
    )


class ModelErrors(Options):
    """What is told wrongly to estimators, to measure how much of the error is in m and c."""

    galaxies: int = Field(
        0,
        ge=0,
        le=10**8,
        description="galaxies of the split shear (the first ones) that are measured again with a PSF or a "
        "noise level that is told wrongly; 0: they are not",
    )
    noise_levels: Annotated[tuple[Sigma, ...], Distinct] | None = Field(
        None, description="noise levels at which they are; null: those of `shear_test`"
    )
    psf_size: float = Field(
        0.01, ge=1e-6, le=0.5, description="the PSF that is told is larger by this fraction"
    )
    psf_shape: float = Field(
        0.005, ge=1e-6, le=0.2, description="this is added to both components of the shape g of the PSF told"
    )
    noise: float = Field(
        0.1,
        ge=1e-6,
        le=0.9,
        description="the noise level that is told is lower, and higher, by this fraction",
    )

    @property
    def amounts(self) -> dict[str, float]:
        """The errors by name, each with its amount."""
        return {
            "psf_size": self.psf_size,
            "psf_shape": self.psf_shape,
            "noise_low": -self.noise,
            "noise_high": self.noise,
        }


class BayesFloor(Options):
    """How the Bayes floor is computed: the least RMSE of an estimator that knows the population."""

    galaxies: int = Field(
        200,
        ge=0,
        le=10**7,
        description="number of test galaxies whose posterior is sampled; 0: the Bayes floor is not computed",
    )
    samples: int = Field(
        240,
        ge=60,
        le=10**6,
        description="number of samples of the posterior of each galaxy at each noise level",
    )


class Diagnostics(Options):
    """How trained networks are examined from inside (docs/inside.md)."""

    variants: tuple[Name, ...] | None = Field(
        None,
        description="names of the networks that are examined, trained with the first seed; null: all of the "
        "run; []: none",
    )
    galaxies: int = Field(
        2,
        ge=1,
        le=1000,
        description="number of test galaxies at which the information held by each layer is computed",
    )
    probe_galaxies: int = Field(
        300,
        ge=40,
        le=10**4,
        description="number of training galaxies from which it is learned to read parameters from each layer",
    )
    noise_levels: Annotated[tuple[Sigma, ...], Distinct] = Field(
        (1e-5, 1e-3, 1e-2),
        min_length=1,
        description="noise levels at which the networks are examined [flux per pixel]",
    )


class Observation(Options):
    """Stamps of a user, measured by all estimators of the run (docs/own-data.md)."""

    stamps: str = Field(
        min_length=1,
        description="file of the stamps: HDF5 (`.h5`, `.hdf5`), a FITS cube, or MEDS; it is only read",
    )
    psf: str | None = Field(
        None, description="FITS or HDF5 file with one PSF image, or one each; null: in the file of the stamps"
    )
    sigma: Sigma | str | None = Field(
        None,
        description="standard deviation of a pixel's noise: a number, or the name of the array, HDU or "
        "column with that of each stamp or with weight maps (inverse variances); null: `sigma` or `weight`",
    )
    pixel_scale_arcsec: float | None = Field(
        None, ge=1e-3, le=10, description="pixel scale [arcsec]; null: as the file says"
    )
    flux_scale: float = Field(
        1.0,
        ge=1e-12,
        le=1e12,
        description="images and noise are multiplied by this number, to have the fluxes of the population",
    )
    networks_from: Name | None = Field(
        None,
        description="population whose networks measure the stamps; null: the only population of the run",
    )
    resize: bool = Field(
        False,
        description="for networks, stamps of another size are cut to the size of the training, or padded "
        "with zeros; otherwise networks flag them. Other estimators measure any size",
    )


class Config(Options):
    """The configuration of a run."""

    run: Name = Field("quick", description="name of the run; its files are in `results/<run>/`")
    seed: int = Field(
        1, ge=0, lt=2**63, description="seed of the random numbers of the run, except those of a training"
    )
    noise_levels: Annotated[tuple[Sigma, ...], Distinct] = Field(
        (1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
        min_length=1,
        description="standard deviations of the noise at which estimators are compared [flux per pixel]",
    )
    stamps: Stamps = Stamps()
    galaxies: Galaxies = Galaxies()
    shear_test: ShearTest = ShearTest()
    model_errors: ModelErrors = ModelErrors()
    bayes_floor: BayesFloor = BayesFloor()
    diagnostics: Diagnostics = Diagnostics()
    chunk_stamps: int = Field(
        5000, ge=1, le=10**7, description="number of stamps that one simulation job draws"
    )
    populations: dict[Name, Population] = Field(
        description="populations of galaxies and PSFs: presets, or new names with a `base` and the options "
        "that differ from it"
    )
    estimators: dict[Name, dict[str, Any]] = Field(
        default_factory=dict,
        description="estimators other than networks: presets, or new names with a `base` and the options "
        "that differ from it",
    )
    variants: dict[Name, Variant] = Field(
        default_factory=dict,
        description="networks: presets, or new names with a `base` and the options that differ from it",
    )
    judge_on: Annotated[tuple[Name, ...], Distinct] = Field(
        (),
        description="populations of the run on which networks trained on each other population are judged "
        "too, at the noise levels of `shear_test`; the results are labelled as out of distribution",
    )
    encoders: dict[Name, StampEncoder] = Field(
        default_factory=dict,
        description="encoders that are trained on the training stamps without labels, by contrast: presets "
        "of networks, or new names with a `base`; `training.start_from` names one. Their options of the "
        "training are below",
    )
    observations: dict[Name, Observation] = Field(
        default_factory=dict,
        description="stamps of your own by name: options of each are `observations.<name>` below",
    )
    morphology: Morphology | None = Field(
        None,
        description="the classification of galaxies by morphology; null: there is none. Its options are "
        "below",
    )
    frameworks: Frameworks | None = Field(
        None,
        description="the comparison of one small network in NumPy, PyTorch, JAX and Keras; null: there is "
        "none. Its options are below",
    )
    seeds: Annotated[tuple[Seed, ...], Distinct] = Field(
        (1,), min_length=1, description="seeds of the trainings: each network is trained once with each seed"
    )
    training: Recipe = Recipe()
    studies: Annotated[tuple[Name, ...], Distinct] = Field(
        (), description="names of the studies (files in `config/studies/`) that the run includes"
    )
    study_seeds: Annotated[tuple[Seed, ...], Distinct, Field(min_length=1, max_length=100)] | None = Field(
        None, description="seeds of the trainings of all studies; null: those that each study gives"
    )
    study_training: dict[str, Any] = Field(
        default_factory=dict,
        description="options of `training` for all studies, in place of those that each study gives for all "
        "of its values; options of a single value stay",
    )
    study_networks_per_job: int = Field(
        1,
        ge=1,
        le=1000,
        description="number of networks of studies that one job trains one after the other, and another job "
        "measures with. More than 1 saves the start of jobs where trainings take seconds; a single study "
        "may then train networks of others too",
    )
    search_workers: int = Field(
        1,
        ge=1,
        le=1000,
        description="number of jobs that share the trials of a search (files in `config/searches/`); each "
        "uses one core or GPU, of one machine or of a cluster",
    )
    tracking: Tracker = Field(
        "none",
        description="training curves and norms of gradients for TensorBoard, Weights & Biases (offline) or "
        "MLflow, in `results/<run>/tracking`; a change of it makes nothing anew",
    )
    bootstrap: int = Field(
        400, ge=20, le=10**5, description="number of bootstrap resamples from which each error is estimated"
    )

    _left_out: dict[str, list[str]] = PrivateAttr(default_factory=dict)

    @field_validator("noise_levels")
    @classmethod
    def _distinct_labels(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        for one, other in combinations(levels, 2):
            if noise_label(one) == noise_label(other):
                raise ValueError(
                    f"{one!r} and {other!r} would both be {noise_label(one)} in file names; noise levels "
                    "must differ in their first six digits"
                )
        return levels

    @model_validator(mode="after")
    def _check(self) -> Config:
        stray = set(self.shear_test.noise_levels) - set(self.noise_levels)
        if stray:
            raise ValueError(
                f"shear_test.noise_levels: {sorted(stray)} is not in noise_levels {sorted(self.noise_levels)}"
                "; give shear_test.noise_levels some of these"
            )
        measured = set(self.shear_test.noise_levels)
        if stray := set(self.model_errors.noise_levels or ()) - measured:
            raise ValueError(
                f"model_errors.noise_levels: {sorted(stray)} is not in shear_test.noise_levels "
                f"{sorted(measured)}"
            )
        if self.model_errors.galaxies > self.galaxies.shear:
            raise ValueError(
                f"model_errors.galaxies: found {self.model_errors.galaxies}, expected at most the "
                f"{self.galaxies.shear} of galaxies.shear"
            )
        if not self.populations:
            raise ValueError(
                f"populations: at least one is needed; the presets are {sorted(POPULATION_PRESETS)}"
            )
        for name in self.estimators:
            self._check_networks_of(name)
        for name in self.diagnostics.variants or ():
            if name not in self.variants:
                known = sorted(self.variants)
                raise ValueError(
                    f"diagnostics.variants: '{name}' is not a variant of this run{nearest(name, known)}; its "
                    f"variants are {', '.join(known) or 'none'}"
                )
        for name in self.judge_on:
            if name not in self.populations:
                known = sorted(self.populations)
                raise ValueError(
                    f"judge_on: '{name}' is not a population of this run{nearest(name, known)}; its "
                    f"populations are {', '.join(known)}"
                )
        if self.judge_on and (len(self.populations) < 2 or not self.variants):
            raise ValueError(
                "judge_on: networks trained on one population are judged on another, so the run needs two or "
                "more populations, and networks"
            )
        for name, observation in self.observations.items():
            source, known = observation.networks_from, sorted(self.populations)
            if source is None and len(known) > 1:
                raise ValueError(
                    f"observations.{name}.networks_from: it is needed in a run with several populations: one "
                    f"of {', '.join(known)}"
                )
            if source is not None and source not in known:
                raise ValueError(
                    f"observations.{name}.networks_from: '{source}' is not a population of this run"
                    f"{nearest(source, known)}; its populations are {', '.join(known)}"
                )
        both = set(self.estimators) & set(self.variants)
        if both:
            raise ValueError(f"variants: '{min(both)}' is the name of an estimator too; rename one of them")
        if self.frameworks is not None:
            self._check_frameworks(self.frameworks)
        for name, population in self.populations.items():
            side = self.stamps.size_pixels * self.stamps.pixel_scale_arcsec
            sharpest = population.psf.fwhm_arcsec[0]
            if population.psf.has_formula and sharpest < side / 500:
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
            furthest = population.neighbours.distance_arcsec[1]
            if population.neighbours.fraction and furthest > side / 2:
                raise ValueError(
                    f"populations.{name}.neighbours.distance_arcsec: found {furthest:g}, expected at most "
                    f"{side / 2:g}, half of the stamp's side"
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

    def _check_networks_of(self, name: str) -> None:
        """Refuse an estimator with a network that the run has not, or that does not suit it."""
        estimator, known = self.estimator(name), sorted(self.variants)
        for key in ("network", "networks"):
            found = getattr(estimator, key, ())
            for network in (found,) if isinstance(found, str) else found:
                if network not in known:
                    raise ValueError(
                        f"estimators.{name}.{key}: '{network}' is not a variant of this run"
                        f"{nearest(network, known)}; its variants are {', '.join(known) or 'none'}"
                    )
                if objection := estimator.objection(self.variants[network].make()):
                    raise ValueError(f"estimators.{name}.{key}: found '{network}', but {objection}")
        if isinstance(estimator, Calibrated):
            trained = self.variants[estimator.network].training.noise
            if estimator.common_noise(trained) is None:
                raise ValueError(
                    f"estimators.{name}.noise: found {list(estimator.noise)}, but '{estimator.network}' is "
                    f"trained with {trained if isinstance(trained, float) else list(trained)}; use noise "
                    "levels that it knows"
                )
        networks = getattr(estimator, "networks", None)
        if networks is not None and len(networks) * len(self.seeds) < 2:
            raise ValueError(
                f"estimators.{name}.networks: found {len(networks)} networks, trained with {len(self.seeds)} "
                "seeds each; an ensemble has two members or more: name further variants "
                f"({', '.join(known) or 'there are none'}), or give more `seeds`"
            )

    def _check_frameworks(self, section: Frameworks) -> None:
        """Refuse a training that is impossible, and a name that something else has."""
        for key, names in (("networks", section.networks), ("checkpoints", section.checkpoints)):
            for name in {*names} & {*self.estimators, *self.variants}:
                kind = "an estimator" if name in self.estimators else "a variant"
                raise ValueError(f"frameworks.{key}: '{name}' is the name of {kind} too; rename that one")
        if (section.galaxies or 0) > self.galaxies.train:
            raise ValueError(
                f"frameworks.galaxies: {section.galaxies} is more than the {self.galaxies.train} galaxies of "
                "the training split; give at most as many"
            )
        galaxies = section.galaxies or self.galaxies.train
        if section.batch_size > galaxies:
            raise ValueError(
                f"frameworks.batch_size: {section.batch_size} is more than the {galaxies} galaxies of an "
                "epoch"
            )

    def estimator(self, name: str) -> Estimator:
        """Return the estimator of the run that has this name, with its options."""
        return make_estimator(self.estimators[name])

    def dump(self) -> dict[str, Any]:
        """Return the resolved configuration as plain values; `resolve` makes the same configuration of them.

        Entries that were left out are null in it, so that they are left out again when the result is merged
        into the default configuration.
        """
        plain = self.model_dump(mode="json")
        # Options given for all networks override those of presets, so defaults must not be among them.
        plain["training"] = self.training.model_dump(mode="json", exclude_unset=True)
        for name, variant in self.variants.items():
            if variant.searched is not None:
                plain["variants"][name]["searched"] = variant.searched.model_dump()
        for name in set(self.populations) - set(POPULATION_PRESETS):
            # A new name needs a base, and any serves, because all options are given.
            plain["populations"][name]["base"] = min(POPULATION_PRESETS)
        if self.morphology is not None:
            given = self.morphology.training.model_dump(mode="json", exclude_unset=True)
            plain["morphology"]["training"] = given
            if (contrastive := self.morphology.contrastive) is not None:
                given = contrastive.training.model_dump(mode="json", exclude_unset=True)
                plain["morphology"]["contrastive"]["training"] = given
        for section, names in self._left_out.items():
            plain[section].update(dict.fromkeys(names))
        return plain


def noise_label(sigma: float) -> str:
    """Return the text of a noise level in file names."""
    return f"{sigma:g}"


def planned_jobs(config: Config) -> dict[str, int]:
    """Return about how many jobs a run has, by rule; rules with few jobs and studies are not counted."""
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
        **({"train_framework": len(config.frameworks.trainings)} if config.frameworks else {}),
    }
    if config.model_errors.galaxies:
        told = config.model_errors.noise_levels or config.shear_test.noise_levels
        a_population["measure_model_errors"] = len(config.estimators) * len(told) + len(config.variants)
    jobs = {rule: len(config.populations) * number for rule, number in a_population.items()}
    others = len(config.judge_on) * (len(config.populations) - 1)
    return jobs | ({"judge": others * len(config.variants)} if others else {})


def _fewer_jobs(config: Config, jobs: Mapping[str, int]) -> str:
    """Return the error message for a run with too many jobs."""
    total = sum(jobs.values())
    most = max(jobs, key=lambda rule: jobs[rule])
    too_many = f"makes {jobs[most]} jobs of the rule '{most}' and {total} jobs in all, of {MAX_JOBS} allowed"
    if most != "simulate_stamps":
        return (
            f"populations: this configuration {too_many}. Use fewer populations, noise_levels, estimators, "
            "variants or seeds, or divide it into several runs"
        )
    larger = config.chunk_stamps * -(-jobs[most] // (MAX_JOBS // 2))
    return f"chunk_stamps: {config.chunk_stamps} {too_many}. Use at least {larger}, or fewer galaxies"
