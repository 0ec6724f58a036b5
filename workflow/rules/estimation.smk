"""Measurements by classical estimators, training of networks, and measurements by networks."""


rule measure:
    input:
        stamps=[RUN.stamps_of("test")],
        network=lambda w: RUN.network_file(w.population, w.estimator),
    output:
        [f"{FOLDER}/estimates/{{population}}/test/{{noise}}/{{estimator}}.parquet"],
    log:
        f"{FOLDER}/logs/measure/{{population}}/{{noise}}/{{estimator}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/measure/{{population}}/{{noise}}/{{estimator}}.tsv"
    wildcard_constraints:
        estimator=any_of(RUN.measuring),
    conda:
        lambda w: NGMIX_ENVIRONMENT if needs_ngmix(w.estimator) else ENVIRONMENT
    params:
        origins=origins,
        options=lambda w: untracked(RUN.measuring_options(w.estimator)),
        trained_on=None,
        stamps=None,
        sigma=lambda w: RUN.sigma[w.noise],
        seed=CONFIG.seed,
        depends=lambda w: DIGESTS.measure(w.population, "test", w.noise, w.estimator),
    script:
        "../../scripts/measure.py"


# The splits with opposite shears and with opposite shapes of the PSF, in one job: where a measurement takes
# seconds, so does the start of a job.
use rule measure as measure_shear with:
    input:
        stamps=[RUN.stamps_of(split) for split in PAIRED],
        network=rules.measure.input.network,
    output:
        [
            f"{FOLDER}/estimates/{{population}}/{split}/{{noise}}/{{estimator}}.parquet"
            for split in PAIRED
        ],
    log:
        f"{FOLDER}/logs/measure_shear/{{population}}/{{noise}}/{{estimator}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/measure_shear/{{population}}/{{noise}}/{{estimator}}.tsv"
    params:
        origins=origins,
        options=lambda w: untracked(RUN.measuring_options(w.estimator)),
        trained_on=None,
        stamps=lambda w: RUN.stamps_measured("shear", w.estimator),
        sigma=lambda w: RUN.sigma[w.noise],
        seed=CONFIG.seed,
        depends=lambda w: DIGESTS.measure_shear(w.population, w.noise, w.estimator),


rule pretrain:
    input:
        train=RUN.stamps_of("train"),
        validation=RUN.stamps_of("validation"),
    output:
        model=f"{FOLDER}/encoders/models/{{population}}/{{encoder}}/seed{{seed}}/model.pt",
        history=f"{FOLDER}/encoders/models/{{population}}/{{encoder}}/seed{{seed}}/history.csv",
    log:
        f"{FOLDER}/logs/pretrain/{{population}}/{{encoder}}/seed{{seed}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/pretrain/{{population}}/{{encoder}}/seed{{seed}}.tsv"
    priority: 10
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
        mem_mb=lambda w, attempt: attempt * memory_of_training(),
    params:
        origins=origins,
        population=lambda w: untracked(RUN.population(w.population)),
        encoder=lambda w: untracked(CONFIG.encoders[w.encoder].model_dump(mode="json")),
        # Not an output, because Snakemake deletes outputs before every attempt.
        checkpoint=f"{FOLDER}/encoders/checkpoints/{{population}}/{{encoder}}/seed{{seed}}.pt",
        tracking=lambda w: untracked(RUN.tracking(f"{w.population}/{w.encoder}")),
        depends=lambda w: DIGESTS.pretrain(w.population, w.encoder),
    script:
        "../../scripts/pretrain.py"


rule train:
    input:
        train=RUN.stamps_of("train"),
        validation=RUN.stamps_of("validation"),
        train_catalog=f"{FOLDER}/catalogs/{{population}}/train.parquet",
        validation_catalog=f"{FOLDER}/catalogs/{{population}}/validation.parquet",
        encoders=lambda w: RUN.encoders_of(w.population, [(w.variant, int(w.seed))]),
    output:
        # Lists, as in the rules that train several networks.
        model=[f"{FOLDER}/models/{{population}}/{{variant}}/seed{{seed}}/model.pt"],
        history=[f"{FOLDER}/models/{{population}}/{{variant}}/seed{{seed}}/history.csv"],
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
        # Number of seeds trained at the same time.
        together=1,
        # Each process has all stamps in memory, and those for training twice while they are read.
        mem_mb=lambda w, attempt: attempt * memory_of_training(),
        # For the log: the values of studies that need this network.
        needed_by=lambda w: ", ".join(
            RUN.values_of.get((w.population, w.variant, int(w.seed)), ["the run"])
        ),
    params:
        origins=origins,
        population=lambda w: untracked(RUN.population(w.population)),
        # Not compared, because a new seed would then retrain the others; the digest has all that counts.
        trainings=lambda w: untracked(
            [RUN.training(w.population, w.variant, int(w.seed))]
        ),
        depends=lambda w: DIGESTS.train(w.population, w.variant),
    script:
        "../../scripts/train.py"


# A committee of small networks that corrects a trained one. It draws galaxies of its own.
rule calibrate:
    input:
        network=lambda w: RUN.model_of(
            w.population, RUN.network_inside(w.estimator)[0], int(w.seed)
        ),
    output:
        model=f"{FOLDER}/calibrations/models/{{population}}/{{estimator}}/seed{{seed}}/model.pt",
        history=f"{FOLDER}/calibrations/models/{{population}}/{{estimator}}/seed{{seed}}/history.csv",
    log:
        f"{FOLDER}/logs/calibrate/{{population}}/{{estimator}}/seed{{seed}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/calibrate/{{population}}/{{estimator}}/seed{{seed}}.tsv"
    wildcard_constraints:
        estimator=any_of(RUN.calibrated),
    priority: 10
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
        mem_mb=lambda w, attempt: attempt * 8000,
    params:
        origins=origins,
        population=lambda w: untracked(RUN.population(w.population)),
        network=lambda w: RUN.network_inside(w.estimator)[0],
        options=lambda w: untracked(RUN.calibration_options(w.estimator)),
        run_seed=CONFIG.seed,
        # Not an output, because Snakemake deletes outputs before every attempt.
        checkpoint=f"{FOLDER}/calibrations/checkpoints/{{population}}/{{estimator}}/seed{{seed}}.pt",
        depends=lambda w: DIGESTS.calibrate(w.population, w.estimator),
    script:
        "../../scripts/calibrate.py"


# The networks of studies, several in a job: where a training takes seconds, so does the start of a job.
# Snakemake prefers these rules to those with wildcards. By their priorities, the studies come to their verdicts
# one after the other.
for number, (batch, (population, networks)) in enumerate(RUN.batches.items()):

    rule:
        name:
            f"train_{batch}"
        input:
            train=RUN.stamps_of("train", population),
            validation=RUN.stamps_of("validation", population),
            train_catalog=f"{FOLDER}/catalogs/{population}/train.parquet",
            validation_catalog=f"{FOLDER}/catalogs/{population}/validation.parquet",
            encoders=RUN.encoders_of(population, networks),
        output:
            # Not deleted before the job: the script makes those that are missing or changed.
            model=[update(RUN.model_of(population, *network)) for network in networks],
            history=[
                update(RUN.history_of(population, *network)) for network in networks
            ],
        log:
            f"{FOLDER}/logs/train/{batch}.log",
        benchmark:
            f"{FOLDER}/benchmarks/train/{batch}.tsv"
        priority: 10_000 - number
        conda:
            ENVIRONMENT
        resources:
            gpu=1,
            together=1,
            mem_mb=lambda w, attempt: attempt * memory_of_training(),
        params:
            origins=origins,
            population=untracked(RUN.population(population)),
            trainings=untracked(
                [RUN.training(population, *network) for network in networks]
            ),
            depends=DIGESTS.train_all(population, networks),
        script:
            "../../scripts/train.py"

    rule:
        name:
            f"predict_{batch}"
        input:
            stamps=[RUN.stamps_of("test", population)],
            models=[RUN.model_of(population, *network) for network in networks],
        output:
            RUN.estimates_by(population, "test", networks),
        log:
            f"{FOLDER}/logs/predict_study/{batch}.log",
        benchmark:
            f"{FOLDER}/benchmarks/predict_study/{batch}.tsv"
        priority: 10_000 - number
        conda:
            ENVIRONMENT
        params:
            origins=origins,
            population=population,
            gpu_use_path=f"{FOLDER}/benchmarks/predict_study/{batch}.gpu.csv",
            networks=untracked(networks),
            sigmas=[RUN.sigma[noise] for noise in RUN.noise["test"]],
            seed=CONFIG.seed,
            depends=DIGESTS.predict_all(population, "test", networks),
        script:
            "../../scripts/predict.py"


# One short job measures with the networks of all seeds of a variant.
rule predict:
    input:
        stamps=[RUN.stamps_of("test")],
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
        population=lambda w: w.population,
        gpu_use_path=f"{FOLDER}/benchmarks/predict/{{population}}/{{variant}}.gpu.csv",
        networks=lambda w: RUN.of_all_seeds(w.variant),
        sigmas=[RUN.sigma[noise] for noise in RUN.noise["test"]],
        seed=CONFIG.seed,
        depends=lambda w: DIGESTS.predict_all(
            w.population, "test", RUN.of_all_seeds(w.variant)
        ),
    script:
        "../../scripts/predict.py"


use rule predict as predict_shear with:
    input:
        stamps=[RUN.stamps_of(split) for split in PAIRED],
        models=rules.predict.input.models,
    output:
        [
            f"{FOLDER}/estimates/{{population}}/{split}/{noise}/{{variant}}.seed{seed}.parquet"
            for split in PAIRED
            for seed in CONFIG.seeds
            for noise in RUN.noise[split]
        ],
    log:
        f"{FOLDER}/logs/predict_shear/{{population}}/{{variant}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/predict_shear/{{population}}/{{variant}}.tsv"
    params:
        origins=origins,
        population=lambda w: w.population,
        gpu_use_path=f"{FOLDER}/benchmarks/predict_shear/{{population}}/{{variant}}.gpu.csv",
        networks=lambda w: RUN.of_all_seeds(w.variant),
        sigmas=[RUN.sigma[noise] for noise in RUN.noise["shear"]],
        seed=CONFIG.seed,
        depends=lambda w: DIGESTS.predict_shear(
            w.population, RUN.of_all_seeds(w.variant)
        ),


# A study has its own seeds. It may use a variant of the run, whose own seeds the rule above measures with.
ruleorder: predict > predict_study


use rule predict as predict_study with:
    input:
        stamps=[RUN.stamps_of("test")],
        models=rules.train.output.model,
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
        variant=any_of(RUN.variants),
    params:
        origins=origins,
        population=lambda w: w.population,
        gpu_use_path=f"{FOLDER}/benchmarks/predict_study/{{population}}/{{variant}}.seed{{seed}}.gpu.csv",
        networks=lambda w: [(w.variant, int(w.seed))],
        sigmas=[RUN.sigma[noise] for noise in RUN.noise["test"]],
        seed=CONFIG.seed,
        depends=lambda w: DIGESTS.predict_all(
            w.population, "test", [(w.variant, int(w.seed))]
        ),


# The networks have measured the stamps, so that this is arithmetic on tables: one short job has all of them.
rule combine:
    input:
        lambda w: RUN.beside(
            RUN.combined_estimates(w.population, w.estimator), w.estimator
        ),
    output:
        RUN.combined_estimates("{population}", "{estimator}"),
    log:
        f"{FOLDER}/logs/combine/{{population}}/{{estimator}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/combine/{{population}}/{{estimator}}.tsv"
    wildcard_constraints:
        estimator=any_of(RUN.combined),
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        depends=lambda w: DIGESTS.combine(w.population, w.estimator),
    script:
        "../../scripts/combine.py"
