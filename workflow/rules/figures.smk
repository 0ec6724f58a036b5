"""Figures: each reads metrics and nothing else, so all are redrawn in seconds, wherever the metrics are."""

METRICS = f"{RUN}/metrics"
# What each figure reads, whether there is one for each population, and where the report shows it.
FIGURE_SOURCES = {
    "accuracy": ([f"{METRICS}/accuracy.csv", *BAYES_FLOOR], False, "1. Accuracy"),
    "efficiency": ([f"{METRICS}/accuracy.csv", *BAYES_FLOOR], False, "1. Accuracy"),
    "decomposition": ([f"{METRICS}/accuracy.csv"], True, "1. Accuracy"),
    "truth": ([f"{METRICS}/residuals.parquet"], True, "2. Residuals"),
    "residuals": ([f"{METRICS}/residuals.parquet"], True, "2. Residuals"),
    "trends": ([f"{METRICS}/trends.csv"], True, "2. Residuals"),
    "shear_bias": ([f"{METRICS}/shear_bias.csv"], True, "3. Shear bias"),
    "shear_bias_bins": ([f"{METRICS}/shear_bias_bins.csv"], True, "3. Shear bias"),
    "training": ([f"{METRICS}/training.csv"], False, "4. Networks"),
    "networks": (
        [f"{METRICS}/networks.csv", f"{METRICS}/network_layers.csv"],
        False,
        "4. Networks",
    ),
    "gallery": ([f"{METRICS}/gallery.h5"], True, "5. Stamps"),
    "cost": ([f"{METRICS}/accuracy.csv"], False, "6. Cost"),
}
# A run without networks has none to draw.
if not NETWORKS:
    del FIGURE_SOURCES["training"], FIGURE_SOURCES["networks"]

FIGURES = []
FIGURE_FILES = {}
FIGURE_CODE = {}

for figure, (sources, per_population, category) in FIGURE_SOURCES.items():
    names = [f"{figure}_{p}" for p in POPULATIONS] if per_population else [figure]
    paths = [f"{RUN}/figures/{name}" for name in names]
    FIGURES += [f"{path}.{suffix}" for path in paths for suffix in ("pdf", "png")]
    FIGURE_FILES[figure] = [f"{path}.pdf" for path in paths]
    FIGURE_CODE[figure] = code_of(f"figure_{figure}")

    rule:
        name:
            f"figure_{figure}"
        input:
            sources,
        output:
            pdf=[f"{path}.pdf" for path in paths],
            png=[
                report(
                    f"{path}.png",
                    caption=f"../report/{figure}.rst",
                    category=category,
                    labels={
                        "figure": figure.replace("_", " "),
                        "population": population,
                    },
                )
                for path, population in zip(
                    paths, POPULATIONS if per_population else ["all"]
                )
            ],
        log:
            f"{RUN}/logs/figure_{figure}.log",
        benchmark:
            f"{RUN}/benchmarks/figure_{figure}.tsv"
        conda:
            ENVIRONMENT
        params:
            figure=figure,
            populations=POPULATIONS if per_population else [],
            depends=digest(
                [metrics_digest(path) for path in sources],
                FIGURE_CODE[figure],
            ),
        script:
            # Read when the job runs, when the loop has long ended: a name by way of params stays what it is.
            "../../scripts/figure_{params.figure}.py"


rule figures:
    input:
        FIGURES,
