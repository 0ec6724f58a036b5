"""Draw one of the figures of `shearbench.figures`."""

import importlib
from pathlib import Path

import pandas as pd

from shearbench.figures.style import save
from shearbench.job import logged

READERS = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".h5": str}

with logged(snakemake.log[0]):
    draw = importlib.import_module(f"shearbench.figures.{snakemake.params.figure}").draw
    tables = [READERS[Path(path).suffix](path) for path in snakemake.input]
    # One drawing for each list of further arguments: a population, or a study's question and name.
    outputs = zip(snakemake.params.arguments, snakemake.output.pdf, snakemake.output.png, strict=True)
    for arguments, pdf, png in outputs:
        save(draw(*tables, *arguments), pdf, png)
