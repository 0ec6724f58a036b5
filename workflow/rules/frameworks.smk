"""One small network in NumPy, PyTorch, JAX and Keras: trainings, measurements, tables and figures."""

if CONFIG.frameworks is not None:

    MISSING = unavailable(CONFIG)

    wildcard_constraints:
        framework=any_of(dict.fromkeys(name for name, _ in RUN.frameworks)),
        checkpoint=any_of(RUN.shearnet_checkpoints),

    rule train_framework:
        input:
            train=RUN.stamps_of("train"),
            catalog=f"{FOLDER}/catalogs/{{population}}/train.parquet",
            test=RUN.stamps_of("test"),
        output:
            weights=f"{FOLDER}/frameworks/{{population}}/{{framework}}.seed{{seed}}.h5",
            history=f"{FOLDER}/frameworks/{{population}}/{{framework}}.seed{{seed}}.csv",
            estimates=[
                f"{FOLDER}/estimates/{{population}}/test/{noise}/{{framework}}.seed{{seed}}.parquet"
                for noise in RUN.noise["test"]
            ],
        log:
            f"{FOLDER}/logs/train_framework/{{population}}/{{framework}}.seed{{seed}}.log",
        benchmark:
            f"{FOLDER}/benchmarks/train_framework/{{population}}/{{framework}}.seed{{seed}}.tsv"
        conda:
            lambda w: environment_of(w.framework in MISSING)
        resources:
            mem_mb=lambda w, attempt: attempt * (4000 + 4 * RUN.stamps_mb("train")),
        params:
            origins=origins,
            options=untracked(RUN.framework_options),
            sigmas=[RUN.sigma[noise] for noise in RUN.noise["test"]],
            seed=CONFIG.seed,
            depends=lambda w: DIGESTS.train_framework(w.population, w.framework),
        script:
            "../../scripts/train_framework.py"

    rule measure_checkpoint:
        input:
            test=RUN.stamps_of("test"),
        output:
            [
                f"{FOLDER}/estimates/{{population}}/test/{noise}/{{checkpoint}}.parquet"
                for noise in RUN.noise["test"]
            ],
        log:
            f"{FOLDER}/logs/measure_checkpoint/{{population}}/{{checkpoint}}.log",
        benchmark:
            f"{FOLDER}/benchmarks/measure_checkpoint/{{population}}/{{checkpoint}}.tsv"
        conda:
            lambda w: environment_of(w.checkpoint in MISSING)
        params:
            origins=origins,
            folder=lambda w: RUN.shearnet_checkpoints[w.checkpoint],
            sigmas=[RUN.sigma[noise] for noise in RUN.noise["test"]],
            seed=CONFIG.seed,
            depends=lambda w: DIGESTS.measure_checkpoint(w.population, w.checkpoint),
        script:
            "../../scripts/measure_checkpoint.py"

    rule evaluate_frameworks:
        input:
            accuracy=f"{FOLDER}/metrics/accuracy.csv",
            histories=[path for *_, path in RUN.of_frameworks("csv")],
        output:
            f"{FOLDER}/metrics/frameworks.csv",
        log:
            f"{FOLDER}/logs/evaluate_frameworks.log",
        benchmark:
            f"{FOLDER}/benchmarks/evaluate_frameworks.tsv"
        conda:
            ENVIRONMENT
        params:
            origins=origins,
            networks=untracked([network for *network, _ in RUN.of_frameworks("csv")]),
            checkpoints=list(RUN.shearnet_checkpoints),
            depends=DIGESTS.evaluate_frameworks(),
        script:
            "../../scripts/evaluate_frameworks.py"

    rule measure_precision:
        input:
            weights=RUN.of_populations(
                f"frameworks/{{population}}/numpy.seed{CONFIG.frameworks.seeds[0]}.h5"
            ),
            test=[RUN.stamps_of("test", population) for population in RUN.populations],
            catalogs=RUN.of_populations("catalogs/{population}/test.parquet"),
            bounds=RUN.of_populations("bounds/{population}/test.parquet"),
        output:
            f"{FOLDER}/metrics/frameworks_precision.csv",
        log:
            f"{FOLDER}/logs/measure_precision.log",
        benchmark:
            f"{FOLDER}/benchmarks/measure_precision.tsv"
        conda:
            ENVIRONMENT
        params:
            origins=origins,
            options=untracked(RUN.framework_options),
            sigmas=[RUN.sigma[noise] for noise in RUN.noise["test"]],
            seed=CONFIG.seed,
            resamples=CONFIG.bootstrap,
            depends=DIGESTS.measure_precision(),
        script:
            "../../scripts/measure_precision.py"


rule frameworks:
    input:
        RUN.framework_outputs if CONFIG.frameworks is not None else no_frameworks,
        f"{FOLDER}/config.yaml",
