"""Write the metrics as LaTeX tables."""

from shearbench.evaluation.metrics import read_metrics
from shearbench.files.text import write_text
from shearbench.jobs.job import logged
from shearbench.paper.tables import (
    accuracy_tex,
    estimators_tex,
    networks_tex,
    shear_bias_tex,
    throughput_tex,
)

with logged(snakemake.log[0]):
    origins = snakemake.params.origins
    accuracy, shear_bias, psf_leakage, throughput, networks = (
        read_metrics(snakemake.input[name], origins[snakemake.input[name]])
        for name in ("accuracy", "shear_bias", "psf_leakage", "throughput", "networks")
    )
    written = {
        snakemake.output.accuracy: accuracy_tex(accuracy),
        snakemake.output.shear_bias: shear_bias_tex(shear_bias),
        snakemake.output.estimators: estimators_tex(accuracy, shear_bias, psf_leakage),
        snakemake.output.throughput: throughput_tex(throughput),
        snakemake.output.networks: networks_tex(networks),
    }
    for path, text in written.items():
        write_text(path, text, origins[path])
