"""Draw the training curves."""

import pandas as pd

from shearbench.figures.style import save
from shearbench.figures.training import draw
from shearbench.job import logged

with logged(snakemake.log[0]):
    save(draw(pd.read_csv(snakemake.input[0])), snakemake.output.pdf[0], snakemake.output.png[0])
