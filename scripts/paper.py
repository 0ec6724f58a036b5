"""Write every number a text would quote, as macros and as JSON, and a document that shows all there is."""

import os

import pandas as pd

from shearbench.files import write_text
from shearbench.job import logged
from shearbench.paper.captions import caption, plain
from shearbench.paper.document import main_tex
from shearbench.paper.numbers import collect_numbers, macro_names, macros_tex, numbers_json
from shearbench.studies import Study

with logged(snakemake.log[0]):
    accuracy, shear_bias, throughput = (
        pd.read_csv(snakemake.input[name]) for name in ("accuracy", "shear_bias", "throughput")
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
        studies.append((study, pd.read_csv(f"{results}/metrics/studies/{name}.csv")))
        with open(f"{results}/metrics/studies/{name}_verdict.txt", encoding="utf-8") as file:
            answer = f"{study.question} {file.read().strip()} {plain(snakemake.params.study['caption'])}"
        figures.append((f"../figures/study_{name}.pdf", answer))
        tables.append(f"../tables/study_{name}.tex")
    numbers = collect_numbers(accuracy, shear_bias, throughput, studies)
    write_text(snakemake.output.numbers, numbers_json(numbers))
    write_text(snakemake.output.macros, macros_tex(numbers))
    write_text(
        snakemake.output.main,
        main_tex(
            snakemake.params.run,
            figures,
            tables,
            accuracy,
            macro_names(item.key for item in numbers),
            list(snakemake.params.studies),
        ),
    )
