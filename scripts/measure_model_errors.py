"""Measure the same stamps with PSFs or a noise level that one estimator is told wrongly."""

from shearbench.data.catalogs import read_catalog
from shearbench.data.estimates import write_estimates
from shearbench.data.stamps import read_stamps
from shearbench.estimators import make_estimator
from shearbench.files.origin import read_origin
from shearbench.jobs.job import logged
from shearbench.measurement.running import measure_stamps
from shearbench.simulation.misjudged import misjudged
from shearbench.simulation.populations import Population

params = snakemake.params

with logged(snakemake.log[0]):
    origins, options = params.origins, params.options
    if snakemake.input.get("network"):
        origins[snakemake.input.network].check(snakemake.input.network, read_origin(snakemake.input.network))
        options = {**options, "network_file": snakemake.input.network}
    stamps = read_stamps(snakemake.input.stamps, origins[snakemake.input.stamps])
    catalog = read_catalog(snakemake.input.catalog, origins[snakemake.input.catalog]).head(params.stamps)
    for (told, amount), path in zip(params.errors.items(), snakemake.output, strict=True):
        table = measure_stamps(
            make_estimator(options),
            misjudged(stamps, catalog, Population(**params.population), told, amount),
            params.sigma,
            params.seed,
            processes=snakemake.threads,
        )
        write_estimates(path, table, snakemake.wildcards.estimator, origin=origins[path])
