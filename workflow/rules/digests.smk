"""What each result depends on, as a digest: rules carry these as params (see shearbench.provenance)."""


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


def metrics_digest(path):
    """Return what a table of metrics depends on: that of the rule that makes it."""
    made_by = {
        "accuracy.csv": rules.evaluate_accuracy,
        "shear_bias.csv": rules.evaluate_shear_bias,
        "shear_bias_bins.csv": rules.evaluate_shear_bias,
        "bayes_floor.csv": rules.evaluate_bayes_floor,
        "residuals.parquet": rules.evaluate_residuals,
        "trends.csv": rules.evaluate_residuals,
        "throughput.csv": rules.evaluate_throughput,
        "training.csv": rules.evaluate_throughput,
        "gallery.h5": rules.draw_gallery,
        "networks.csv": rules.summarise_networks,
        "network_layers.csv": rules.summarise_networks,
    }
    return made_by[os.path.basename(path)].params.depends
