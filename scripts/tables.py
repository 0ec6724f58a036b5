"""Write the metrics as LaTeX tables."""

import pandas as pd

from shearbench.files import write_text
from shearbench.job import logged
from shearbench.paper.tables import (
    accuracy_tex,
    estimators_tex,
    networks_tex,
    shear_bias_tex,
    throughput_tex,
)

with logged(snakemake.log[0]):
    accuracy = pd.read_csv(snakemake.input.accuracy)
    shear_bias = pd.read_csv(snakemake.input.shear_bias)
    write_text(snakemake.output.accuracy, accuracy_tex(accuracy))
    write_text(snakemake.output.shear_bias, shear_bias_tex(shear_bias))
    write_text(snakemake.output.estimators, estimators_tex(accuracy, shear_bias))
    write_text(snakemake.output.throughput, throughput_tex(pd.read_csv(snakemake.input.throughput)))
    write_text(snakemake.output.networks, networks_tex(pd.read_csv(snakemake.input.networks)))
