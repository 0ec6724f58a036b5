"""Names, counts and files of a run, derived from its configuration and its studies.

The workflow uses this module while it plans, so its imports are limited to those of the options.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from shearbench.config.labels import labels
from shearbench.config.schema import Config, noise_label
from shearbench.config.searches import Searches
from shearbench.config.studies import Studies
from shearbench.errors import ConfigError
from shearbench.estimators.calibrated import Calibrated
from shearbench.figures.catalogue import Entry, entries
from shearbench.frameworks import options as framework_options
from shearbench.frameworks.options import NETWORKS, NetworkName
from shearbench.simulation.populations import PAIRED, stamp_count
from shearbench.studies import INSIDE_KINDS
from shearbench.tasks.morphology.options import ImageEncoder, Morphology
from shearbench.training.variants import Variant

TABLES = ("accuracy", "shear_bias", "estimators", "throughput", "networks")
"""The LaTeX tables of a run."""
INSIDE = {
    "layers": "inside_layers",
    "flow": "inside_flow",
    "gradients": "inside_flow",
    "curvature": "inside_flow",
    "shifts": "inside_flow",
    "overlap": "inside_maps",
}
"""The tables of a network that is examined from inside, and the rule that makes each."""
OBSERVED = ("observed_galaxies.parquet", "observed_shapes.parquet", "observed_shear.parquet")
"""The tables of the stamps of users: galaxies, estimates of each, and shear of the ensembles."""
MORPHOLOGY = (
    "morphology.csv",
    "morphology_classes.csv",
    "morphology_confusion.csv",
    "morphology_calibration.csv",
    "morphology_angles.csv",
    "morphology_training.csv",
    "morphology_examples.h5",
    "morphology_inside.h5",
)
"""The tables and examples of the classification by morphology."""
CONTRASTIVE = (
    "morphology_labels.csv",
    "morphology_embedding.csv",
    "morphology_spectrum.csv",
    "morphology_map.csv",
    "morphology_pretraining.csv",
)
"""The tables of the encoders that are trained on images without labels."""
FRAMEWORKS = ("frameworks.csv", "frameworks_precision.csv")
"""The tables of the comparison of frameworks."""
SECTIONS = ("morphology", "frameworks")
"""The sections of a configuration whose figures are drawn only if a run has them."""
TABULATED = ("accuracy", "shear_bias", "psf_leakage", "throughput", "networks")
"""The metrics from which the tables and numbers of a paper are made."""
JUDGED_SPLITS = ("test", "shear")
"""The splits of another population that networks are judged on."""
INSIDE_STUDY = tuple(kind for kind in INSIDE_KINDS if kind != "attention")
"""What is measured inside the networks of a study; attention, which has maps, has a rule of its own."""
STUDY_FILES = {
    "studies/{study}.csv": "evaluate_study",
    "studies/{study}_accuracy.csv": "evaluate_study",
    "studies/{study}_verdict.txt": "evaluate_study",
    "studies/{study}_shear.csv": "evaluate_study_shear",
    "studies/{study}_shear.txt": "evaluate_study_shear",
    "studies/{study}_attention.csv": "measure_attention",
    "studies/{study}_attention_cost.csv": "measure_attention",
    "studies/{study}_attention.h5": "measure_attention",
    **{f"studies/{{study}}_{kind}.csv": "measure_inside" for kind in INSIDE_STUDY},
}
"""The rule that makes each file of a study in ``metrics/``."""
SEARCH_FILES = ("searches/{search}/trials.csv", "searches/{search}/importances.csv")
"""The files of a search in ``metrics/``."""


@dataclass(frozen=True)
class Figure:
    """A figure of a run.

    Attributes
    ----------
    entry : Entry
    sources : list of str
        Metrics that the figure reads.
    populations : list of str
        Populations, or networks, with one file each; empty if one file shows the whole run.
    paths : list of str
        Paths of the files, without suffix.
    """

    entry: Entry
    sources: list[str]
    populations: list[str]
    paths: list[str]

    def files(self, suffix: str) -> list[str]:
        """Return the files with a suffix, ``pdf`` or ``png``."""
        return [f"{path}.{suffix}" for path in self.paths]

    @property
    def arguments(self) -> list[list[str]]:
        """Further arguments of ``draw`` for each file, after the metrics."""
        return [[name] for name in self.populations] or [[]]


@dataclass(frozen=True)
class Run:
    """A run, described by its configuration and its studies.

    Attributes
    ----------
    config : Config
    studies : Studies
        Studies that fit the run, with their networks, and the reasons why the others do not fit.
    left_out : mapping of str to str
        The estimators that cannot run here, with the reason.
    searches : Searches
        Searches that fit the run, and the reasons why the others do not.

    Raises
    ------
    ConfigError
        The figures of two populations would have the same file.
    """

    config: Config
    studies: Studies
    left_out: Mapping[str, str] = field(default_factory=dict)
    searches: Searches = field(default_factory=lambda: Searches({}, {}, {}))

    def __post_init__(self) -> None:
        of: dict[str, str] = {}
        for figure in self.figures.values():
            for path, population in zip(figure.paths, figure.populations):
                if (other := of.setdefault(path, population)) != population:
                    raise ConfigError(
                        f"populations: '{other}' and '{population}' would both have a figure called "
                        f"{Path(path).name}; give one of them another name"
                    )

    @property
    def folder(self) -> str:
        """The folder of all files that the run makes."""
        return f"results/{self.config.run}"

    @property
    def metrics(self) -> str:
        """The folder of the tables from which figures are made."""
        return f"{self.folder}/metrics"

    # Names

    @cached_property
    def sigma(self) -> dict[str, float]:
        """The noise levels by their names in paths."""
        return {noise_label(sigma): sigma for sigma in self.config.noise_levels}

    @property
    def lowest(self) -> str:
        """The name of the lowest noise level."""
        return noise_label(min(self.config.noise_levels))

    @cached_property
    def noise(self) -> dict[str, list[str]]:
        """The names of the noise levels at which each split is measured."""
        paired = [noise_label(sigma) for sigma in self.config.shear_test.noise_levels]
        return {"test": list(self.sigma), **dict.fromkeys(PAIRED, paired)}

    @cached_property
    def populations(self) -> list[str]:
        """The names of the populations."""
        return list(self.config.populations)

    @cached_property
    def estimators(self) -> list[str]:
        """The names of the estimators, without those that are left out."""
        return [name for name in self.config.estimators if name not in self.left_out]

    @cached_property
    def labels(self) -> dict[str, str]:
        """Label of each estimator, and of each network from a search, in figures and tables."""
        shown = {*self.estimators, *self.config.variants}
        found = {name: label for name, label in labels(self.config).items() if name in shown}
        return found | {name: NETWORKS[name].label for name, _ in self.frameworks}

    @cached_property
    def variants(self) -> dict[str, Variant]:
        """All networks by name, also those of the studies."""
        return {**self.studies.variants, **self.config.variants}

    @cached_property
    def networks(self) -> dict[str, list[int]]:
        """The networks of the run itself, with their seeds."""
        return {variant: list(self.config.seeds) for variant in self.config.variants}

    @cached_property
    def models(self) -> list[tuple[str, str, int]]:
        """The trained networks of the run itself, as (population, variant, seed)."""
        return [
            (population, variant, seed)
            for population in self.populations
            for variant, seeds in self.networks.items()
            for seed in seeds
        ]

    @cached_property
    def examined(self) -> list[tuple[str, str, int]]:
        """The trained networks that are examined from inside, as (population, variant, seed)."""
        chosen = self.config.diagnostics.variants
        return [
            (population, variant, self.config.seeds[0])
            for population in self.populations
            for variant in (self.config.variants if chosen is None else chosen)
        ]

    @cached_property
    def observations(self) -> list[str]:
        """The names of the stamps of users that the run measures."""
        return list(self.config.observations)

    def observation(self, name: str) -> dict[str, Any]:
        """Return the options of a user's stamps as plain values."""
        return self.config.observations[name].model_dump(mode="json")

    def networks_from(self, observation: str) -> str:
        """Return the population whose networks measure a user's stamps."""
        return self.config.observations[observation].networks_from or self.populations[0]

    @cached_property
    def measurers(self) -> dict[str, tuple[str, str, int | None]]:
        """All that measures a user's stamps, by the beginning of its columns in the catalogue.

        For each: the name of its file of estimates, that of the estimator or variant, and the seed of a
        network (else None).
        """
        found: dict[str, tuple[str, str, int | None]] = {}
        wanted: list[tuple[str, str, str, int | None]] = [
            (name, name, name, None) for name in self.estimators
        ]
        for variant, seeds in self.networks.items():
            for seed in seeds:
                column = variant if len(seeds) == 1 else f"{variant}_seed{seed}"
                wanted.append((column, f"{variant}.seed{seed}", variant, seed))
        for column, file, name, number in wanted:
            column = column.replace("-", "_")  # FITS has no hyphens in the names of columns
            if column in found and self.observations:
                raise ConfigError(
                    f"observations: '{found[column][1]}' and '{name}' would both have the columns "
                    f"{column}_g1, ... of the catalogue; rename one of them"
                )
            found[column] = file, name, number
        return found

    @cached_property
    def measurer_files(self) -> dict[str, tuple[str, int | None]]:
        """Of each of `measurers` by its file: the beginning of its columns, and the seed of a network."""
        return {file: (column, seed) for column, (file, _, seed) in self.measurers.items()}

    def network_measuring(self, observation: str, measurer: str) -> str | list[str]:
        """Return the model file that one of `measurer_files` needs for a user's stamps, or an empty list."""
        column, seed = self.measurer_files[measurer]
        name = self.measurers[column][1]
        population = self.networks_from(observation)
        return self.network_file(population, name) if seed is None else self.model_of(population, name, seed)

    def kind_of(self, name: str) -> str:
        """Return the kind of an estimator, or ``network`` for a network of the run."""
        return self.config.estimators[name]["kind"] if name in self.config.estimators else "network"

    def observed_by(self, observation: str) -> list[str]:
        """Return the files of estimates of a user's stamps, in the order of `measurers`."""
        folder = f"{self.folder}/observations/{observation}"
        return [f"{folder}/estimates/{file}.parquet" for file, _, _ in self.measurers.values()]

    @cached_property
    def observation_outputs(self) -> list[str]:
        """The catalogues of all stamps of users, as Parquet and FITS."""
        return [
            f"{self.folder}/observations/{name}.{suffix}"
            for name in self.observations
            for suffix in ("parquet", "fits")
        ]

    @cached_property
    def packed(self) -> list[str]:
        """The files of networks with their population, noise range and calibration."""
        return [f"{self.folder}/networks/{p}/{v}.seed{s}.pt" for p, v, s in self.models]

    @cached_property
    def noise_range(self) -> tuple[float, float]:
        """The noise levels, lowest and highest, that all networks are trained with, or those of the run."""
        ranges = [variant.training.noise_range for variant in self.config.variants.values()]
        ranges = ranges or [(min(self.config.noise_levels), max(self.config.noise_levels))]
        return max(low for low, _ in ranges), min(high for _, high in ranges)

    @cached_property
    def with_posterior(self) -> list[str]:
        """The names of the populations with a Bayes floor."""
        if self.config.bayes_floor.galaxies == 0:
            return []
        # The galaxies of an observed catalogue have no known density, so there is no prior.
        populations = self.config.populations.items()
        return [name for name, options in populations if options.has_density]

    @cached_property
    def reference(self) -> str | None:
        """The estimator whose shape noise all others are compared with: the first by FPFS, or none."""
        return next((name for name in self.estimators if self.kind_of(name) == "anacal"), None)

    @cached_property
    def fit(self) -> str | None:
        """The estimator whose scatter over pairs all others are compared with: the first ngmix fit, or none.

        Without ngmix, it is the first built-in fit.
        """
        named = {self.kind_of(name): name for name in reversed(self.estimators)}
        return named.get("ngmix", named.get("mixture"))

    @cached_property
    def judged(self) -> list[tuple[str, str]]:
        """The populations that networks are trained on, each with another one that they are judged on."""
        return [(one, other) for other in self.config.judge_on for one in self.populations if one != other]

    @cached_property
    def misjudged(self) -> dict[str, float]:
        """The errors of PSF and noise level that estimators are told, by name; empty if none is."""
        errors = self.config.model_errors
        return errors.amounts if errors.galaxies else {}

    @cached_property
    def misjudged_noise(self) -> list[str]:
        """The names of the noise levels at which they are."""
        levels = self.config.model_errors.noise_levels or self.config.shear_test.noise_levels
        return [noise_label(sigma) for sigma in levels]

    @cached_property
    def ensemble_estimators(self) -> list[str]:
        """The names of the estimators that measure the shear of ensembles only."""
        return [name for name in self.estimators if self.config.estimator(name).ensemble_response]

    def estimators_on(self, split: str) -> list[str]:
        """Return the names of the estimators that measure a split.

        Those that answer for ensembles only give no shapes of single galaxies, which the test split is for.
        """
        if split in PAIRED:
            return self.estimators
        return [name for name in self.estimators if name not in self.ensemble_estimators]

    def seeds_of(self, population: str, variant: str) -> list[int]:
        """Return the seeds with which the run and its studies train a network on a population."""
        seeds = dict.fromkeys(self.networks.get(variant, []))
        seeds.update(dict.fromkeys(s for p, v, s in self.values_of if (p, v) == (population, variant)))
        return list(seeds)

    def study_networks(self, study: str) -> dict[str, list[int]]:
        """Return the networks of a study with their seeds."""
        networks = self.studies.networks[study].values()
        return {network: list(self.studies.known[study].seeds) for network in networks}

    @cached_property
    def values_of(self) -> dict[tuple[str, str, int], list[str]]:
        """For each training of a study, (population, network, seed), the values that need it, in words.

        Such as ``activation (ReLU)``.
        """
        found: dict[tuple[str, str, int], list[str]] = {}
        for name, study in self.studies.known.items():
            for label, network in self.studies.networks[name].items():
                for seed in study.seeds:
                    found.setdefault((study.population, network, seed), []).append(f"{name} ({label})")
        return found

    @cached_property
    def batches(self) -> dict[str, tuple[str, list[tuple[str, int]]]]:
        """The jobs that train several networks of studies one after the other, in the order of the studies.

        For each, by its name: the population, and network and seed of each training. Empty if a job trains
        one network.
        """
        size = self.config.study_networks_per_job
        if size == 1:
            return {}
        found: dict[str, tuple[str, list[tuple[str, int]]]] = {}
        for name in self.populations:
            of_the_run = {(network, seed) for population, network, seed in self.models if population == name}
            trainings = [(v, s) for p, v, s in self.values_of if p == name and (v, s) not in of_the_run]
            for start in range(0, len(trainings), size):
                found[f"studies_{len(found) + 1}"] = name, trainings[start : start + size]
        return found

    def training(self, population: str, variant: str, seed: int) -> dict[str, Any]:
        """Return the training of a network for its job, as plain values.

        Returns
        -------
        dict
            ``name``, ``seed`` and ``variant`` (its options); ``seeds``, all seeds of the variant;
            ``values``, the values of studies that need it (`values_of`); ``checkpoint`` and
            ``gpu_use_path``, paths; ``may_diverge``, whether that is a result and not an error, as it is in
            a study; ``tracking``, where its curves are written; ``encoder``, path of the model file that
            the network starts from, or None.
        """
        place = f"{population}/{variant}/seed{seed}"
        return {
            "name": variant,
            "seed": seed,
            "variant": self.variants[variant].model_dump(mode="json"),
            "seeds": self.seeds_of(population, variant),
            "values": self.values_of.get((population, variant, seed), []),
            # Not an output, because Snakemake deletes outputs before every attempt.
            "checkpoint": f"{self.folder}/checkpoints/{place}.pt",
            "gpu_use_path": f"{self.folder}/benchmarks/train/{place}.gpu.csv",
            "may_diverge": seed not in self.networks.get(variant, []),
            "tracking": self.tracking(f"{population}/{variant}"),
            "encoder": self.encoder_of(population, variant, seed),
        }

    def tracking(self, name: str) -> dict[str, Any]:
        """Return where the curves of a training are written, as plain values of a `Tracking`."""
        folder = f"{self.folder}/tracking"
        return {"tracker": self.config.tracking, "folder": folder, "run": self.config.run, "name": name}

    def encoder_of(self, population: str, variant: str, seed: int) -> str | None:
        """Return the model file of the encoder that a network starts from, of the same seed, or None."""
        name = self.variants[variant].training.start_from
        return (
            None if name is None else f"{self.folder}/encoders/models/{population}/{name}/seed{seed}/model.pt"
        )

    def encoders_of(self, population: str, networks: Iterable[tuple[str, int]]) -> list[str]:
        """Return the model files of the encoders that networks start from, each a variant and a seed."""
        found = [self.encoder_of(population, variant, seed) for variant, seed in networks]
        return list(dict.fromkeys(path for path in found if path is not None))

    # Morphology

    @cached_property
    def morphology(self) -> Morphology:
        """The section ``morphology`` of the configuration, or its defaults."""
        return self.config.morphology or Morphology()

    @cached_property
    def classifiers(self) -> list[tuple[str, int]]:
        """The classifiers of galaxies by morphology, as (variant, seed)."""
        section = self.morphology
        return [(variant, seed) for variant in section.variants for seed in section.seeds]

    @cached_property
    def labelled_images(self) -> str:
        """The file of the images with classes: the user's, or the simulated one."""
        return self.morphology.images.file or f"{self.folder}/morphology/images.h5"

    def of_classifiers(self, pattern: str) -> list[str]:
        """Return a path in the folder ``morphology`` for each classifier, from its variant and seed."""
        return [
            f"{self.folder}/morphology/{pattern.format(classifier=variant, seed=seed)}"
            for variant, seed in self.classifiers
        ]

    @cached_property
    def image_encoders(self) -> list[tuple[str, int]]:
        """The encoders that are trained on images without labels, as (encoder, seed)."""
        section = self.morphology.contrastive
        return (
            [] if section is None else [(name, seed) for name in section.encoders for seed in section.seeds]
        )

    def image_encoder(self, name: str) -> ImageEncoder:
        """Return an encoder of images with all its options."""
        section = self.morphology.contrastive
        assert section is not None
        return section.encoders[name]

    def of_encoders(self, pattern: str) -> list[str]:
        """Return a path in the folder ``morphology/encoders`` for each encoder, from its name and seed."""
        return [
            f"{self.folder}/morphology/encoders/{pattern.format(encoder=encoder, seed=seed)}"
            for encoder, seed in self.image_encoders
        ]

    @cached_property
    def images_with_classes(self) -> dict[str, Any]:
        """How the images are read and divided, as plain values."""
        section = self.morphology
        return {
            "file": section.images.model_dump(mode="json"),
            "fractions": list(section.fractions.model_dump().values()),
            "seed": self.config.seed,
        }

    @cached_property
    def morphology_outputs(self) -> list[str]:
        """The files of the classification by morphology for a paper."""
        return [
            *(f"{self.metrics}/{name}" for name in self.metrics_of_morphology),
            *self.files_of_figures("morphology"),
            *self.tables_of_morphology.values(),
        ]

    @cached_property
    def tables_of_morphology(self) -> dict[str, str]:
        """The LaTeX tables of the classification by morphology, by name; empty if the run has none."""
        if self.config.morphology is None:
            return {}
        tables = {"summary": "morphology", **({"labels": "morphology_labels"} if self.image_encoders else {})}
        return {name: f"{self.folder}/tables/{stem}.tex" for name, stem in tables.items()}

    @cached_property
    def morphology_results(self) -> list[str]:
        """The files from which those for a paper are made: images, networks and their answers."""
        simulated = [] if self.morphology.images.file else [self.labelled_images]
        return [
            *simulated,
            *self.of_classifiers("models/{classifier}/seed{seed}/model.pt"),
            *self.of_classifiers("models/{classifier}/seed{seed}/history.csv"),
            *self.of_classifiers("predictions/{classifier}.seed{seed}.parquet"),
            *self.of_classifiers("predictions/{classifier}.seed{seed}.h5"),
            *self.of_encoders("models/{encoder}/seed{seed}/model.pt"),
            *self.of_encoders("models/{encoder}/seed{seed}/history.csv"),
            *self.of_encoders("labels/{encoder}/seed{seed}/labels.csv"),
            *self.of_encoders("labels/{encoder}/seed{seed}/embedding.parquet"),
            *self.of_encoders("labels/{encoder}/seed{seed}/spectrum.csv"),
        ]

    @cached_property
    def seeds_of_morphology(self) -> dict[str, Any]:
        """The seeds of the run, its classifiers and its encoders."""
        contrastive = self.morphology.contrastive
        return {
            "run": self.config.seed,
            "classifiers": list(self.morphology.seeds),
            "encoders": list(contrastive.seeds) if contrastive else [],
        }

    @cached_property
    def metrics_of_morphology(self) -> tuple[str, ...]:
        """The files in ``metrics/`` that the classification by morphology makes."""
        if self.config.morphology is None:
            return ()
        return (*MORPHOLOGY, *(CONTRASTIVE if self.image_encoders else ()))

    # Frameworks

    @cached_property
    def frameworks(self) -> list[tuple[NetworkName, int]]:
        """The small networks in several frameworks, as (name, seed), without those that are left out."""
        section = self.config.frameworks
        trainings = section.trainings if section is not None else []
        return [(name, seed) for name, seed in trainings if name not in self.left_out]

    @cached_property
    def shearnet_checkpoints(self) -> dict[str, str]:
        """The folders of checkpoints of ShearNet, by the name of each, without those that are left out."""
        section = self.config.frameworks
        found = section.checkpoints.items() if section is not None else ()
        return {name: one.folder for name, one in found if name not in self.left_out}

    @cached_property
    def framework_options(self) -> dict[str, Any]:
        """The options of the training of each of `frameworks`, as plain values."""
        section = self.config.frameworks
        assert section is not None
        return section.model_dump(mode="json", exclude={"networks", "seeds", "checkpoints"}) | {
            "noise": [min(self.config.noise_levels), max(self.config.noise_levels)]
        }

    def of_frameworks(self, suffix: str) -> list[tuple[str, str, int, str]]:
        """Return the file of each of `frameworks`, ``csv`` or ``h5``, as (population, name, seed, path)."""
        return [
            (population, name, seed, f"{self.folder}/frameworks/{population}/{name}.seed{seed}.{suffix}")
            for population in self.populations
            for name, seed in self.frameworks
        ]

    @cached_property
    def framework_outputs(self) -> list[str]:
        """The tables and figures of the comparison of frameworks."""
        return [*(f"{self.metrics}/{name}" for name in FRAMEWORKS), *self.files_of_figures("frameworks")]

    def of_all_seeds(self, variant: str) -> list[tuple[str, int]]:
        """Return the networks of a variant of the run, each as variant and seed."""
        return [(variant, seed) for seed in self.config.seeds]

    def network_inside(self, estimator: str) -> tuple[str, int] | None:
        """Return the network that an estimator uses, as (variant, seed), or None."""
        variant = self.config.estimators[estimator].get("network")
        return (variant, self.config.seeds[0]) if variant else None

    @cached_property
    def calibrated(self) -> list[str]:
        """The names of the estimators that train a committee to correct a network."""
        return [name for name in self.estimators if isinstance(self.config.estimator(name), Calibrated)]

    def calibration_options(self, estimator: str) -> dict[str, Any]:
        """Return the options of the training of a committee, as arguments of the function."""
        options = self.config.estimator(estimator)
        assert isinstance(options, Calibrated)
        return options.training(self.variants[options.network].training.noise)

    def members(self, estimator: str) -> list[tuple[str, int]]:
        """Return the networks whose mean an estimator is, as (variant, seed); empty if it measures stamps."""
        variants = self.config.estimators[estimator].get("networks", ())
        return [network for variant in variants for network in self.of_all_seeds(variant)]

    @cached_property
    def combined(self) -> list[str]:
        """The names of the ensembles, whose estimates are computed from those of networks."""
        return [name for name in self.estimators if self.members(name)]

    @cached_property
    def measuring(self) -> list[str]:
        """The names of the estimators that measure stamps."""
        return [name for name in self.estimators if not self.members(name)]

    # Counts

    def galaxies(self, split: str) -> int:
        """Return the number of galaxies of a split."""
        return getattr(self.config.galaxies, split)

    def stamps_in(self, split: str) -> int:
        """Return the number of stamps of a split."""
        return stamp_count(split, self.galaxies(split), self.config.shear_test.rotations)

    def chunks(self, split: str) -> list[tuple[int, int]]:
        """Return the chunks of a split, as (first stamp, one after the last)."""
        n, size = self.stamps_in(split), self.config.chunk_stamps
        return [(start, min(start + size, n)) for start in range(0, n, size)]

    def stamps_measured(self, split: str, estimator: str) -> int | None:
        """Return the number of stamps of a split that an estimator measures, or None for all."""
        limit = self.config.estimators[estimator]["shear_galaxies"]
        if split not in PAIRED or limit is None:
            return None
        return stamp_count(split, limit, self.config.shear_test.rotations)

    def stamps_misjudged(self, estimator: str | None = None) -> int:
        """Return the number of stamps that an estimator, or a network, measures with a wrong PSF or noise."""
        galaxies = self.config.model_errors.galaxies
        limit = self.config.estimators[estimator]["shear_galaxies"] if estimator else None
        return stamp_count("shear", min(galaxies, limit or galaxies), self.config.shear_test.rotations)

    def stamps_mb(self, *splits: str) -> int:
        """Return the memory [MB] of the stamps of some splits, with one PSF per stamp."""
        pixels = self.config.stamps.size_pixels**2
        return sum(2 * 4 * pixels * self.stamps_in(split) for split in splits) // 10**6

    # Options

    def population(self, name: str) -> dict[str, Any]:
        """Return the options of a population as plain values."""
        return self.config.populations[name].model_dump(mode="json")

    def measuring_options(self, estimator: str) -> dict[str, Any]:
        """Return the options of an estimator that its estimates depend on."""
        options = self.config.estimators[estimator]
        return {name: value for name, value in options.items() if name not in ("label", "shear_galaxies")}

    @cached_property
    def architectures(self) -> dict[str, list[Any]]:
        """The kind and the options of each network of the run itself."""
        return {name: [one.architecture, one.options] for name, one in self.config.variants.items()}

    @cached_property
    def channels(self) -> dict[str, int]:
        """Number of input channels of a network: the stamp and, if each galaxy has its own PSF, the PSF."""
        return {name: 1 if one.psf.constant else 2 for name, one in self.config.populations.items()}

    # Files

    def stamps_of(self, split: str, population: str = "{population}") -> str:
        """Return the index file of the stamps of a split, which lists all chunks."""
        return f"{self.folder}/stamps/{population}/{split}/index.json"

    def model_of(self, population: str, variant: str, seed: int) -> str:
        """Return the model file of a network."""
        return f"{self.folder}/models/{population}/{variant}/seed{seed}/model.pt"

    def network_file(self, population: str, estimator: str) -> str | list[str]:
        """Return the model file that an estimator needs for a population, or an empty list."""
        network = self.network_inside(estimator)
        if estimator in self.calibrated:
            return self.calibration_of(population, estimator)
        return self.model_of(population, *network) if network else []

    def calibration_of(self, population: str, estimator: str) -> str:
        """Return the model file of a network with the committee that corrects it."""
        place = f"{population}/{estimator}/seed{self.config.seeds[0]}"
        return f"{self.folder}/calibrations/models/{place}/model.pt"

    def history_of(self, population: str, variant: str, seed: int) -> str:
        """Return the file of a network's training history."""
        return f"{self.folder}/models/{population}/{variant}/seed{seed}/history.csv"

    def estimates_by(self, population: str, split: str, networks: Iterable[tuple[str, int]]) -> list[str]:
        """Return the files of estimates by networks at all noise levels: network by network."""
        return [
            f"{self.folder}/estimates/{population}/{split}/{noise}/{variant}.seed{seed}.parquet"
            for variant, seed in networks
            for noise in self.noise[split]
        ]

    def inside(self, table: str, suffix: str = "csv") -> list[str]:
        """Return the files of one of the tables `INSIDE`, or the maps, of all networks that are examined."""
        return [f"{self.folder}/inside/{p}/{v}/seed{s}/{table}.{suffix}" for p, v, s in self.examined]

    def of_populations(self, pattern: str, populations: Iterable[str] | None = None) -> list[str]:
        """Return a path in the run's folder for each population, by default for all."""
        names = self.populations if populations is None else populations
        return [f"{self.folder}/{pattern.format(population=name)}" for name in names]

    def estimates_of(
        self,
        population: str,
        split: str,
        noise: str,
        estimators: Sequence[str] | None = None,
        networks: Mapping[str, Sequence[int]] | None = None,
    ) -> list[str]:
        """Return the files of estimates at one noise level: estimators first, then each network and seed.

        Parameters
        ----------
        population, split, noise : str
        estimators : sequence of str, optional
            By default all that measure the split.
        networks : mapping of str to seeds, optional
            By default all of the run itself, and on the test split those of `frameworks`.
        """
        names = list(self.estimators_on(split) if estimators is None else estimators)
        for variant, seeds in (self.networks if networks is None else networks).items():
            names += [f"{variant}.seed{seed}" for seed in seeds]
        if split == "test" and estimators is None and networks is None:
            names += [f"{name}.seed{seed}" for name, seed in self.frameworks]
            names += self.shearnet_checkpoints
        return [f"{self.folder}/estimates/{population}/{split}/{noise}/{name}.parquet" for name in names]

    def all_estimates(
        self, split: str, noises: Sequence[str] | None = None, populations: Sequence[str] | None = None
    ) -> list[str]:
        """Return all files of estimates of a split from which the metrics of the run are made."""
        return [
            path
            for population in (self.populations if populations is None else populations)
            for noise in (self.noise[split] if noises is None else noises)
            for path in self.estimates_of(population, split, noise)
        ]

    def judged_estimates(
        self, trained: str, population: str, networks: Iterable[tuple[str, int]], split: str
    ) -> list[str]:
        """Return the files of estimates of a split of another population than networks were trained on."""
        return [
            f"{self.folder}/judged/{trained}/{population}/{split}/{noise}/{variant}.seed{seed}.parquet"
            for variant, seed in networks
            for noise in self.noise["shear"]
        ]

    def all_judged_estimates(self, split: str) -> list[str]:
        """Return them for all networks of the run."""
        return [
            path
            for trained, population in self.judged
            for variant in self.networks
            for path in self.judged_estimates(trained, population, self.of_all_seeds(variant), split)
        ]

    def judged_by(self, trained: str, population: str, estimator: str) -> list[str]:
        """Return the files of estimates of another population's test split by an estimator with networks."""
        folder = f"{self.folder}/judged/{trained}/{population}/test"
        return [f"{folder}/{noise}/{estimator}.parquet" for noise in self.noise["shear"]]

    @cached_property
    def trained_estimators(self) -> list[str]:
        """The names of the estimators that use networks and measure single galaxies."""
        names = self.estimators_on("test")
        return [name for name in names if self.network_inside(name) or self.members(name)]

    def all_judged_errors(self) -> list[str]:
        """Return the files of another population's test split by networks and by estimators that use them."""
        return [
            *self.all_judged_estimates("test"),
            *(
                path
                for pair in self.judged
                for name in self.trained_estimators
                for path in self.judged_by(*pair, name)
            ),
        ]

    def combined_estimates(self, population: str, ensemble: str) -> list[str]:
        """Return the files of estimates of an ensemble: all splits and noise levels."""
        return [
            path
            for split, noises in self.noise.items()
            for noise in noises
            for path in self.estimates_of(population, split, noise, [ensemble], {})
        ]

    def beside(self, paths: Iterable[str], ensemble: str) -> list[str]:
        """Return the files of an ensemble's members, for each of its own: they are in the same folder."""
        members = self.members(ensemble)
        return [
            f"{path.rpartition('/')[0]}/{variant}.seed{seed}.parquet"
            for path in paths
            for variant, seed in members
        ]

    def misjudged_estimates(self, population: str, noise: str, name: str) -> list[str]:
        """Return the files of estimates with a wrong PSF or noise level, in the order of the errors."""
        folder = f"{self.folder}/model_errors/{population}/{noise}"
        return [f"{folder}/{told}/{name}.parquet" for told in self.config.model_errors.amounts]

    def all_misjudged_estimates(self) -> list[str]:
        """Return them for all estimators, in the order of `all_estimates` at the same noise levels."""
        return [
            path
            for plain in self.all_estimates("shear", self.misjudged_noise)
            for population, _, noise, file in [plain.split("/")[-4:]]
            for path in self.misjudged_estimates(population, noise, file.removesuffix(".parquet"))
        ]

    def ensemble_estimates(self) -> list[str]:
        """Return the files of the estimators that measure the shear of ensembles only."""
        return [
            path
            for population in self.populations
            for noise in self.noise["shear"]
            for path in self.estimates_of(population, "shear", noise, self.ensemble_estimators, {})
        ]

    def study_model_files(self, study: str) -> list[str]:
        """Return the model files of a study: network by network, seed by seed."""
        population = self.studies.known[study].population
        return [
            self.model_of(population, network, seed)
            for network, seeds in self.study_networks(study).items()
            for seed in seeds
        ]

    def study_estimates(self, study: str) -> list[str]:
        """Return the estimates of a study's networks at every noise level."""
        population, networks = self.studies.known[study].population, self.study_networks(study)
        return [
            path
            for noise in self.noise["test"]
            for path in self.estimates_of(population, "test", noise, [], networks)
        ]

    def study_histories(self, study: str) -> list[str]:
        """Return the training histories of a study's networks."""
        population = self.studies.known[study].population
        networks = self.study_networks(study).items()
        return [self.history_of(population, network, seed) for network, seeds in networks for seed in seeds]

    def study_outputs(self, study: str) -> list[str]:
        """Return the files of a study for a paper."""
        return [*self.study_results(study), f"{self.folder}/tables/study_{study}.tex"]

    def study_results(self, study: str, attention: bool = True) -> list[str]:
        """Return the tables, verdicts and figures of a study: all that it asks for, or all but attention."""
        return [
            *(f"{self.metrics}/{path.format(study=study)}" for path in self.study_files(study, attention)),
            *(f"{self.folder}/figures/{name}_{study}.pdf" for name in self.study_figures(study, attention)),
        ]

    def study_files(self, study: str, attention: bool = True) -> list[str]:
        """Return the keys of `STUDY_FILES` that a study makes."""
        known = self.studies.known[study]
        rules = {
            "evaluate_study",
            *(["evaluate_study_shear"] if known.shear else []),
            *(["measure_attention"] if attention and "attention" in known.inside else []),
        }
        inside = {f"studies/{{study}}_{kind}.csv" for kind in known.inside if kind in INSIDE_STUDY}
        return [path for path, rule in STUDY_FILES.items() if rule in rules or path in inside]

    def study_figures(self, study: str, attention: bool = True) -> list[str]:
        """Return the names of the figures of a study: those whose metrics the study makes."""
        made = set(self.study_files(study, attention))
        return [
            name
            for name, entry in self.entries.items()
            if entry.each == "study" and made.issuperset(entry.reads)
        ]

    def study_models(self, study: str) -> dict[str, list[str]]:
        """Return the model files of a study's networks, by the labels of its values."""
        known = self.studies.known[study]
        return {
            label: [self.model_of(known.population, network, seed) for seed in known.seeds]
            for label, network in self.studies.networks[study].items()
        }

    @cached_property
    def all_study_outputs(self) -> list[str]:
        """The files of the studies that the run includes."""
        return [path for study in self.config.studies for path in self.study_outputs(study)]

    def search(self, name: str) -> dict[str, Any]:
        """Return a search and the variant that it starts from, for its jobs, as plain values."""
        search, base = self.searches.known[name], self.searches.bases[name]
        return {"search": search.model_dump(mode="json"), "base": base.model_dump(mode="json")}

    def journal(self, name: str, trial: str) -> str:
        """Return the record of the trials of a search, from the digest of its trials."""
        return f"{self.folder}/searches/{name}/{trial}.journal"

    def search_workers(self, name: str) -> list[str]:
        """Return the file that each job of a search makes when the budget is spent."""
        workers = range(self.config.search_workers)
        return [f"{self.folder}/searches/{name}/worker{worker}.txt" for worker in workers]

    def search_results(self, name: str) -> list[str]:
        """Return the files of a search: its recipe, the tables of its trials, its figures."""
        figures = [one for one, entry in self.entries.items() if entry.each == "search"]
        return [
            f"{self.folder}/searches/{name}.yaml",
            *(f"{self.metrics}/{path.format(search=name)}" for path in SEARCH_FILES),
            *(f"{self.folder}/figures/{one}_{name}.{suffix}" for one in figures for suffix in ("pdf", "png")),
        ]

    @cached_property
    def tables(self) -> dict[str, str]:
        """The files of the LaTeX tables by name."""
        return {name: f"{self.folder}/tables/{name}.tex" for name in TABLES}

    @cached_property
    def tabulated(self) -> dict[str, str]:
        """The files of metrics from which tables and numbers are made, by name."""
        return {name: f"{self.metrics}/{name}.csv" for name in TABULATED}

    # Figures

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """The entries of all figures by name, also that of a study."""
        return entries()

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """The figures of the run itself by name, without those that have no data."""
        empty = {
            *([] if self.networks else ["training.csv", "networks.csv", "network_layers.csv"]),
            *([] if self.with_posterior else ["bayes_floor.csv"]),
            *([] if self.examined else ["inside_maps.h5", *(f"inside_{name}.csv" for name in INSIDE)]),
            *([] if self.observations else OBSERVED),
            *([] if self.misjudged else ["model_errors.csv"]),
            *([] if self.judged else ["judged.csv"]),
        }
        found = {}
        for name, entry in self.entries.items():
            if entry.each in ("study", "studies", "search", *SECTIONS) or empty & {*entry.reads}:
                continue
            sources = [one for one in (*entry.reads, *entry.reads_if_made) if one not in empty]
            cases = {
                "population": self.populations,
                "network": [f"{population}_{variant}" for population, variant, _ in self.examined],
                "observation": self.observations,
            }
            populations = cases.get(entry.each, [])
            stem = f"{self.folder}/figures/{name}"
            found[name] = Figure(
                entry,
                [f"{self.metrics}/{one}" for one in sources],
                populations,
                [f"{stem}_{one}" for one in populations] or [stem],
            )
        return found

    @cached_property
    def figures_of_sections(self) -> dict[str, Figure]:
        """The figures of those of `SECTIONS` that the run has, by name."""
        made = {*self.metrics_of_morphology, *(FRAMEWORKS if self.config.frameworks is not None else ())}
        return {
            name: Figure(
                entry,
                [f"{self.metrics}/{one}" for one in entry.reads],
                [],
                [f"{self.folder}/figures/{name}"],
            )
            for name, entry in self.entries.items()
            if entry.each in SECTIONS and made.issuperset(entry.reads)
        }

    @cached_property
    def figures_of_morphology(self) -> dict[str, Figure]:
        """The figures of the classification by morphology, by name; empty if the run has none."""
        return {name: one for name, one in self.figures_of_sections.items() if one.entry.each == "morphology"}

    def files_of_figures(self, section: str) -> list[str]:
        """Return the files of the figures of one of `SECTIONS`."""
        figures = [one for one in self.figures_of_sections.values() if one.entry.each == section]
        return [path for figure in figures for suffix in ("pdf", "png") for path in figure.files(suffix)]

    @cached_property
    def figure_files(self) -> list[str]:
        """The files of all figures of the run itself."""
        return [
            f"{path}.{suffix}"
            for figure in self.figures.values()
            for path in figure.paths
            for suffix in ("pdf", "png")
        ]

    @cached_property
    def described(self) -> dict[str, Any]:
        """What the methods of the paper say of the run, as plain values (`shearbench.paper.methods`)."""
        config, n = self.config, self.galaxies("train")
        used = {
            "populations",
            "stamps",
            "galaxies",
            "shear_test",
            "noise_levels",
            "bootstrap",
            "seed",
            "seeds",
        }
        return {
            **config.model_dump(mode="json", include=used),
            "bayes_floor": {**config.bayes_floor.model_dump(), "populations": self.with_posterior},
            "labels": [label for name, label in self.labels.items() if name not in self.config.variants],
            "shear_galaxies": {
                self.labels[name]: limit
                for name in self.estimators
                if (limit := config.estimators[name]["shear_galaxies"]) is not None
            },
            "left_out": list(self.left_out),
            "networks": {
                name: {
                    "architecture": one.architecture,
                    "training": one.training.model_dump(mode="json"),
                    "shown": one.training.shown(n),
                    "searched": one.searched and one.searched.label,
                }
                for name, one in config.variants.items()
            },
        }

    @cached_property
    def captioned(self) -> list[tuple[str, str, tuple[str, ...]]]:
        """File, caption and metrics of each figure; the paper quotes numbers of galaxies from them."""
        return [
            (path, figure.entry.caption, figure.entry.reads)
            for figure in self.figures.values()
            for path in figure.files("pdf")
        ]


def unavailable(config: Config) -> dict[str, str]:
    """Return the estimators and networks of frameworks that cannot run on this machine, with the reasons."""
    reasons = {name: config.estimator(name).unavailable() for name in config.estimators}
    found = {name: reason for name, reason in reasons.items() if reason}
    return found | framework_options.unavailable(config.frameworks)
