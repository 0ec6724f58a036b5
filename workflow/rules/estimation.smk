"""Estimators at work: classical fits, training, and the networks' answers."""


rule measure:
    input:
        stamps=f"{RUN}/stamps/{{population}}/{{split}}/index.json",
        network=lambda w: (
            "{}/models/{}/{}/seed{}/model.pt".format(
                RUN, w.population, *network_inside(w.estimator)
            )
            if network_inside(w.estimator)
            else []
        ),
    output:
        f"{RUN}/estimates/{{population}}/{{split}}/{{noise}}/{{estimator}}.parquet",
    log:
        f"{RUN}/logs/measure/{{population}}/{{split}}/{{noise}}/{{estimator}}.log",
    benchmark:
        f"{RUN}/benchmarks/measure/{{population}}/{{split}}/{{noise}}/{{estimator}}.tsv"
    conda:
        lambda w: NGMIX_ENVIRONMENT if needs_ngmix(w.estimator) else ENVIRONMENT
    params:
        origins=lambda w, input, output: origins(input, output),
        options=lambda w: untracked(measuring_options(w.estimator)),
        stamps=lambda w: stamps_measured(w.split, w.estimator),
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
    resources:
        # With several, each has a process of its own and a share of every batch; see docs/cluster.md.
        gpu=1,
        # How many seeds take their steps together, and which there are; no params, which would make a network
        # anew because another seed was added.
        together=1,
        seeds=lambda w: " ".join(map(str, seeds_of(w.variant))),
        # Each process holds all stamps at once, and those of training twice while they are read.
        mem_mb=lambda w, attempt: attempt
        * gpus_per_training()
        * (8000 + 2 * stamps_mb("train") + stamps_mb("validation")),
    params:
        origins=lambda w, input, output: origins(input, output),
        population=lambda w: untracked(
            CONFIG.populations[w.population].model_dump(mode="json")
        ),
        variant=lambda w: untracked(VARIANTS[w.variant].model_dump(mode="json")),
        gpu_use=f"{RUN}/benchmarks/train/{{population}}/{{variant}}/seed{{seed}}.gpu.csv",
        # Outside the outputs, which Snakemake deletes before every attempt.
        checkpoint=f"{RUN}/checkpoints/{{population}}/{{variant}}/seed{{seed}}.pt",
        depends=lambda w: train_digest(w.population, w.variant),
        # A value of a study may well diverge: that is a result.
        may_diverge=lambda w: w.variant not in CONFIG.variants,
    script:
        "../../scripts/train.py"


# All seeds of a variant in one job, which is short.
rule predict:
    input:
        stamps=stamps_of("test"),
        models=[
            f"{RUN}/models/{{population}}/{{variant}}/seed{seed}/model.pt"
            for seed in CONFIG.seeds
        ],
    output:
        [
            f"{RUN}/estimates/{{population}}/test/{noise}/{{variant}}.seed{seed}.parquet"
            for seed in CONFIG.seeds
            for noise in NOISE["test"]
        ],
    log:
        f"{RUN}/logs/predict/{{population}}/{{variant}}.log",
    benchmark:
        f"{RUN}/benchmarks/predict/{{population}}/{{variant}}.tsv"
    wildcard_constraints:
        variant=any_of(CONFIG.variants),
    conda:
        ENVIRONMENT
    params:
        origins=lambda w, input, output: origins(input, output),
        gpu_use=f"{RUN}/benchmarks/predict/{{population}}/{{variant}}.gpu.csv",
        seeds=list(CONFIG.seeds),
        sigmas=[SIGMA[noise] for noise in NOISE["test"]],
        seed=CONFIG.seed,
        depends=lambda w: predictions_digest(
            w.population, "test", w.variant, CONFIG.seeds
        ),
    script:
        "../../scripts/predict.py"


use rule predict as predict_shear with:
    input:
        stamps=stamps_of("shear"),
        models=rules.predict.input.models,
    output:
        [
            f"{RUN}/estimates/{{population}}/shear/{noise}/{{variant}}.seed{seed}.parquet"
            for seed in CONFIG.seeds
            for noise in NOISE["shear"]
        ],
    log:
        f"{RUN}/logs/predict_shear/{{population}}/{{variant}}.log",
    benchmark:
        f"{RUN}/benchmarks/predict_shear/{{population}}/{{variant}}.tsv"
    params:
        origins=lambda w, input, output: origins(input, output),
        gpu_use=f"{RUN}/benchmarks/predict_shear/{{population}}/{{variant}}.gpu.csv",
        seeds=list(CONFIG.seeds),
        sigmas=[SIGMA[noise] for noise in NOISE["shear"]],
        seed=CONFIG.seed,
        depends=lambda w: predictions_digest(
            w.population, "shear", w.variant, CONFIG.seeds
        ),


# A study has seeds of its own.
use rule predict as predict_study with:
    input:
        stamps=stamps_of("test"),
        models=[rules.train.output.model],
    output:
        [
            f"{RUN}/estimates/{{population}}/test/{noise}/{{variant}}.seed{{seed}}.parquet"
            for noise in NOISE["test"]
        ],
    log:
        f"{RUN}/logs/predict_study/{{population}}/{{variant}}.seed{{seed}}.log",
    benchmark:
        f"{RUN}/benchmarks/predict_study/{{population}}/{{variant}}.seed{{seed}}.tsv"
    wildcard_constraints:
        variant=any_of({*VARIANTS} - {*CONFIG.variants}),
    params:
        origins=lambda w, input, output: origins(input, output),
        gpu_use=f"{RUN}/benchmarks/predict_study/{{population}}/{{variant}}.seed{{seed}}.gpu.csv",
        seeds=lambda w: [int(w.seed)],
        sigmas=[SIGMA[noise] for noise in NOISE["test"]],
        seed=CONFIG.seed,
        depends=lambda w: predictions_digest(
            w.population, "test", w.variant, [int(w.seed)]
        ),
