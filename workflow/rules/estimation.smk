"""Measurements by classical estimators, training of networks, and measurements by networks."""


rule measure:
    input:
        stamps=f"{FOLDER}/stamps/{{population}}/{{split}}/index.json",
        network=lambda w: (
            RUN.model_of(w.population, *RUN.network_inside(w.estimator))
            if RUN.network_inside(w.estimator)
            else []
        ),
    output:
        f"{FOLDER}/estimates/{{population}}/{{split}}/{{noise}}/{{estimator}}.parquet",
    log:
        f"{FOLDER}/logs/measure/{{population}}/{{split}}/{{noise}}/{{estimator}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/measure/{{population}}/{{split}}/{{noise}}/{{estimator}}.tsv"
    conda:
        lambda w: NGMIX_ENVIRONMENT if needs_ngmix(w.estimator) else ENVIRONMENT
    params:
        origins=origins,
        options=lambda w: untracked(RUN.measuring_options(w.estimator)),
        stamps=lambda w: RUN.stamps_measured(w.split, w.estimator),
        sigma=lambda w: RUN.sigma[w.noise],
        seed=CONFIG.seed,
        depends=lambda w: DIGESTS.measure(w.population, w.split, w.noise, w.estimator),
    script:
        "../../scripts/measure.py"


rule train:
    input:
        train=RUN.stamps_of("train"),
        validation=RUN.stamps_of("validation"),
        train_catalog=f"{FOLDER}/catalogs/{{population}}/train.parquet",
        validation_catalog=f"{FOLDER}/catalogs/{{population}}/validation.parquet",
    output:
        model=f"{FOLDER}/models/{{population}}/{{variant}}/seed{{seed}}/model.pt",
        history=f"{FOLDER}/models/{{population}}/{{variant}}/seed{{seed}}/history.csv",
    log:
        f"{FOLDER}/logs/train/{{population}}/{{variant}}/seed{{seed}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/train/{{population}}/{{variant}}/seed{{seed}}.tsv"
    priority: 10
    conda:
        ENVIRONMENT
    resources:
        # Several GPUs: one process per GPU, each with a part of every batch (docs/cluster.md).
        gpu=1,
        # Number of seeds trained at the same time, and all seeds. They are not params, because a new seed
        # would then retrain the others.
        together=1,
        seeds=lambda w: " ".join(map(str, RUN.seeds_of(w.variant))),
        # Each process has all stamps in memory, and those for training twice while they are read.
        mem_mb=lambda w, attempt: attempt
        * gpus_per_training()
        * (8000 + 2 * RUN.stamps_mb("train") + RUN.stamps_mb("validation")),
    params:
        origins=origins,
        population=lambda w: untracked(RUN.population(w.population)),
        variant=lambda w: untracked(RUN.variants[w.variant].model_dump(mode="json")),
        gpu_use_path=f"{FOLDER}/benchmarks/train/{{population}}/{{variant}}/seed{{seed}}.gpu.csv",
        # Not an output, because Snakemake deletes outputs before every attempt.
        checkpoint=f"{FOLDER}/checkpoints/{{population}}/{{variant}}/seed{{seed}}.pt",
        depends=lambda w: DIGESTS.train(w.population, w.variant),
        # A training of a study may diverge, which is a result of the study.
        may_diverge=lambda w: w.variant not in CONFIG.variants,
    script:
        "../../scripts/train.py"


# One short job measures with the networks of all seeds of a variant.
rule predict:
    input:
        stamps=RUN.stamps_of("test"),
        models=[
            f"{FOLDER}/models/{{population}}/{{variant}}/seed{seed}/model.pt"
            for seed in CONFIG.seeds
        ],
    output:
        [
            f"{FOLDER}/estimates/{{population}}/test/{noise}/{{variant}}.seed{seed}.parquet"
            for seed in CONFIG.seeds
            for noise in RUN.noise["test"]
        ],
    log:
        f"{FOLDER}/logs/predict/{{population}}/{{variant}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/predict/{{population}}/{{variant}}.tsv"
    wildcard_constraints:
        variant=any_of(CONFIG.variants),
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        gpu_use_path=f"{FOLDER}/benchmarks/predict/{{population}}/{{variant}}.gpu.csv",
        seeds=list(CONFIG.seeds),
        sigmas=[RUN.sigma[noise] for noise in RUN.noise["test"]],
        seed=CONFIG.seed,
        depends=lambda w: DIGESTS.predict_all(
            w.population, "test", w.variant, CONFIG.seeds
        ),
    script:
        "../../scripts/predict.py"


use rule predict as predict_shear with:
    input:
        stamps=RUN.stamps_of("shear"),
        models=rules.predict.input.models,
    output:
        [
            f"{FOLDER}/estimates/{{population}}/shear/{noise}/{{variant}}.seed{seed}.parquet"
            for seed in CONFIG.seeds
            for noise in RUN.noise["shear"]
        ],
    log:
        f"{FOLDER}/logs/predict_shear/{{population}}/{{variant}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/predict_shear/{{population}}/{{variant}}.tsv"
    params:
        origins=origins,
        gpu_use_path=f"{FOLDER}/benchmarks/predict_shear/{{population}}/{{variant}}.gpu.csv",
        seeds=list(CONFIG.seeds),
        sigmas=[RUN.sigma[noise] for noise in RUN.noise["shear"]],
        seed=CONFIG.seed,
        depends=lambda w: DIGESTS.predict_all(
            w.population, "shear", w.variant, CONFIG.seeds
        ),


# A study has its own seeds.
use rule predict as predict_study with:
    input:
        stamps=RUN.stamps_of("test"),
        models=[rules.train.output.model],
    output:
        [
            f"{FOLDER}/estimates/{{population}}/test/{noise}/{{variant}}.seed{{seed}}.parquet"
            for noise in RUN.noise["test"]
        ],
    log:
        f"{FOLDER}/logs/predict_study/{{population}}/{{variant}}.seed{{seed}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/predict_study/{{population}}/{{variant}}.seed{{seed}}.tsv"
    wildcard_constraints:
        variant=any_of(name for name in RUN.variants if name not in CONFIG.variants),
    params:
        origins=origins,
        gpu_use_path=f"{FOLDER}/benchmarks/predict_study/{{population}}/{{variant}}.seed{{seed}}.gpu.csv",
        seeds=lambda w: [int(w.seed)],
        sigmas=[RUN.sigma[noise] for noise in RUN.noise["test"]],
        seed=CONFIG.seed,
        depends=lambda w: DIGESTS.predict_all(
            w.population, "test", w.variant, [int(w.seed)]
        ),
