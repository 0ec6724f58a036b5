"""Measure the shapes of one split at one noise level with one estimator."""

from shearbench.estimators import make_estimator
from shearbench.job import logged
from shearbench.measurement import measure_stamps, write_estimates
from shearbench.stamps import StampSet, read_index

with logged(snakemake.log[0]):
    options = snakemake.params.options
    if snakemake.input.get("network"):
        options = {**options, "network_file": snakemake.input.network}
    table = measure_stamps(
        make_estimator(options),
        StampSet(read_index(snakemake.input.stamps)),
        snakemake.params.sigma,
        snakemake.params.seed,
        processes=snakemake.threads,
        stamps=snakemake.params.stamps,
    )
    write_estimates(snakemake.output[0], table, snakemake.wildcards.estimator)
