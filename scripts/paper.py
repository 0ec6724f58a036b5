"""Write the numbers of a run as LaTeX macros and JSON, and a document with all figures and tables."""

import os

from shearbench.evaluation.metrics import read_metrics
from shearbench.files.text import read_text, write_text
from shearbench.jobs.job import logged
from shearbench.paper.captions import caption, plain
from shearbench.paper.document import main_tex
from shearbench.paper.methods import methods_tex
from shearbench.paper.numbers import collect_numbers, macro_names, macros_tex, numbers_json
from shearbench.studies import Study

with logged(snakemake.log[0]):
    origins = snakemake.params.origins
    accuracy, shear_bias, psf_leakage, throughput = (
        read_metrics(snakemake.input[name], origins[snakemake.input[name]])
        for name in ("accuracy", "shear_bias", "psf_leakage", "throughput")
    )
    folder = os.path.dirname(snakemake.output.main)
    results = os.path.dirname(folder)
    figures = [
        (os.path.relpath(path, folder), caption(text, reads, accuracy, shear_bias))
        for path, text, reads in snakemake.params.figures
    ]
    tables = [os.path.relpath(path, folder) for path in snakemake.input.tables]
    studies = []
    for name, options in snakemake.params.studies.items():
        study = Study(**options)
        table, verdict = (f"{results}/metrics/studies/{name}{end}" for end in (".csv", "_verdict.txt"))
        studies.append((study, read_metrics(table, origins[table])))
        said = read_text(verdict, origins[verdict]).strip()
        answer = f"{study.question} {said} {plain(snakemake.params.study['caption'])}"
        figures.append((f"../figures/study_{name}.pdf", answer))
        tables.append(f"../tables/study_{name}.tex")
    numbers = collect_numbers(accuracy, shear_bias, psf_leakage, throughput, studies)
    write_text(snakemake.output.numbers, numbers_json(numbers), origins[snakemake.output.numbers])
    write_text(snakemake.output.macros, macros_tex(numbers), origins[snakemake.output.macros])
    write_text(
        snakemake.output.main,
        main_tex(
            snakemake.params.run,
            figures,
            tables,
            accuracy,
            macro_names(item.key for item in numbers),
            list(snakemake.params.studies),
            methods_tex(snakemake.params.described),
            shear_bias,
        ),
        origins[snakemake.output.main],
    )
