"""Compare every estimator with the posterior mean, on the galaxies whose posterior was sampled."""

from shearbench.bounds.bayes_floor import read_posterior
from shearbench.bounds.cramer_rao import read_bounds
from shearbench.data.catalogs import read_catalog
from shearbench.data.estimates import read_estimates
from shearbench.evaluation.bayes_floor import bayes_floor, bayes_floor_table
from shearbench.files.text import write_csv
from shearbench.jobs.job import logged

with logged(snakemake.log[0]):
    origins = snakemake.params.origins
    estimates = [read_estimates(path, origins[path]) for path in snakemake.input.estimates]
    rows = []
    for posterior, catalog, bounds in zip(
        snakemake.input.posteriors, snakemake.input.catalogs, snakemake.input.bounds
    ):
        catalog = read_catalog(catalog, origins[catalog])
        of_population = [
            (table, snakemake.params.labels.get(table.attrs["estimator"]))
            for table in estimates
            if table.attrs["population"] == catalog.attrs["population"]
        ]
        rows += bayes_floor(
            read_posterior(posterior, origins[posterior]),
            catalog,
            read_bounds(bounds, origins[bounds]),
            of_population,
            resamples=snakemake.params.resamples,
        )
    write_csv(snakemake.output[0], bayes_floor_table(rows), origins[snakemake.output[0]])
