"""Draw RMSE over the Cramer-Rao bound."""

import pandas as pd

from shearbench.figures.efficiency import draw
from shearbench.figures.style import save
from shearbench.job import logged

with logged(snakemake.log[0]):
    save(draw(*map(pd.read_csv, snakemake.input)), snakemake.output.pdf[0], snakemake.output.png[0])
