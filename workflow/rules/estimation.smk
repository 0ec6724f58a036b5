"""Estimators at work: classical fits, training, and the networks' answers."""


def architecture_module(kind):
    """Return the module of an architecture: its code is part of what its networks depend on."""
    return architecture_kinds()[kind].__module__


@functools.lru_cache(maxsize=None)
def measure_digest(population, split, noise, estimator):
    """Return what the estimates of a classical estimator depend on."""
    return digest(
        stamps_digest(population, split),
        {key: value for key, value in CONFIG.estimators[estimator].items() if key != "label"},
        SIGMA[noise],
        CONFIG.seed,
        code_of("measure", CONFIG.estimator(estimator).modules()),
    )


@functools.lru_cache(maxsize=None)
def train_digest(population, variant, seed):
    """Return what a trained network depends on; a checkpoint is resumed only where this matches."""
    chosen = VARIANTS[variant]
    return digest(
        stamps_digest(population, "train"),
        stamps_digest(population, "validation"),
        chosen.model_dump(mode="json"),
        int(seed),
        CONFIG.seed,
        code_of("train", (architecture_module(chosen.architecture),)),
    )


@functools.lru_cache(maxsize=None)
def predict_digest(population, split, variant, seed):
    """Return what a network's estimates depend on."""
    return digest(
        train_digest(population, variant, seed),
        stamps_digest(population, split),
        CONFIG.seed,
        code_of("predict", (architecture_module(VARIANTS[variant].architecture),)),
    )


def needs_ngmix(estimator):
    """Return whether an estimator runs in ngmix's own environment: with conda, and where ngmix is not here."""
    return WITH_CONDA and CONFIG.estimators[estimator]["kind"].startswith("ngmix") and not HAS_NGMIX


def estimates_of(population, split, noise, estimators=None, networks=None):
    """Return the files of estimates at one noise level: classical first, then each network and seed."""
    folder = f"{RUN}/estimates/{population}/{split}/{noise}"
    chosen = ESTIMATORS if estimators is None else estimators
    # Where single shapes are judged, an estimator that answers only for ensembles has nothing to say.
    names = [name for name in chosen if split == "shear" or not CONFIG.estimator(name).ensemble_response]
    for variant, seeds in (NETWORKS if networks is None else networks).items():
        names += [f"{variant}.seed{seed}" for seed in seeds]
    return [f"{folder}/{name}.parquet" for name in names]


rule measure:
    input:
        lambda w: expand(stamps_of(w.split), population=w.population),
    output:
        f"{RUN}/estimates/{{population}}/{{split}}/{{noise}}/{{estimator}}.parquet",
    params:
        options=lambda w: {k: v for k, v in CONFIG.estimators[w.estimator].items() if k != "label"},
        sigma=lambda w: SIGMA[w.noise],
        seed=CONFIG.seed,
        depends=lambda w: measure_digest(w.population, w.split, w.noise, w.estimator),
    log:
        f"{RUN}/logs/measure/{{population}}/{{split}}/{{noise}}/{{estimator}}.log",
    benchmark:
        f"{RUN}/benchmarks/measure/{{population}}/{{split}}/{{noise}}/{{estimator}}.tsv"
    conda:
        lambda w: NGMIX_ENVIRONMENT if needs_ngmix(w.estimator) else ENVIRONMENT
    script:
        "../../scripts/measure.py"


rule train:
    input:
        train=stamps_of("train"),
        validation=stamps_of("validation"),
        train_catalog=f"{RUN}/catalogs/{{population}}/train.parquet",
        validation_catalog=f"{RUN}/catalogs/{{population}}/validation.parquet",
    output:
        model=f"{RUN}/models/{{population}}/{{variant}}/seed{{seed}}/model.pt",
        history=f"{RUN}/models/{{population}}/{{variant}}/seed{{seed}}/history.csv",
    params:
        variant=lambda w: VARIANTS[w.variant].model_dump(mode="json"),
        # Outside the outputs, which Snakemake deletes before every attempt.
        checkpoint=f"{RUN}/checkpoints/{{population}}/{{variant}}/seed{{seed}}.pt",
        depends=lambda w: train_digest(w.population, w.variant, w.seed),
    log:
        f"{RUN}/logs/train/{{population}}/{{variant}}/seed{{seed}}.log",
    benchmark:
        f"{RUN}/benchmarks/train/{{population}}/{{variant}}/seed{{seed}}.tsv"
    conda:
        ENVIRONMENT
    priority: 10
    script:
        "../../scripts/train.py"


rule predict:
    input:
        stamps=stamps_of("test"),
        model=rules.train.output.model,
    output:
        [
            f"{RUN}/estimates/{{population}}/test/{noise}/{{variant}}.seed{{seed}}.parquet"
            for noise in NOISE["test"]
        ],
    params:
        sigmas=[SIGMA[noise] for noise in NOISE["test"]],
        seed=CONFIG.seed,
        depends=lambda w: predict_digest(w.population, "test", w.variant, w.seed),
    log:
        f"{RUN}/logs/predict/{{population}}/{{variant}}.seed{{seed}}.log",
    benchmark:
        f"{RUN}/benchmarks/predict/{{population}}/{{variant}}.seed{{seed}}.tsv"
    conda:
        ENVIRONMENT
    script:
        "../../scripts/predict.py"


use rule predict as predict_shear with:
    input:
        stamps=stamps_of("shear"),
        model=rules.train.output.model,
    output:
        [
            f"{RUN}/estimates/{{population}}/shear/{noise}/{{variant}}.seed{{seed}}.parquet"
            for noise in NOISE["shear"]
        ],
    params:
        sigmas=[SIGMA[noise] for noise in NOISE["shear"]],
        seed=CONFIG.seed,
        depends=lambda w: predict_digest(w.population, "shear", w.variant, w.seed),
    log:
        f"{RUN}/logs/predict_shear/{{population}}/{{variant}}.seed{{seed}}.log",
    benchmark:
        f"{RUN}/benchmarks/predict_shear/{{population}}/{{variant}}.seed{{seed}}.tsv"
