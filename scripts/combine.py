"""Combine the estimates of the members of an ensemble, file by file."""

from shearbench.data.estimates import read_estimates, write_estimates
from shearbench.files.tables import read_table, write_table
from shearbench.jobs.job import logged
from shearbench.measurement.ensemble import combined

with logged(snakemake.log[0]):
    origins, given, written = snakemake.params.origins, snakemake.input, snakemake.output
    several = len(given) // len(written)
    for k, path in enumerate(written):
        members = given[k * several : (k + 1) * several]
        if snakemake.wildcards.get("observation"):  # a user's stamps have no attributes
            tables = [read_table(one, (), "measure_observation", expected=origins[one]) for one in members]
            write_table(path, combined(tables), origin=origins[path])
        else:
            table = combined([read_estimates(one, origins[one]) for one in members])
            write_estimates(path, table, snakemake.wildcards.estimator, origin=origins[path])
