"""What each result depends on, as a digest: rules carry these as params (see shearbench.jobs.provenance)."""


def code_of(rule_name, modules=()):
    """Return the digest of a rule's script and of all the code it uses."""
    return code_digest(
        str(CHECKOUT / "scripts" / f"{rule_name}.py"),
        tuple(modules),
    )


@functools.lru_cache(maxsize=None)
def inputs_of(population):
    """Return the external files that a population is drawn from: path, bytes and SHA-256 of each."""
    try:
        files = external_files(population, CONFIG.populations[population])
        return contents(files, ".snakemake/shearbench/inputs.json", logger.warning)
    except (ConfigError, OSError) as error:
        raise WorkflowError(
            f"The configuration is wrong, and nothing was started.\n{error}"
        ) from None


@functools.lru_cache(maxsize=None)
def catalog_digest(population, split):
    """Return what a catalog depends on."""
    options = CONFIG.populations[population]
    shear = (
        CONFIG.shear_test.model_dump(include={"shear", "rotations"})
        if split == "shear"
        else None
    )
    return digest(
        options.model_dump(mode="json"),
        [[file["path"], file["sha256"]] for file in inputs_of(population)],
        galaxies(split),
        shear,
        CONFIG.seed,
        CONFIG.stamps.pixel_scale_arcsec,
        code_of("sample_catalog"),
    )


@functools.lru_cache(maxsize=None)
def stamps_digest(population, split):
    """Return what the stamps of a split depend on; how they are cut into chunks is not part of it."""
    return digest(
        catalog_digest(population, split),
        CONFIG.stamps.model_dump(),
        code_of("simulate_stamps"),
    )


@functools.lru_cache(maxsize=None)
def bounds_digest(population, split):
    """Return what the bounds of a split depend on."""
    return digest(
        catalog_digest(population, split),
        CONFIG.stamps.model_dump(),
        code_of("cramer_rao"),
    )


@functools.lru_cache(maxsize=None)
def posterior_digest(population):
    """Return what the samples of a population's posteriors depend on."""
    return digest(
        stamps_digest(population, "test"),
        CONFIG.bayes_floor.model_dump(),
        sorted(CONFIG.noise_levels),
        CONFIG.seed,
        code_of("sample_posterior"),
    )


@functools.lru_cache(maxsize=None)
def measure_digest(population, split, noise, estimator):
    """Return what the estimates of a classical estimator depend on."""
    network = network_inside(estimator)
    return digest(
        stamps_digest(population, split),
        measuring_options(estimator),
        stamps_measured(split, estimator),
        (train_digest(population, network[0]), network[1]) if network else None,
        SIGMA[noise],
        CONFIG.seed,
        code_of("measure", CONFIG.estimator(estimator).modules()),
    )


@functools.lru_cache(maxsize=None)
def train_digest(population, variant):
    """Return what a trained network depends on but its seed; a checkpoint is resumed only where this matches."""
    chosen = VARIANTS[variant]
    return digest(
        stamps_digest(population, "train"),
        stamps_digest(population, "validation"),
        chosen.model_dump(mode="json"),
        CONFIG.seed,
        code_of("train", chosen.make().modules()),
    )


@functools.lru_cache(maxsize=None)
def predict_digest(population, split, variant, seed):
    """Return what a network's estimates depend on."""
    return digest(
        train_digest(population, variant),
        int(seed),
        stamps_digest(population, split),
        CONFIG.seed,
        code_of("predict", VARIANTS[variant].make().modules()),
    )


def predictions_digest(population, split, variant, seeds):
    """Return what the estimates of a variant's networks depend on."""
    return digest([predict_digest(population, split, variant, seed) for seed in seeds])


@functools.lru_cache(maxsize=None)
def estimates_digest(split):
    """Return what all these estimates depend on."""
    return digest(
        [
            measure_digest(population, split, noise, estimator)
            for population in POPULATIONS
            for noise in NOISE[split]
            for estimator in ESTIMATORS
        ],
        LABELS,
        [
            predict_digest(population, split, variant, seed)
            for population, variant, seed in MODELS
        ],
        [bounds_digest(population, split) for population in POPULATIONS],
    )


@functools.lru_cache(maxsize=None)
def study_digest(study):
    """Return what a study's table depends on."""
    population = STUDIES[study].population
    return digest(
        STUDIES[study].model_dump(mode="json"),
        [
            predict_digest(population, "test", variant, seed)
            for variant, seeds in study_networks(study).items()
            for seed in seeds
        ],
        bounds_digest(population, "test"),
        code_of("evaluate_study"),
    )


MADE_BY = {
    "accuracy.csv": "evaluate_accuracy",
    "shear_bias.csv": "evaluate_shear_bias",
    "shear_bias_bins.csv": "evaluate_shear_bias",
    "bayes_floor.csv": "evaluate_bayes_floor",
    "residuals.parquet": "evaluate_residuals",
    "trends.csv": "evaluate_residuals",
    "throughput.csv": "evaluate_throughput",
    "training.csv": "evaluate_throughput",
    "gallery.h5": "draw_gallery",
    "networks.csv": "summarise_networks",
    "network_layers.csv": "summarise_networks",
    "networks.txt": "summarise_networks",
}


def metrics_digest(path):
    """Return what a table of metrics depends on: that of the rule that makes it."""
    return getattr(rules, MADE_BY[os.path.basename(path)]).params.depends


@functools.lru_cache(maxsize=None)
def origin(path):
    """Return what a file of the run is, or None for one that carries no origin."""
    *folders, name = path.partition(f"{RUN}/")[2].split("/")
    stem = name.rpartition(".")[0]
    match folders:
        case [] if name == "config.yaml":
            return Origin("save_config", digest(CONFIG.dump()), {})
        case ["catalogs", population]:
            names = {"population": population, "split": stem}
            return Origin("sample_catalog", catalog_digest(population, stem), names)
        case ["stamps", population, split]:
            names = {"population": population, "split": split}
            depends = stamps_digest(population, split)
            if name == "index.json":
                return Origin("index_stamps", depends, names)
            return Origin("simulate_stamps", depends, {**names, "chunk": int(stem)})
        case ["bounds", population] if stem == "posterior":
            names = {"population": population, "split": "test"}
            return Origin("sample_posterior", posterior_digest(population), names)
        case ["bounds", population]:
            names = {"population": population, "split": stem}
            return Origin("cramer_rao", bounds_digest(population, stem), names)
        case ["estimates", population, split, noise]:
            names = {"population": population, "split": split, "noise": noise}
            variant, is_network, seed = stem.rpartition(".seed")
            if not is_network:
                depends = measure_digest(population, split, noise, stem)
                return Origin("measure", depends, {**names, "estimator": stem})
            rule_name = (
                "predict_shear"
                if split == "shear"
                else "predict" if variant in NETWORKS else "predict_study"
            )
            return Origin(
                rule_name,
                predict_digest(population, split, variant, int(seed)),
                {**names, "estimator": variant, "seed": int(seed)},
            )
        case ["models", population, variant, seed]:
            return Origin(
                "train",
                train_digest(population, variant),
                {
                    "population": population,
                    "variant": variant,
                    "seed": int(seed.removeprefix("seed")),
                    "content": stem,
                },
            )
        case ["metrics"] if name in MADE_BY:
            return Origin(MADE_BY[name], metrics_digest(name), {"table": stem})
        case ["metrics", "studies"]:
            study = next(
                s for s in STUDIES if stem in (s, f"{s}_accuracy", f"{s}_verdict")
            )
            names = {"study": study, "table": stem}
            return Origin("evaluate_study", study_digest(study), names)
        case ["tables"] if stem.startswith("study_"):
            study = stem.removeprefix("study_")
            depends = digest(study_digest(study), code_of("table_study"))
            return Origin("table_study", depends, {"study": study})
        case ["tables"]:
            return Origin("tables", rules.tables.params.depends, {"table": stem})
        case ["paper"]:
            return Origin("paper", rules.paper.params.depends, {"content": stem})
    return None


def origins(*files):
    """Return what each file of a job's inputs and outputs is, by its path.

    As a parameter that is derived from inputs and outputs it is none that Snakemake compares.
    """
    paths = [str(path) for some in files for path in some]
    return {path: found for path in paths if (found := origin(path)) is not None}


def origin_if_any(path):
    """Return the origin of a file, or None also where this configuration knows of no such file."""
    try:
        return origin(path)
    except (KeyError, ValueError, StopIteration):
        return None
