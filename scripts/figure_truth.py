"""Draw predicted against true shapes at the lowest noise."""

import pandas as pd

from shearbench.figures.style import save
from shearbench.figures.truth import draw
from shearbench.job import logged

with logged(snakemake.log[0]):
    table = pd.read_parquet(snakemake.input[0])
    for population, pdf, png in zip(snakemake.params.populations, snakemake.output.pdf, snakemake.output.png):
        save(draw(table, population), pdf, png)
