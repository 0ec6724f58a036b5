"""Draw multiplicative bias of galaxies selected by what was observed of them."""

import pandas as pd

from shearbench.figures.shear_bias_bins import draw
from shearbench.figures.style import save
from shearbench.job import logged

with logged(snakemake.log[0]):
    table = pd.read_csv(snakemake.input[0])
    for population, pdf, png in zip(snakemake.params.populations, snakemake.output.pdf, snakemake.output.png):
        save(draw(table, population), pdf, png)
