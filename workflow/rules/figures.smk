"""Figures: each reads metrics and nothing else, so all are redrawn in seconds, wherever the metrics are."""

METRICS = f"{RUN}/metrics"
ENTRIES = entries()
# Metrics that a run without networks, or without a floor, has nothing for.
EMPTY_METRICS = {
    *([] if NETWORKS else ["training.csv", "networks.csv", "network_layers.csv"]),
    *([] if BAYES_FLOOR else ["bayes_floor.csv"]),
}

FIGURES = []
FIGURE_READS = {}
FIGURE_FILES = {}
DRAWN = {}  # which population a figure is of
FIGURE_CODE = {
    figure: code_of("draw_figure", [f"shearbench.figures.{figure}"])
    for figure in ENTRIES
}

for figure, entry in ENTRIES.items():
    if entry.each == "study" or EMPTY_METRICS & {*entry.reads}:
        continue
    sources = [
        f"{METRICS}/{name}"
        for name in (*entry.reads, *entry.reads_if_made)
        if name not in EMPTY_METRICS
    ]
    names = POPULATIONS if entry.each == "population" else []
    paths = [f"{RUN}/figures/{figure}_{name}" for name in names] or [
        f"{RUN}/figures/{figure}"
    ]
    for path, population in zip(paths, names):
        if path in DRAWN:
            raise WorkflowError(
                "The configuration is wrong, and nothing was started.\n"
                f"populations: '{DRAWN[path]}' and '{population}' would both have a figure called "
                f"{os.path.basename(path)}; give one of them another name"
            )
        DRAWN[path] = population
    FIGURES += [f"{path}.{suffix}" for path in paths for suffix in ("pdf", "png")]
    FIGURE_READS[figure] = sources
    FIGURE_FILES[figure] = [f"{path}.pdf" for path in paths]

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
                    caption="../report/figure.rst",
                    category=entry.category,
                    labels={
                        "figure": figure.replace("_", " "),
                        "population": population,
                    },
                )
                for path, population in zip(paths, names or ["all"])
            ],
        log:
            f"{RUN}/logs/figure_{figure}.log",
        benchmark:
            f"{RUN}/benchmarks/figure_{figure}.tsv"
        conda:
            ENVIRONMENT
        params:
            origins=lambda w, input, output: origins(input, output),
            figure=figure,
            arguments=[[name] for name in names] or [[]],
            entry=untracked(asdict(entry)),
            depends=digest(
                [metrics_digest(path) for path in sources],
                FIGURE_CODE[figure],
            ),
        script:
            "../../scripts/draw_figure.py"


rule figures:
    input:
        FIGURES,
