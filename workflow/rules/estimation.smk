"""Estimators at work: classical fits, training, and the networks' answers."""


def estimator_module(name):
    """Return the module an estimator comes from: its code is part of what its estimates depend on."""
    return estimator_kinds()[CONFIG.estimators[name]["kind"]].__module__


@functools.lru_cache(maxsize=None)
def measure_digest(population, split, noise, estimator):
    """Return what the estimates of a classical estimator depend on."""
    return digest(
        stamps_digest(population, split),
        CONFIG.estimators[estimator],
        SIGMA[noise],
        CONFIG.seed,
        code_digest(script("measure"), (estimator_module(estimator),)),
    )


@functools.lru_cache(maxsize=None)
def train_digest(population, variant, seed):
    """Return what a trained network depends on; a checkpoint is resumed only where this matches."""
    chosen = VARIANTS[variant]
    return digest(
        stamps_digest(population, "train"),
        stamps_digest(population, "validation"),
        chosen.model_dump(mode="json"),
        seed,
        CONFIG.seed,
        code_digest(script("train"), (architecture_module(chosen.architecture),)),
    )


@functools.lru_cache(maxsize=None)
def predict_digest(population, split, variant, seed):
    """Return what a network's estimates depend on."""
    return digest(
        train_digest(population, variant, seed),
        stamps_digest(population, split),
        CONFIG.seed,
        code_digest(script("predict"), (architecture_module(VARIANTS[variant].architecture),)),
    )


def estimates_of(population, split, noise, estimators=None, networks=None):
    """Return the files of estimates at one noise level: classical first, then each network and seed."""
    folder = f"{RUN}/estimates/{population}/{split}/{noise}"
    names = list(ESTIMATORS if estimators is None else estimators)
    for variant, seeds in (NETWORKS if networks is None else networks).items():
        names += [f"{variant}.seed{seed}" for seed in seeds]
    return [f"{folder}/{name}.parquet" for name in names]


rule measure:
    input:
        lambda w: expand(stamps_of(w.split), population=w.population),
    output:
        f"{RUN}/estimates/{{population}}/{{split}}/{{noise}}/{{estimator}}.parquet",
    params:
        options=lambda w: CONFIG.estimators[w.estimator],
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
