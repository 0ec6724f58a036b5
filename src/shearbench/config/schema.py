"""The option classes of a run: what a configuration may say."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from itertools import combinations
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, field_validator, model_validator

from shearbench.errors import nearest
from shearbench.estimators import make_estimator
from shearbench.estimators.base import Estimator
from shearbench.options import (
    Distinct,
    Name,
    Options,
    Seed,
    Sigma,
)
from shearbench.simulation.populations import PRESETS as POPULATION_PRESETS
from shearbench.simulation.populations import SPLITS, Population, stamp_count
from shearbench.training.recipe import Recipe
from shearbench.training.variants import Variant

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
