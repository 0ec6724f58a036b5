"""Estimators at work: classical fits, training, and the networks' answers."""


rule measure:
    input:
        lambda w: expand(stamps_of(w.split), population=w.population),
    output:
        f"{RUN}/estimates/{{population}}/{{split}}/{{noise}}/{{estimator}}.parquet",
    log:
        f"{RUN}/logs/measure/{{population}}/{{split}}/{{noise}}/{{estimator}}.log",
    benchmark:
        f"{RUN}/benchmarks/measure/{{population}}/{{split}}/{{noise}}/{{estimator}}.tsv"
    conda:
        lambda w: NGMIX_ENVIRONMENT if needs_ngmix(w.estimator) else ENVIRONMENT
    params:
        options=lambda w: {
            k: v for k, v in CONFIG.estimators[w.estimator].items() if k != "label"
        },
        sigma=lambda w: SIGMA[w.noise],
        seed=CONFIG.seed,
        depends=lambda w: measure_digest(w.population, w.split, w.noise, w.estimator),
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
    log:
        f"{RUN}/logs/train/{{population}}/{{variant}}/seed{{seed}}.log",
    benchmark:
        f"{RUN}/benchmarks/train/{{population}}/{{variant}}/seed{{seed}}.tsv"
    priority: 10
    conda:
        ENVIRONMENT
    params:
        variant=lambda w: VARIANTS[w.variant].model_dump(mode="json"),
        # Outside the outputs, which Snakemake deletes before every attempt.
        checkpoint=f"{RUN}/checkpoints/{{population}}/{{variant}}/seed{{seed}}.pt",
        depends=lambda w: train_digest(w.population, w.variant, w.seed),
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
    log:
        f"{RUN}/logs/predict/{{population}}/{{variant}}.seed{{seed}}.log",
    benchmark:
        f"{RUN}/benchmarks/predict/{{population}}/{{variant}}.seed{{seed}}.tsv"
    conda:
        ENVIRONMENT
    params:
        sigmas=[SIGMA[noise] for noise in NOISE["test"]],
        seed=CONFIG.seed,
        depends=lambda w: predict_digest(w.population, "test", w.variant, w.seed),
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
    log:
        f"{RUN}/logs/predict_shear/{{population}}/{{variant}}.seed{{seed}}.log",
    benchmark:
        f"{RUN}/benchmarks/predict_shear/{{population}}/{{variant}}.seed{{seed}}.tsv"
    params:
        sigmas=[SIGMA[noise] for noise in NOISE["shear"]],
        seed=CONFIG.seed,
        depends=lambda w: predict_digest(w.population, "shear", w.variant, w.seed),
