"""The digest of each result of a run, and the origin of each of its files.

A digest is computed from everything that a result depends on: options, code and inputs (see
`shearbench.jobs.provenance`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from shearbench.files.origin import Origin
from shearbench.frameworks.options import NETWORKS, NetworkName
from shearbench.jobs.provenance import code_digest, digest
from shearbench.plan.run import (
    CONTRASTIVE,
    FRAMEWORKS,
    INSIDE,
    JUDGED_SPLITS,
    MORPHOLOGY,
    OBSERVED,
    STUDY_FILES,
    Run,
)
from shearbench.simulation.populations import PAIRED, SPLITS
from shearbench.training.search import probes

P = ParamSpec("P")

MADE_BY = {
    "accuracy.csv": "evaluate_accuracy",
    "shear_bias.csv": "evaluate_shear_bias",
    "shear_bias_bins.csv": "evaluate_shear_bias",
    "shear_trends.csv": "evaluate_shear_bias",
    "selection.csv": "evaluate_shear_bias",
    "shape_noise.csv": "evaluate_shear_bias",
    "pair_scatter.csv": "evaluate_shear_bias",
    "psf_leakage.csv": "evaluate_psf_leakage",
    "model_errors.csv": "evaluate_model_errors",
    "judged.csv": "evaluate_judged",
    "uncertainty.csv": "evaluate_uncertainty",
    "uncertainty_curves.csv": "evaluate_uncertainty",
    "bayes_floor.csv": "evaluate_bayes_floor",
    "residuals.parquet": "evaluate_residuals",
    "trends.csv": "evaluate_residuals",
    "throughput.csv": "evaluate_throughput",
    "training.csv": "evaluate_throughput",
    "gallery.h5": "draw_gallery",
    "networks.csv": "summarise_networks",
    "network_layers.csv": "summarise_networks",
    "networks.txt": "summarise_networks",
    **{f"inside_{name}.csv": "gather_inside" for name in INSIDE},
    "inside_maps.h5": "gather_inside",
    **dict.fromkeys(OBSERVED, "gather_observations"),
    **dict.fromkeys(MORPHOLOGY, "evaluate_morphology"),
    **dict.fromkeys(CONTRASTIVE, "evaluate_contrastive"),
    "frameworks.csv": "evaluate_frameworks",
    "frameworks_precision.csv": "measure_precision",
}
"""The rule that makes each file of ``metrics/``."""


def _once(method: Callable[Concatenate[Digests, P], str]) -> Callable[Concatenate[Digests, P], str]:
    """Decorate a method so that each of its results is computed only once."""

    @wraps(method)
    def remembered(self: Digests, *args: P.args, **kwargs: P.kwargs) -> str:
        key = (method.__name__, args, *sorted(kwargs.items()))
        if key not in self._known:
            self._known[key] = method(self, *args, **kwargs)
        return self._known[key]

    return remembered


class Digests:
    """Digests of the results of a run; one method per rule, with the name of the rule.

    Parameters
    ----------
    run : Run
    scripts : path
        Folder of the scripts of the rules.
    inputs : callable
        Function from the name of a population to its external files: ``path``, ``bytes`` and ``sha256`` of
        each.
    observed : callable
        The same for the name of an observation.
    labelled : callable
        Function that returns the user's file of images with classes, in the same way.
    checkpoint : callable
        The same as `inputs` for the name of a checkpoint of ShearNet.
    """

    def __init__(
        self,
        run: Run,
        scripts: Path,
        inputs: Callable[[str], list[dict[str, Any]]],
        observed: Callable[[str], list[dict[str, Any]]] = lambda name: [],
        labelled: Callable[[], list[dict[str, Any]]] = list,
        checkpoint: Callable[[str], list[dict[str, Any]]] = lambda name: [],
    ) -> None:
        self.labelled, self.checkpoint = labelled, checkpoint
        self.run, self.scripts, self.inputs, self.observed = run, scripts, inputs, observed
        self._known: dict[Any, str] = {}

    def code(self, script: str, modules: Iterable[str] = ()) -> str:
        """Return the digest of a script and of all the code that it uses."""
        return code_digest(str(self.scripts / f"{script}.py"), tuple(modules))

    # Catalogs, stamps, bounds

    @_once
    def sample_catalog(self, population: str, split: str) -> str:
        """Return the digest of a catalog."""
        config = self.run.config
        used = {"shear": {"shear", "rotations"}, "leakage": {"psf_shape", "rotations"}}.get(split)
        pairs = config.shear_test.model_dump(include=used) if used else None
        return digest(
            self.run.population(population),
            [[file["path"], file["sha256"]] for file in self.inputs(population)],
            self.run.galaxies(split),
            pairs,
            config.seed,
            config.stamps.pixel_scale_arcsec,
            self.code("sample_catalog"),
        )

    @_once
    def simulate_stamps(self, population: str, split: str) -> str:
        """Return the digest of the stamps of a split, which does not depend on the chunks."""
        stamps = self.run.config.stamps.model_dump()
        return digest(self.sample_catalog(population, split), stamps, self.code("simulate_stamps"))

    def index_stamps(self, population: str, split: str) -> str:
        """Return the digest of the index of a split, which is that of its stamps."""
        return self.simulate_stamps(population, split)

    @_once
    def cramer_rao(self, population: str, split: str) -> str:
        """Return the digest of the bounds of a split."""
        config = self.run.config
        # PSFs without a formula are read from the stamps.
        has_formula = config.populations[population].psf.has_formula
        source = (self.sample_catalog if has_formula else self.simulate_stamps)(population, split)
        return digest(source, config.stamps.model_dump(), self.code("cramer_rao"))

    @_once
    def sample_posterior(self, population: str) -> str:
        """Return the digest of the samples of a population's posteriors."""
        config = self.run.config
        return digest(
            self.simulate_stamps(population, "test"),
            config.bayes_floor.model_dump(),
            sorted(config.noise_levels),
            config.seed,
            self.code("sample_posterior"),
        )

    # Estimates and networks

    @_once
    def measure(self, population: str, split: str, noise: str, estimator: str) -> str:
        """Return the digest of the estimates of an estimator."""
        config = self.run.config
        if members := self.run.members(estimator):
            predicted = [self.predict(population, split, *member) for member in members]
            return self._combined(predicted, self.run.sigma[noise])
        return digest(
            self.simulate_stamps(population, split),
            self.run.measuring_options(estimator),
            self.run.stamps_measured(split, estimator),
            self._network_of(population, estimator),
            self.run.sigma[noise],
            config.seed,
            self.code("measure", config.estimator(estimator).modules()),
        )

    def _network_of(self, population: str, estimator: str) -> str | tuple[str, int] | None:
        """Return the digest of the network that an estimator uses, with its seed or the calibration."""
        network = self.run.network_inside(estimator)
        if estimator in self.run.calibrated:
            return self.calibrate(population, estimator)
        return (self.train(population, network[0]), network[1]) if network else None

    @_once
    def calibrate(self, population: str, estimator: str) -> str:
        """Return the digest of a network with the committee that corrects it."""
        network = self.run.network_inside(estimator)
        assert network is not None
        return digest(
            self.train(population, network[0]),
            network[1],
            self.run.population(population),
            self.run.calibration_options(estimator),
            self.run.config.seed,
            self.code("calibrate", self.run.variants[network[0]].make().modules()),
        )

    def _combined(self, members: Iterable[str], *which: Any) -> str:
        """Return the digest of estimates of an ensemble, from those of its members and of which they are."""
        return digest(list(members), which, self.code("combine"))

    def combine(self, population: str, estimator: str) -> str:
        """Return the digest of the estimates of an ensemble, of all splits and noise levels."""
        wanted = [(split, noise) for split, noises in self.run.noise.items() for noise in noises]
        return digest([self.measure(population, *one, estimator) for one in wanted])

    def measure_shear(self, population: str, noise: str, estimator: str) -> str:
        """Return the digest of the estimates of an estimator under opposite shears and shapes of the PSF."""
        return digest([self.measure(population, split, noise, estimator) for split in PAIRED])

    @_once
    def train(self, population: str, variant: str) -> str:
        """Return the digest of a trained network without its seed; a checkpoint with another is not used."""
        chosen = self.run.variants[variant]
        encoder = chosen.training.start_from
        return digest(
            self.simulate_stamps(population, "train"),
            self.simulate_stamps(population, "validation"),
            chosen.model_dump(mode="json"),
            self.run.config.seed,
            None if encoder is None else self.pretrain(population, encoder),
            self.code("train", chosen.make().modules()),
        )

    @_once
    def pretrain(self, population: str, encoder: str) -> str:
        """Return the digest of an encoder of stamps without its seed."""
        chosen = self.run.config.encoders[encoder]
        return digest(
            self.simulate_stamps(population, "train"),
            self.simulate_stamps(population, "validation"),
            chosen.model_dump(mode="json"),
            self.code("pretrain", chosen.make().modules()),
        )

    @_once
    def predict(self, population: str, split: str, variant: str, seed: int) -> str:
        """Return the digest of the estimates of one network."""
        return digest(
            self.train(population, variant),
            seed,
            self.simulate_stamps(population, split),
            self.run.config.seed,
            self.code("predict", self.run.variants[variant].make().modules()),
        )

    def predict_all(self, population: str, split: str, networks: Iterable[tuple[str, int]]) -> str:
        """Return the digest of the estimates of several networks, each a variant and a seed."""
        return digest([self.predict(population, split, variant, seed) for variant, seed in networks])

    def predict_shear(self, population: str, networks: Sequence[tuple[str, int]]) -> str:
        """Return the digest of the estimates of networks under opposite shears and shapes of the PSF."""
        return digest([self.predict_all(population, split, networks) for split in PAIRED])

    def train_all(self, population: str, networks: Iterable[tuple[str, int]]) -> str:
        """Return the digest of several trained networks, each a variant and a seed."""
        return digest([[self.train(population, variant), seed] for variant, seed in networks])

    @_once
    def estimates(self, split: str) -> str:
        """Return the digest of all estimates of a split, with their labels and the bounds."""
        run = self.run
        return digest(
            [
                self.measure(population, split, noise, estimator)
                for population in run.populations
                for noise in run.noise[split]
                for estimator in run.estimators
            ],
            self._labels(),
            [
                *(self.predict(population, split, variant, seed) for population, variant, seed in run.models),
                *(self._small_networks() if split == "test" else []),
            ],
            [self.cramer_rao(population, split) for population in run.populations],
        )

    @_once
    def judge(self, trained: str, population: str, split: str, variant: str, seed: int) -> str:
        """Return the digest of the estimates of a network on another population than it was trained on."""
        return digest(
            self.train(trained, variant),
            seed,
            self.simulate_stamps(population, split),
            self.run.config.seed,
            self.code("predict", self.run.variants[variant].make().modules()),
        )

    def judge_all(self, trained: str, population: str, networks: Sequence[tuple[str, int]]) -> str:
        """Return the digest of those estimates of several networks."""
        return digest(
            [
                self.judge(trained, population, split, *network)
                for split in JUDGED_SPLITS
                for network in networks
            ]
        )

    @_once
    def judge_estimator(self, trained: str, population: str, estimator: str) -> str:
        """Return the digest of the estimates of an estimator with networks that were trained elsewhere."""
        run = self.run
        if members := run.members(estimator):
            return self._combined(self.judge(trained, population, "test", *member) for member in members)
        return digest(
            self.simulate_stamps(population, "test"),
            run.measuring_options(estimator),
            self._network_of(trained, estimator),
            run.config.seed,
            self.code("measure", run.config.estimator(estimator).modules()),
        )

    @_once
    def measure_model_errors(self, population: str, noise: str, estimator: str) -> str:
        """Return the digest of the estimates of an estimator that is told wrong PSFs and noise levels."""
        if members := self.run.members(estimator):
            return self._combined(self.predict_model_errors(population, *member) for member in members)
        return digest(
            self.measure(population, "shear", noise, estimator),
            self.run.stamps_misjudged(estimator),
            self.run.misjudged,
            self.code("measure_model_errors", self.run.config.estimator(estimator).modules()),
        )

    @_once
    def predict_model_errors(self, population: str, variant: str, seed: int) -> str:
        """Return the digest of the estimates of a network that is told wrong PSFs and noise levels."""
        return digest(
            self.predict(population, "shear", variant, seed),
            self.run.stamps_misjudged(),
            self.run.misjudged,
            self.code("predict_model_errors", self.run.variants[variant].make().modules()),
        )

    def predict_all_model_errors(self, population: str, networks: Iterable[tuple[str, int]]) -> str:
        """Return the digest of those estimates of several networks."""
        return digest([self.predict_model_errors(population, *network) for network in networks])

    # Networks from inside

    @_once
    def inside_layers(self, population: str, variant: str, seed: int) -> str:
        """Return the digest of the table of a network's layers."""
        config = self.run.config
        return digest(
            self.train(population, variant),
            seed,
            [self.simulate_stamps(population, split) for split in ("train", "validation", "test")],
            config.diagnostics.model_dump(include={"galaxies", "probe_galaxies", "noise_levels"}),
            config.seed,
            self.code("inside_layers", self.run.variants[variant].make().modules()),
        )

    @_once
    def inside_flow(self, population: str, variant: str, seed: int) -> str:
        """Return the digest of the gradients, curvatures and shifts of a network."""
        config = self.run.config
        return digest(
            self.train(population, variant),
            seed,
            self.simulate_stamps(population, "test"),
            config.diagnostics.model_dump(include={"noise_levels"}),
            config.seed,
            self.code("inside_flow", self.run.variants[variant].make().modules()),
        )

    @_once
    def inside_maps(self, population: str, variant: str, seed: int) -> str:
        """Return the digest of the maps of a network."""
        config = self.run.config
        return digest(
            self.train(population, variant),
            seed,
            self.simulate_stamps(population, "test"),
            self.run.population(population),
            config.diagnostics.model_dump(include={"noise_levels"}),
            config.seed,
            self.code("inside_maps", self.run.variants[variant].make().modules()),
        )

    @_once
    def gather_inside(self) -> str:
        """Return the digest of the tables of all networks that are examined."""
        rules = sorted(set(INSIDE.values()))
        tables = [getattr(self, rule)(*network) for network in self.run.examined for rule in rules]
        return digest(tables, self.code("gather_inside"))

    # The stamps of users, and files of networks that travel

    @_once
    def own_stamps(self, observation: str) -> str:
        """Return the digest of a user's stamps and how they are read."""
        return digest(
            self.run.config.observations[observation].model_dump(),
            [[file["path"], file["sha256"]] for file in self.observed(observation)],
        )

    @_once
    def simulated_properties(self, population: str) -> str:
        """Return the digest of the galaxies that those of users are compared with."""
        return digest(self.simulate_stamps(population, "test"), self.run.noise_range, self.run.config.seed)

    @_once
    def observe(self, observation: str) -> str:
        """Return the digest of the properties of a user's galaxies and of simulated ones."""
        return digest(
            self.own_stamps(observation),
            self.simulated_properties(self.run.networks_from(observation)),
            self.code("observe"),
        )

    @_once
    def measure_observation(self, observation: str, measurer: str) -> str:
        """Return the digest of the estimates of a user's galaxies, by the beginning of their columns."""
        population = self.run.networks_from(observation)
        _, name, seed = self.run.measurers[measurer]
        own = self.own_stamps(observation)
        if seed is not None:
            modules = self.run.variants[name].make().modules()
            return digest(own, self.train(population, name), seed, self.code("measure_observation", modules))
        if members := self.run.members(name):
            column = {(of, number): column for column, (_, of, number) in self.run.measurers.items()}
            return self._combined(self.measure_observation(observation, column[member]) for member in members)
        return digest(
            own,
            self.run.measuring_options(name),
            self._network_of(population, name),
            self.code("measure_observation", self.run.config.estimator(name).modules()),
        )

    @_once
    def catalogue_observation(self, observation: str) -> str:
        """Return the digest of the catalogue of a user's galaxies."""
        return digest(
            self.observe(observation),
            [self.measure_observation(observation, measurer) for measurer in self.run.measurers],
            self._labels(),
            self.evaluate_shear_bias(),
            self.code("catalogue_observation"),
        )

    @_once
    def gather_observations(self) -> str:
        """Return the digest of the tables of the stamps of all users."""
        found = [self.catalogue_observation(observation) for observation in self.run.observations]
        return digest(found, self.code("gather_observations"))

    @_once
    def pack_network(self, population: str, variant: str, seed: int) -> str:
        """Return the digest of a file of a network with its population, noise range and calibration."""
        return digest(
            self.train(population, variant),
            seed,
            self.run.population(population),
            self.simulate_stamps(population, "test"),
            self.run.config.seed,
            self.evaluate_shear_bias(),
            self.code("pack_network"),
        )

    # Metrics: these rules have one job each

    def evaluate_accuracy(self) -> str:
        """Return the digest of the accuracy of all estimators."""
        return digest(self.estimates("test"), self.run.config.bootstrap, self.code("evaluate_accuracy"))

    def evaluate_shear_bias(self) -> str:
        """Return the digest of the biases m and c of all estimators."""
        return digest(self.estimates("shear"), self.run.config.bootstrap, self.code("evaluate_shear_bias"))

    def evaluate_psf_leakage(self) -> str:
        """Return the digest of the leakage of the PSF's shape into the shear of all estimators."""
        return digest(
            self.evaluate_shear_bias(),
            self.estimates("leakage"),
            self.run.config.bootstrap,
            self.code("evaluate_psf_leakage"),
        )

    @_once
    def evaluate_judged(self) -> str:
        """Return the digest of how networks do on other populations than they were trained on."""
        run = self.run
        return digest(
            self.estimates("test"),
            self.evaluate_shear_bias(),
            [
                self.judge_all(
                    *pair, [(variant, seed) for variant in run.networks for seed in run.config.seeds]
                )
                for pair in run.judged
            ],
            run.config.bootstrap,
            self.code("evaluate_judged"),
        )

    @_once
    def evaluate_model_errors(self) -> str:
        """Return the digest of the changes of m and c by wrong PSFs and noise levels."""
        run = self.run
        return digest(
            self.estimates("shear"),
            [
                self.measure_model_errors(population, noise, estimator)
                for population in run.populations
                for noise in run.misjudged_noise
                for estimator in run.estimators
            ],
            [self.predict_model_errors(*network) for network in run.models],
            run.config.bootstrap,
            self.code("evaluate_model_errors"),
        )

    @_once
    def evaluate_uncertainty(self) -> str:
        """Return the digest of how right the errors of all estimators are."""
        run = self.run
        networks = [network for variant in run.networks for network in run.of_all_seeds(variant)]
        return digest(
            self.estimates("test"),
            [self.judge(*pair, "test", *network) for pair in run.judged for network in networks],
            [self.judge_estimator(*pair, name) for pair in run.judged for name in run.trained_estimators],
            run.config.bootstrap,
            self.code("evaluate_uncertainty"),
        )

    def evaluate_residuals(self) -> str:
        """Return the digest of the residuals at the lowest noise level."""
        return digest(self.run.lowest, self.estimates("test"), self.code("evaluate_residuals"))

    def evaluate_throughput(self) -> str:
        """Return the digest of the times and the memory of all jobs."""
        return digest(self.estimates("test"), self.estimates("shear"), self.code("evaluate_throughput"))

    def evaluate_bayes_floor(self) -> str:
        """Return the digest of the Bayes floor."""
        posteriors = [self.sample_posterior(population) for population in self.run.with_posterior]
        bootstrap = self.run.config.bootstrap
        return digest(posteriors, self.estimates("test"), bootstrap, self.code("evaluate_bayes_floor"))

    def draw_gallery(self) -> str:
        """Return the digest of the gallery of stamps."""
        config = self.run.config
        return digest(
            [self.simulate_stamps(population, "test") for population in self.run.populations],
            sorted(config.noise_levels),
            config.seed,
            self.code("draw_gallery"),
        )

    def summarise_networks(self) -> str:
        """Return the digest of the sizes and costs of the networks."""
        config = self.run.config
        modules = {name for variant in config.variants.values() for name in variant.make().modules()}
        return digest(
            self.run.architectures,
            self.run.channels,
            config.stamps.model_dump(),
            self.code("summarise_networks", sorted(modules)),
        )

    @_once
    def metrics(self, path: str) -> str:
        """Return the digest of a file in ``metrics/``, which is that of its rule."""
        return getattr(self, MADE_BY[Path(path).name])()

    @_once
    def tabulated(self) -> str:
        """Return the digest of the metrics from which tables and numbers are made."""
        return digest([self.metrics(path) for path in self.run.tabulated.values()])

    # Studies

    def _predictions(self, study: str, split: str) -> list[str]:
        """Return the digests of the estimates of a study's networks."""
        population = self.run.studies.known[study].population
        return [
            self.predict(population, split, variant, seed)
            for variant, seeds in self.run.study_networks(study).items()
            for seed in seeds
        ]

    @_once
    def evaluate_study(self, study: str) -> str:
        """Return the digest of a study's tables and verdict."""
        known = self.run.studies.known[study]
        return digest(
            known.model_dump(mode="json"),
            self.run.studies.networks[study],
            self._predictions(study, "test"),
            self.cramer_rao(known.population, "test"),
            self.run.config.bootstrap,
            self.code("evaluate_study"),
        )

    def evaluate_study_shear(self, study: str) -> str:
        """Return the digest of the biases m and c of a study's networks."""
        known, config = self.run.studies.known[study], self.run.config
        return digest(
            known.model_dump(mode="json"),
            self.run.studies.networks[study],
            self._predictions(study, "shear"),
            config.bootstrap,
            self.code("evaluate_study_shear"),
        )

    @_once
    def summarise_studies(self) -> str:
        """Return the digest of the summary of all studies."""
        studies = [self.evaluate_study(study) for study in self.run.studies.known]
        return digest(studies, self.code("summarise_studies"))

    def figure_studies(self) -> str:
        """Return the digest of the figure of all studies."""
        return digest(self.summarise_studies(), self.figure_code("studies"))

    @_once
    def measure_attention(self, study: str) -> str:
        """Return the digest of the attention of a study's networks, and of their cost."""
        return digest(self._inside_study("measure_attention", study), self.run.config.bootstrap)

    @_once
    def measure_inside(self, study: str) -> str:
        """Return the digest of the measurements inside a study's networks."""
        return self._inside_study("measure_inside", study)

    def _inside_study(self, script: str, study: str) -> str:
        known = self.run.studies.known[study]
        networks = self.run.study_networks(study)
        modules = {name for network in networks for name in self.run.variants[network].make().modules()}
        return digest(
            known.model_dump(mode="json"),
            self.run.studies.networks[study],
            [(self.train(known.population, variant), seeds) for variant, seeds in networks.items()],
            self.simulate_stamps(known.population, "test"),
            self.run.config.seed,
            self.code(script, sorted(modules)),
        )

    def table_study(self, study: str) -> str:
        """Return the digest of a study's LaTeX table."""
        return digest(self.evaluate_study(study), self.code("table_study"))

    def figure_of_study(self, name: str, study: str) -> str:
        """Return the digest of a figure of a study."""
        rules = sorted({STUDY_FILES[path] for path in self.run.entries[name].reads})
        return digest([getattr(self, rule)(study) for rule in rules], self.figure_code(name))

    # Searches

    @_once
    def trial(self, search: str) -> str:
        """Return the digest of the trials of a search without its budget; other trials are not reused."""
        known, base = self.run.searches.known[search], self.run.searches.bases[search]
        variants = [base, *(one for key in known.space for one in probes(base, key, known.space[key]))]
        modules = {name for variant in variants for name in variant.make().modules()}
        return digest(
            self.simulate_stamps(known.population, "train"),
            self.simulate_stamps(known.population, "validation"),
            self.run.population(known.population),
            base.model_dump(mode="json"),
            known.identity,
            self.code("run_trials", sorted(modules)),
        )

    def run_trials(self, search: str) -> str:
        """Return the digest of the trials of a search with its budget."""
        known = self.run.searches.known[search]
        budget = known.model_dump(mode="json", include={"trials", "core_minutes", "prune_after"})
        return digest(self.trial(search), budget)

    def search(self, search: str) -> str:
        """Return the digest of the recipe of a search and its evidence."""
        return digest(self.run_trials(search), self.code("search"))

    def figure_of_search(self, name: str, search: str) -> str:
        """Return the digest of a figure of a search."""
        return digest(self.search(search), self.figure_code(name))

    # Morphology

    @_once
    def simulate_morphology(self) -> str:
        """Return the digest of the images with classes: simulated, or of the user's file."""
        section = self.run.morphology
        if section.images.file is not None:
            return digest([[file["path"], file["sha256"]] for file in self.labelled()])
        return digest(section.simulation.model_dump(), self.run.config.seed, self.code("simulate_morphology"))

    @_once
    def train_classifier(self, classifier: str) -> str:
        """Return the digest of a classifier without its seed."""
        chosen = self.run.morphology.variants[classifier]
        return digest(
            self.simulate_morphology(),
            self.run.images_with_classes,
            chosen.model_dump(mode="json"),
            self.code("train_classifier", chosen.make().modules()),
        )

    @_once
    def classify(self, classifier: str, seed: int) -> str:
        """Return the digest of the predictions of a classifier."""
        modules = self.run.morphology.variants[classifier].make().modules()
        return digest(
            self.train_classifier(classifier),
            seed,
            self.run.morphology.angles_deg,
            self.code("classify", modules),
        )

    @_once
    def evaluate_morphology(self) -> str:
        """Return the digest of the tables of all classifiers."""
        found = [self.classify(*classifier) for classifier in self.run.classifiers]
        return digest(found, self.run.config.bootstrap, self.code("evaluate_morphology"))

    @_once
    def pretrain_encoder(self, encoder: str) -> str:
        """Return the digest of an encoder of images without its seed."""
        chosen = self.run.image_encoder(encoder)
        return digest(
            self.simulate_morphology(),
            self.run.images_with_classes,
            chosen.model_dump(mode="json"),
            self.code("pretrain_encoder", chosen.make().modules()),
        )

    @_once
    def compare_labels(self, encoder: str, seed: int) -> str:
        """Return the digest of the classifiers with some of the labels, from an encoder and from scratch."""
        section = self.run.morphology.contrastive
        return digest(
            self.pretrain_encoder(encoder),
            seed,
            section and section.model_dump(mode="json", include={"labels", "neighbours", "fine_tuning"}),
            self.code("compare_labels", self.run.image_encoder(encoder).make().modules()),
        )

    @_once
    def evaluate_contrastive(self) -> str:
        """Return the digest of the tables of all encoders."""
        found = [self.compare_labels(*encoder) for encoder in self.run.image_encoders]
        return digest(found, self.code("evaluate_contrastive"))

    def table_morphology(self) -> str:
        """Return the digest of the LaTeX tables of the classifiers and of the encoders."""
        return digest(
            self.evaluate_morphology(),
            self.evaluate_contrastive() if self.run.image_encoders else None,
            self.code("table_morphology"),
        )

    def manifest_morphology(self) -> str:
        """Return the digest of the manifest of the classification by morphology."""
        run = self.run
        return digest(
            [self.metrics(name) for name in run.metrics_of_morphology],
            {name: self.figure(name) for name in run.figures_of_morphology},
            self.table_morphology(),
            run.config.dump(),
            self.code("manifest_morphology"),
        )

    # Frameworks

    @_once
    def train_framework(self, population: str, name: NetworkName) -> str:
        """Return the digest of a small network without its seed, and of its estimates."""
        config = self.run.config
        return digest(
            self.simulate_stamps(population, "train"),
            self.simulate_stamps(population, "test"),
            self.run.framework_options,
            sorted(config.noise_levels),
            config.seed,
            name,
            self.code("train_framework", [NETWORKS[name].module]),
        )

    @_once
    def measure_checkpoint(self, population: str, name: str) -> str:
        """Return the digest of the estimates of a network of ShearNet."""
        config = self.run.config
        return digest(
            self.simulate_stamps(population, "test"),
            [[file["path"], file["sha256"]] for file in self.checkpoint(name)],
            sorted(config.noise_levels),
            config.seed,
            self.code("measure_checkpoint"),
        )

    def _labels(self) -> dict[str, str]:
        """Return the labels of the estimators and networks, without those of the small networks."""
        small = {name for name, _ in self.run.frameworks}
        return {name: label for name, label in self.run.labels.items() if name not in small}

    def _small_networks(self) -> list[list[Any]]:
        """Return the digests of all small networks and checkpoints, with the labels of the networks."""
        run = self.run
        return [
            *(
                [self.train_framework(population, name), seed, run.labels[name]]
                for population in run.populations
                for name, seed in run.frameworks
            ),
            *(
                [self.measure_checkpoint(population, name)]
                for population in run.populations
                for name in run.shearnet_checkpoints
            ),
        ]

    def evaluate_frameworks(self) -> str:
        """Return the digest of the table of frameworks."""
        return digest(self.evaluate_accuracy(), self.code("evaluate_frameworks"))

    @_once
    def measure_precision(self) -> str:
        """Return the digest of the rounding errors of the network in NumPy."""
        run = self.run
        return digest(
            [
                (self.train_framework(population, "numpy"), self.cramer_rao(population, "test"))
                for population in run.populations
            ],
            run.config.bootstrap,
            self.code("measure_precision"),
        )

    # Figures, tables, the paper

    def figure(self, name: str) -> str:
        """Return the digest of a figure of the run."""
        figure = {**self.run.figures, **self.run.figures_of_sections}[name]
        sources = [self.metrics(path) for path in figure.sources]
        return digest(sources, self.figure_code(name))

    def figure_code(self, name: str) -> str:
        """Return the digest of the code that draws a figure."""
        return self.code("draw_figure", [f"shearbench.figures.{name}"])

    @_once
    def tables(self) -> str:
        """Return the digest of the LaTeX tables."""
        return digest(self.tabulated(), self.code("tables"))

    @_once
    def paper(self) -> str:
        """Return the digest of the document, its macros and its numbers."""
        return digest(
            self.tabulated(),
            [self.evaluate_study(study) for study in self.run.config.studies],
            self.run.captioned,
            self.run.described,
            self.run.entries["study"].caption,
            self.code("paper"),
        )

    def save_config(self) -> str:
        """Return the digest of the resolved configuration."""
        return digest(self.run.config.dump())

    def sections(self) -> dict[str, str]:
        """Return a digest per key of the configuration, so that the reason for a rerun names the key."""
        return {f"digest_of_{key}": f"{key} {digest(value)}" for key, value in self.run.config.dump().items()}

    def manifest(self) -> str:
        """Return the digest of the manifest."""
        return digest(
            self.tabulated(),
            {name: self.figure_code(name) for name in self.run.entries},
            self.run.config.dump(),
            self.code("tables"),
            self.code("paper"),
            self.code("manifest"),
        )

    # Origins

    def origins(self, *files: Iterable[Any]) -> dict[str, Origin]:
        """Return the origins of files, by their paths; files without an origin are left out."""
        paths = [str(path) for some in files for path in some]
        return {path: found for path in paths if (found := self.origin(path)) is not None}

    def origin(self, path: str) -> Origin | None:
        """Return the origin that a file of the run should carry.

        Parameters
        ----------
        path : str
            Path in the workflow, or the same after further folders.

        Returns
        -------
        Origin or None
            None for a file without an origin or a file that is not in this configuration.
        """
        *folders, name = path.partition(f"{self.run.folder}/")[2].split("/")
        stem, _, suffix = name.rpartition(".")
        match [*folders, name]:
            case ["config.yaml"]:
                return Origin("save_config", self.save_config(), {})
            case ["catalogs", population, _] if suffix == "parquet" and self._has(population, stem):
                names = {"population": population, "split": stem}
                return Origin("sample_catalog", self.sample_catalog(population, stem), names)
            case ["stamps", population, split, "index.json"] if self._has(population, split):
                names = {"population": population, "split": split}
                return Origin("index_stamps", self.index_stamps(population, split), names)
            case ["stamps", population, split, _] if suffix == "h5" and self._has(population, split):
                if stem.isdecimal() and int(stem) < len(self.run.chunks(split)):
                    part = {"population": population, "split": split, "chunk": int(stem)}
                    return Origin("simulate_stamps", self.simulate_stamps(population, split), part)
            case ["bounds", population, "posterior.parquet"] if self._has(population):
                names = {"population": population, "split": "test"}
                return Origin("sample_posterior", self.sample_posterior(population), names)
            case ["bounds", population, _] if suffix == "parquet" and self._has(population, stem):
                names = {"population": population, "split": stem}
                return Origin("cramer_rao", self.cramer_rao(population, stem), names)
            case ["estimates", population, split, noise, _] if suffix == "parquet":
                if self._has(population, split) and noise in self.run.sigma:
                    return self._origin_of_estimates(population, split, noise, stem)
            case ["judged", trained, population, split, noise, _] if suffix == "parquet":
                variant, _, seed = stem.rpartition(".seed")
                known = (trained, population) in self.run.judged and split in JUDGED_SPLITS
                judged = seed.isdecimal() and (trained, variant, int(seed)) in self.run.models
                if known and judged and noise in self.run.noise["shear"]:
                    about: dict[str, Any] = {"trained": trained, "population": population, "split": split}
                    about |= {"noise": noise, "estimator": variant, "seed": int(seed)}
                    return Origin("judge", self.judge(trained, population, split, variant, int(seed)), about)
                if known and split == "test" and stem in self.run.trained_estimators:
                    about = {"trained": trained, "population": population, "split": split}
                    about |= {"noise": noise, "estimator": stem}
                    rule = "combine_judged" if self.run.members(stem) else "measure_judged"
                    return Origin(rule, self.judge_estimator(trained, population, stem), about)
            case ["model_errors", population, noise, told, _] if suffix == "parquet":
                if self._has(population) and noise in self.run.misjudged_noise and told in self.run.misjudged:
                    return self._origin_of_model_errors(population, noise, told, stem)
            case ["models", population, variant, folder, "model.pt" | "history.csv"]:
                seed = folder.removeprefix("seed")
                if self._has(population) and variant in self.run.variants and seed.isdecimal():
                    which = {"population": population, "variant": variant, "seed": int(seed), "content": stem}
                    return Origin("train", self.train(population, variant), which)
            case ["calibrations", "models", population, estimator, folder, "model.pt" | "history.csv"]:
                seed = folder.removeprefix("seed")
                if self._has(population) and estimator in self.run.calibrated and seed.isdecimal():
                    which = {"population": population, "estimator": estimator, "seed": int(seed)}
                    depends = self.calibrate(population, estimator)
                    return Origin("calibrate", depends, {**which, "content": stem})
            case ["encoders", "models", population, encoder, folder, "model.pt" | "history.csv"]:
                seed = folder.removeprefix("seed")
                if self._has(population) and encoder in self.run.config.encoders and seed.isdecimal():
                    which = {"population": population, "encoder": encoder, "seed": int(seed), "content": stem}
                    return Origin("pretrain", self.pretrain(population, encoder), which)
            case ["inside", population, variant, folder, _] if stem in INSIDE or name == "maps.h5":
                seed = folder.removeprefix("seed")
                if self._has(population) and variant in self.run.variants and seed.isdecimal():
                    rule = INSIDE.get(stem, "inside_maps")
                    which = {"population": population, "variant": variant, "seed": int(seed), "table": stem}
                    return Origin(rule, getattr(self, rule)(population, variant, int(seed)), which)
            case ["morphology", "images.h5"] if self.run.config.morphology is not None:
                return Origin("simulate_morphology", self.simulate_morphology(), {})
            case ["morphology", "models", classifier, folder, "model.pt" | "history.csv"]:
                seed = folder.removeprefix("seed")
                if seed.isdecimal() and (classifier, int(seed)) in self.run.classifiers:
                    which = {"classifier": classifier, "seed": int(seed), "content": stem}
                    return Origin("train_classifier", self.train_classifier(classifier), which)
            case ["morphology", "predictions", _] if suffix in ("parquet", "h5"):
                classifier, _, seed = stem.rpartition(".seed")
                if seed.isdecimal() and (classifier, int(seed)) in self.run.classifiers:
                    which = {"classifier": classifier, "seed": int(seed), "content": suffix}
                    return Origin("classify", self.classify(classifier, int(seed)), which)
            case ["morphology", "encoders", "models", encoder, folder, "model.pt" | "history.csv"]:
                seed = folder.removeprefix("seed")
                if seed.isdecimal() and (encoder, int(seed)) in self.run.image_encoders:
                    which = {"encoder": encoder, "seed": int(seed), "content": stem}
                    return Origin("pretrain_encoder", self.pretrain_encoder(encoder), which)
            case ["morphology", "encoders", "labels", encoder, folder, _] if folder.startswith("seed"):
                seed = folder.removeprefix("seed")
                if seed.isdecimal() and (encoder, int(seed)) in self.run.image_encoders:
                    which = {"encoder": encoder, "seed": int(seed), "content": stem}
                    return Origin("compare_labels", self.compare_labels(encoder, int(seed)), which)
            case ["frameworks", population, _] if suffix in ("csv", "h5") and self._has(population):
                for framework, number in self.run.frameworks:
                    if stem == f"{framework}.seed{number}":
                        which = {"population": population, "estimator": framework, "seed": number}
                        depends = self.train_framework(population, framework)
                        return Origin("train_framework", depends, {**which, "content": suffix})
            case ["metrics", "studies.csv"]:
                return Origin("summarise_studies", self.summarise_studies(), {"table": stem})
            case ["networks", population, _] if suffix == "pt" and self._has(population):
                variant, _, seed = stem.rpartition(".seed")
                if seed.isdecimal() and (population, variant, int(seed)) in self.run.models:
                    which = {"population": population, "variant": variant, "seed": int(seed)}
                    return Origin("pack_network", self.pack_network(population, variant, int(seed)), which)
            case ["observations", observation, "estimates", _] if observation in self.run.observations:
                for measurer, (file, _, _) in self.run.measurers.items():
                    if name == f"{file}.parquet":
                        which = {"observation": observation, "estimator": file}
                        depends = self.measure_observation(observation, measurer)
                        rule = "combine_observation" if file in self.run.combined else "measure_observation"
                        return Origin(rule, depends, which)
            case ["observations", observation, _] if observation in self.run.observations:
                if name in ("galaxies.parquet", "simulated.parquet"):
                    which = {"observation": observation, "content": stem}
                    return Origin("observe", self.observe(observation), which)
                if name in ("shapes.parquet", "shear.parquet"):
                    which = {"observation": observation, "content": stem}
                    return Origin("catalogue_observation", self.catalogue_observation(observation), which)
            case ["observations", _] if suffix == "parquet" and stem in self.run.observations:
                which = {"observation": stem, "content": "catalogue"}
                return Origin("catalogue_observation", self.catalogue_observation(stem), which)
            case ["metrics", _] if (
                name in (*MORPHOLOGY, *CONTRASTIVE) and name not in self.run.metrics_of_morphology
            ):
                return None
            case ["metrics", _] if name in FRAMEWORKS and self.run.config.frameworks is None:
                return None
            case ["metrics", _] if name in MADE_BY:
                return Origin(MADE_BY[name], self.metrics(name), {"table": stem})
            case ["metrics", "studies", _]:
                for study in self.run.studies.known:
                    for path, rule in STUDY_FILES.items():
                        if f"studies/{name}" == path.format(study=study):
                            names = {"study": study, "table": stem}
                            return Origin(rule, getattr(self, rule)(study), names)
            case ["searches", search, _] if search in self.run.searches.known and suffix == "txt":
                which = {"search": search, "worker": int(stem.removeprefix("worker"))}
                return Origin("run_trials", self.run_trials(search), which)
            case ["searches", _] if suffix == "yaml" and stem in self.run.searches.known:
                return Origin("search", self.search(stem), {"search": stem, "content": "recipe"})
            case ["metrics", "searches", search, "trials.csv" | "importances.csv"]:
                if search in self.run.searches.known:
                    return Origin("search", self.search(search), {"search": search, "table": stem})
            case ["tables", _] if suffix == "tex":
                if f"{self.run.folder}/tables/{name}" in self.run.tables_of_morphology.values():
                    return Origin("table_morphology", self.table_morphology(), {"table": stem})
                if stem in self.run.tables:
                    return Origin("tables", self.tables(), {"table": stem})
                for study in self.run.studies.known:
                    if stem == f"study_{study}":
                        return Origin("table_study", self.table_study(study), {"study": study})
            case ["paper", "main.tex" | "macros.tex" | "numbers.json"]:
                return Origin("paper", self.paper(), {"content": stem})
        return None

    def job(self, origin: Origin) -> str:
        """Return a name of the job that makes a file of this origin; it is the same for all its files."""
        names = origin.names
        if origin.rule in ("train", "predict_study"):
            network = names.get("variant") or names.get("estimator")
            for batch, (population, networks) in self.run.batches.items():
                if population == names["population"] and (network, names["seed"]) in networks:
                    return f"{origin.rule} of {batch}"
        parts = {"content", "table", "noise" if origin.rule == "predict_study" else ""}
        if origin.rule in ("train_framework", "measure_checkpoint"):
            parts |= {"split", "noise"}
        if origin.rule in ("predict", "predict_shear", "predict_model_errors", "judge"):
            parts |= {"seed", "noise"}
        if origin.rule in ("measure_shear", "predict_shear", "judge"):
            parts |= {"split"}
        if origin.rule in ("combine", "combine_judged"):
            parts |= {"split", "noise"}
        if origin.rule in ("measure_model_errors", "predict_model_errors", "combine_model_errors"):
            parts |= {"told"}
        return json.dumps([origin.rule, {k: v for k, v in names.items() if k not in parts}])

    def _has(self, population: str, split: str = "test") -> bool:
        """Return whether the run has a population and a split of these names."""
        return population in self.run.config.populations and split in SPLITS

    def _origin_of_estimates(self, population: str, split: str, noise: str, name: str) -> Origin | None:
        """Return the origin of a file of estimates, named by estimator or ``<variant>.seed<seed>``."""
        names: dict[str, Any] = {"population": population, "split": split, "noise": noise}
        if name in self.run.config.estimators:
            depends = self.measure(population, split, noise, name)
            rule = "measure_shear" if split in PAIRED else "measure"
            rule = "combine" if self.run.members(name) else rule
            return Origin(rule, depends, {**names, "estimator": name})
        if name in self.run.shearnet_checkpoints and split == "test":
            depends = self.measure_checkpoint(population, name)
            return Origin("measure_checkpoint", depends, {**names, "estimator": name})
        for network, number in self.run.frameworks if split == "test" else ():
            if name == f"{network}.seed{number}":
                depends = self.train_framework(population, network)
                return Origin("train_framework", depends, {**names, "estimator": network, "seed": number})
        variant, _, seed = name.rpartition(".seed")
        if variant not in self.run.variants or not seed.isdecimal():
            return None
        names |= {"estimator": variant, "seed": int(seed)}
        if split in PAIRED:
            rule = "predict_shear"
        else:
            of_the_run = int(seed) in self.run.networks.get(variant, [])
            rule = "predict" if of_the_run else "predict_study"
        return Origin(rule, self.predict(population, split, variant, int(seed)), names)

    def _origin_of_model_errors(self, population: str, noise: str, told: str, name: str) -> Origin | None:
        """Return the origin of a file of estimates with a wrong PSF or noise level."""
        names: dict[str, Any] = {"population": population, "noise": noise, "told": told}
        if name in self.run.config.estimators:
            depends = self.measure_model_errors(population, noise, name)
            rule = "combine_model_errors" if self.run.members(name) else "measure_model_errors"
            return Origin(rule, depends, {**names, "estimator": name})
        variant, _, seed = name.rpartition(".seed")
        if not seed.isdecimal() or (population, variant, int(seed)) not in self.run.models:
            return None
        depends = self.predict_model_errors(population, variant, int(seed))
        return Origin("predict_model_errors", depends, {**names, "estimator": variant, "seed": int(seed)})
