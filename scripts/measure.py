"""Measure the shapes of some splits at one noise level with one estimator."""

from shearbench.data.estimates import write_estimates
from shearbench.data.stamps import read_stamps
from shearbench.estimators import make_estimator
from shearbench.files.origin import read_origin
from shearbench.jobs.job import logged
from shearbench.measurement.running import measure_stamps

with logged(snakemake.log[0]):
    origins = snakemake.params.origins
    options = snakemake.params.options
    if snakemake.input.get("network"):
        origins[snakemake.input.network].check(snakemake.input.network, read_origin(snakemake.input.network))
        options = {**options, "network_file": snakemake.input.network}
    for index, path in zip(snakemake.input.stamps, snakemake.output, strict=True):
        table = measure_stamps(
            make_estimator(options),
            read_stamps(index, origins[index]),
            snakemake.params.sigma,
            snakemake.params.seed,
            processes=snakemake.threads,
            stamps=snakemake.params.stamps,
        )
        if snakemake.params.trained_on:
            table.attrs["trained_on"] = snakemake.params.trained_on
        write_estimates(path, table, snakemake.wildcards.estimator, origin=origins[path])
