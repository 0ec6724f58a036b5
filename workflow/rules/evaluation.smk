"""Estimates against truth and bounds: the small tables that everything after this reads."""

NETWORKS = {variant: list(CONFIG.seeds) for variant in CONFIG.variants}
POPULATIONS = list(CONFIG.populations)
MODELS = [
    (population, variant, seed)
    for population in POPULATIONS
    for variant, seeds in NETWORKS.items()
    for seed in seeds
]
LOWEST = noise_label(min(CONFIG.noise_levels))


LABELS = {name: label for name, label in labels(CONFIG).items() if name in ESTIMATORS}


rule evaluate_accuracy:
    input:
        estimates=all_estimates("test"),
        catalogs=expand(
            f"{RUN}/catalogs/{{population}}/test.parquet", population=POPULATIONS
        ),
        bounds=expand(
            f"{RUN}/bounds/{{population}}/test.parquet", population=POPULATIONS
        ),
    output:
        f"{RUN}/metrics/accuracy.csv",
    log:
        f"{RUN}/logs/evaluate_accuracy.log",
    benchmark:
        f"{RUN}/benchmarks/evaluate_accuracy.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=lambda w, input, output: origins(input, output),
        labels=untracked(LABELS),
        resamples=CONFIG.bootstrap,
        depends=digest(estimates_digest("test"), code_of("evaluate_accuracy")),
    script:
        "../../scripts/evaluate_accuracy.py"


rule evaluate_shear_bias:
    input:
        estimates=all_estimates("shear"),
        catalogs=expand(
            f"{RUN}/catalogs/{{population}}/shear.parquet", population=POPULATIONS
        ),
    output:
        table=f"{RUN}/metrics/shear_bias.csv",
        bins=f"{RUN}/metrics/shear_bias_bins.csv",
    log:
        f"{RUN}/logs/evaluate_shear_bias.log",
    benchmark:
        f"{RUN}/benchmarks/evaluate_shear_bias.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=lambda w, input, output: origins(input, output),
        labels=untracked(LABELS),
        resamples=CONFIG.bootstrap,
        depends=digest(estimates_digest("shear"), code_of("evaluate_shear_bias")),
    script:
        "../../scripts/evaluate_shear_bias.py"


rule evaluate_residuals:
    input:
        estimates=all_estimates("test", [LOWEST]),
        catalogs=expand(
            f"{RUN}/catalogs/{{population}}/test.parquet", population=POPULATIONS
        ),
        bounds=expand(
            f"{RUN}/bounds/{{population}}/test.parquet", population=POPULATIONS
        ),
    output:
        residuals=f"{RUN}/metrics/residuals.parquet",
        trends=f"{RUN}/metrics/trends.csv",
    log:
        f"{RUN}/logs/evaluate_residuals.log",
    benchmark:
        f"{RUN}/benchmarks/evaluate_residuals.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=lambda w, input, output: origins(input, output),
        labels=untracked(LABELS),
        first_seed=CONFIG.seeds[0],
        depends=digest(LOWEST, estimates_digest("test"), code_of("evaluate_residuals")),
    script:
        "../../scripts/evaluate_residuals.py"


# Times and peak memory are read from the estimates and from the benchmark files of the jobs before.
rule evaluate_throughput:
    input:
        estimates=all_estimates("test") + ensemble_estimates(),
        stamps=expand(stamps_of("test"), population=POPULATIONS),
        bounds=expand(
            f"{RUN}/bounds/{{population}}/test.parquet", population=POPULATIONS
        ),
        histories=[f"{RUN}/models/{p}/{v}/seed{s}/history.csv" for p, v, s in MODELS],
    output:
        throughput=f"{RUN}/metrics/throughput.csv",
        training=f"{RUN}/metrics/training.csv",
    log:
        f"{RUN}/logs/evaluate_throughput.log",
    benchmark:
        f"{RUN}/benchmarks/evaluate_throughput.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=lambda w, input, output: origins(input, output),
        labels=untracked(LABELS),
        benchmarks=f"{RUN}/benchmarks",
        populations=POPULATIONS,
        chunks=untracked(chunks("test")),
        models=untracked(MODELS),
        depends=digest(
            estimates_digest("test"),
            estimates_digest("shear"),
            code_of("evaluate_throughput"),
        ),
    script:
        "../../scripts/evaluate_throughput.py"


rule draw_gallery:
    input:
        stamps=expand(stamps_of("test"), population=POPULATIONS),
        catalogs=expand(
            f"{RUN}/catalogs/{{population}}/test.parquet", population=POPULATIONS
        ),
    output:
        f"{RUN}/metrics/gallery.h5",
    log:
        f"{RUN}/logs/draw_gallery.log",
    benchmark:
        f"{RUN}/benchmarks/draw_gallery.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=lambda w, input, output: origins(input, output),
        sigmas=sorted(CONFIG.noise_levels),
        seed=CONFIG.seed,
        depends=digest(
            [stamps_digest(population, "test") for population in POPULATIONS],
            sorted(CONFIG.noise_levels),
            CONFIG.seed,
            code_of("draw_gallery"),
        ),
    script:
        "../../scripts/draw_gallery.py"
