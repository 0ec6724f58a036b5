"""Compare every estimator with the posterior mean, on the galaxies whose posterior was sampled."""

from shearbench.bounds import read_bounds
from shearbench.catalog import read_catalog
from shearbench.evaluation.bayes_floor import bayes_floor, bayes_floor_table
from shearbench.files import read_table, write_csv
from shearbench.job import logged
from shearbench.measurement import read_estimates
from shearbench.posterior import POSTERIOR

with logged(snakemake.log[0]):
    estimates = [read_estimates(path) for path in snakemake.input.estimates]
    rows = []
    for posterior, catalog, bounds in zip(
        snakemake.input.posteriors, snakemake.input.catalogs, snakemake.input.bounds
    ):
        catalog = read_catalog(catalog)
        of_population = [
            (table, snakemake.params.labels.get(table.attrs["estimator"]))
            for table in estimates
            if table.attrs["population"] == catalog.attrs["population"]
        ]
        rows += bayes_floor(
            read_table(posterior, POSTERIOR, "sample_posterior"),
            catalog,
            read_bounds(bounds),
            of_population,
            resamples=snakemake.params.resamples,
        )
    write_csv(snakemake.output[0], bayes_floor_table(rows))
