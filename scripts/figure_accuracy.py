"""Draw RMSE against noise: the headline."""

import pandas as pd

from shearbench.figures.accuracy import draw
from shearbench.figures.style import save
from shearbench.job import logged

with logged(snakemake.log[0]):
    save(draw(*map(pd.read_csv, snakemake.input)), snakemake.output.pdf[0], snakemake.output.png[0])
