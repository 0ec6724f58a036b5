"""Evaluation: estimates are compared with true shapes and bounds. Figures and tables read these small files."""


rule evaluate_accuracy:
    input:
        estimates=RUN.all_estimates("test"),
        catalogs=RUN.of_populations("catalogs/{population}/test.parquet"),
        bounds=RUN.of_populations("bounds/{population}/test.parquet"),
    output:
        f"{FOLDER}/metrics/accuracy.csv",
    log:
        f"{FOLDER}/logs/evaluate_accuracy.log",
    benchmark:
        f"{FOLDER}/benchmarks/evaluate_accuracy.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        labels=untracked(RUN.labels),
        resamples=CONFIG.bootstrap,
        depends=DIGESTS.evaluate_accuracy(),
    script:
        "../../scripts/evaluate_accuracy.py"


rule evaluate_shear_bias:
    input:
        estimates=RUN.all_estimates("shear"),
        catalogs=RUN.of_populations("catalogs/{population}/shear.parquet"),
        # For the true signal-to-noise ratio.
        stamps=RUN.of_populations("stamps/{population}/shear/index.json"),
    output:
        table=f"{FOLDER}/metrics/shear_bias.csv",
        bins=f"{FOLDER}/metrics/shear_bias_bins.csv",
        trends=f"{FOLDER}/metrics/shear_trends.csv",
        selection=f"{FOLDER}/metrics/selection.csv",
        shape_noise=f"{FOLDER}/metrics/shape_noise.csv",
        pair_scatter=f"{FOLDER}/metrics/pair_scatter.csv",
    log:
        f"{FOLDER}/logs/evaluate_shear_bias.log",
    benchmark:
        f"{FOLDER}/benchmarks/evaluate_shear_bias.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        labels=untracked(RUN.labels),
        reference=RUN.reference,
        fit=RUN.fit,
        resamples=CONFIG.bootstrap,
        depends=DIGESTS.evaluate_shear_bias(),
    script:
        "../../scripts/evaluate_shear_bias.py"


rule evaluate_psf_leakage:
    input:
        estimates=RUN.all_estimates("leakage"),
        catalogs=RUN.of_populations("catalogs/{population}/leakage.parquet"),
        # The leakage into a calibrated shear is divided by the response.
        shear_bias=rules.evaluate_shear_bias.output.table,
    output:
        f"{FOLDER}/metrics/psf_leakage.csv",
    log:
        f"{FOLDER}/logs/evaluate_psf_leakage.log",
    benchmark:
        f"{FOLDER}/benchmarks/evaluate_psf_leakage.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        labels=untracked(RUN.labels),
        resamples=CONFIG.bootstrap,
        depends=DIGESTS.evaluate_psf_leakage(),
    script:
        "../../scripts/evaluate_psf_leakage.py"


rule evaluate_residuals:
    input:
        estimates=RUN.all_estimates("test", [RUN.lowest]),
        catalogs=RUN.of_populations("catalogs/{population}/test.parquet"),
        bounds=RUN.of_populations("bounds/{population}/test.parquet"),
    output:
        residuals=f"{FOLDER}/metrics/residuals.parquet",
        trends=f"{FOLDER}/metrics/trends.csv",
    log:
        f"{FOLDER}/logs/evaluate_residuals.log",
    benchmark:
        f"{FOLDER}/benchmarks/evaluate_residuals.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        labels=untracked(RUN.labels),
        first_seed=CONFIG.seeds[0],
        depends=DIGESTS.evaluate_residuals(),
    script:
        "../../scripts/evaluate_residuals.py"


rule evaluate_uncertainty:
    input:
        estimates=RUN.all_estimates("test"),
        judged=RUN.all_judged_errors(),
        catalogs=RUN.of_populations("catalogs/{population}/test.parquet"),
        bounds=RUN.of_populations("bounds/{population}/test.parquet"),
    output:
        table=f"{FOLDER}/metrics/uncertainty.csv",
        curves=f"{FOLDER}/metrics/uncertainty_curves.csv",
    log:
        f"{FOLDER}/logs/evaluate_uncertainty.log",
    benchmark:
        f"{FOLDER}/benchmarks/evaluate_uncertainty.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        labels=untracked(RUN.labels),
        judged=untracked(RUN.judged),
        judged_sigmas=[RUN.sigma[noise] for noise in RUN.noise["shear"]],
        untrained=[
            name
            for name in RUN.estimators_on("test")
            if name not in RUN.trained_estimators
        ],
        resamples=CONFIG.bootstrap,
        depends=DIGESTS.evaluate_uncertainty(),
    script:
        "../../scripts/evaluate_uncertainty.py"


# Times and peak memory come from the estimates and from the benchmark files of earlier jobs.
rule evaluate_throughput:
    input:
        estimates=RUN.all_estimates("test") + RUN.ensemble_estimates(),
        stamps=RUN.of_populations("stamps/{population}/test/index.json"),
        bounds=RUN.of_populations("bounds/{population}/test.parquet"),
        histories=[
            f"{FOLDER}/models/{p}/{v}/seed{s}/history.csv" for p, v, s in RUN.models
        ],
    output:
        throughput=f"{FOLDER}/metrics/throughput.csv",
        training=f"{FOLDER}/metrics/training.csv",
    log:
        f"{FOLDER}/logs/evaluate_throughput.log",
    benchmark:
        f"{FOLDER}/benchmarks/evaluate_throughput.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        labels=untracked(RUN.labels),
        benchmarks=f"{FOLDER}/benchmarks",
        populations=RUN.populations,
        chunks=untracked(RUN.chunks("test")),
        models=untracked(RUN.models),
        depends=DIGESTS.evaluate_throughput(),
    script:
        "../../scripts/evaluate_throughput.py"


rule draw_gallery:
    input:
        stamps=RUN.of_populations("stamps/{population}/test/index.json"),
        catalogs=RUN.of_populations("catalogs/{population}/test.parquet"),
    output:
        f"{FOLDER}/metrics/gallery.h5",
    log:
        f"{FOLDER}/logs/draw_gallery.log",
    benchmark:
        f"{FOLDER}/benchmarks/draw_gallery.tsv"
    # After the measurements, because it then finds their fits compiled.
    priority: -1
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        sigmas=sorted(CONFIG.noise_levels),
        seed=CONFIG.seed,
        depends=DIGESTS.draw_gallery(),
    script:
        "../../scripts/draw_gallery.py"
