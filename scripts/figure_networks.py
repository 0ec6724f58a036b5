"""Draw the layers of every network, with its size, its cost and its view."""

import pandas as pd

from shearbench.figures.networks import draw
from shearbench.figures.style import save
from shearbench.job import logged

with logged(snakemake.log[0]):
    networks, layers = map(pd.read_csv, snakemake.input)
    save(draw(networks, layers), snakemake.output.pdf[0], snakemake.output.png[0])
