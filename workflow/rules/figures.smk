"""Figures. They read files in ``metrics/`` only, so they can be redrawn in seconds from a copy of that folder."""

for name, figure in {**RUN.figures, **RUN.figures_of_sections}.items():

    rule:
        name:
            f"figure_{name}"
        input:
            figure.sources,
        output:
            pdf=figure.files("pdf"),
            png=[
                report(
                    path,
                    caption="../report/figure.rst",
                    category=figure.entry.category,
                    labels={
                        "figure": name.replace("_", " "),
                        "population": population,
                    },
                )
                for path, population in zip(
                    figure.files("png"), figure.populations or ["all"]
                )
            ],
        log:
            f"{FOLDER}/logs/figure_{name}.log",
        benchmark:
            f"{FOLDER}/benchmarks/figure_{name}.tsv"
        conda:
            ENVIRONMENT
        params:
            origins=origins,
            figure=name,
            arguments=figure.arguments,
            entry=untracked(asdict(figure.entry)),
            depends=DIGESTS.figure(name),
        script:
            "../../scripts/draw_figure.py"


rule figures:
    input:
        RUN.figure_files,
