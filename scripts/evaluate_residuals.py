"""Compute residuals of single galaxies at the lowest noise and their dependence on galaxy properties."""

from shearbench.bounds.cramer_rao import read_bounds
from shearbench.data.catalogs import read_catalog
from shearbench.data.estimates import read_estimates
from shearbench.evaluation.residuals import RESIDUALS, TRENDS, residuals, together, trends
from shearbench.files.tables import write_table
from shearbench.files.text import write_csv
from shearbench.jobs.job import logged

with logged(snakemake.log[0]):
    origins = snakemake.params.origins
    catalogs = {
        table.attrs["population"]: table
        for table in (read_catalog(path, origins[path]) for path in snakemake.input.catalogs)
    }
    bounds = {
        table.attrs["population"]: table
        for table in (read_bounds(path, origins[path]) for path in snakemake.input.bounds)
    }
    single, binned = [], []
    for path in snakemake.input.estimates:
        estimates = read_estimates(path, origins[path])
        population = estimates.attrs["population"]
        label = snakemake.params.labels.get(estimates.attrs["estimator"])
        tables = estimates, catalogs[population], bounds[population]
        if estimates.attrs["seed"] in (None, snakemake.params.first_seed):
            single.append(residuals(*tables, label=label, source=path))
        binned.append(trends(*tables, label=label, source=path))
    of_residuals, of_trends = origins[snakemake.output.residuals], origins[snakemake.output.trends]
    write_table(snakemake.output.residuals, together(single, RESIDUALS), origin=of_residuals)
    write_csv(snakemake.output.trends, together(binned, TRENDS), of_trends)
