"""Measure the shapes of one split at one noise level with one estimator."""

from shearbench.estimators import make_estimator
from shearbench.job import logged
from shearbench.measurement import measure_stamps, write_estimates
from shearbench.stamps import StampSet

with logged(snakemake.log[0]):
    table = measure_stamps(
        make_estimator(snakemake.params.options),
        StampSet(snakemake.input),
        snakemake.params.sigma,
        snakemake.params.seed,
        processes=snakemake.threads,
    )
    write_estimates(snakemake.output[0], table, snakemake.wildcards.estimator)
