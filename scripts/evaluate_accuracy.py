"""Compute the errors of every estimator on the test galaxies, and compare them with the bounds."""

from shearbench.bounds.cramer_rao import prior_limited, read_bounds
from shearbench.data.catalogs import read_catalog
from shearbench.data.estimates import read_estimates
from shearbench.evaluation.accuracy import accuracy, accuracy_table
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
    priors: dict = {}
    rows = []
    for path in snakemake.input.estimates:
        estimates = read_estimates(path, origins[path])
        population, sigma = estimates.attrs["population"], estimates.attrs["sigma"]
        if (population, sigma) not in priors:
            priors[population, sigma] = prior_limited(bounds[population], catalogs[population], sigma)
        rows.append(
            accuracy(
                estimates,
                catalogs[population],
                bounds[population],
                priors[population, sigma],
                label=snakemake.params.labels.get(estimates.attrs["estimator"]),
                resamples=snakemake.params.resamples,
                source=path,
            )
        )
    write_csv(snakemake.output[0], accuracy_table(rows), origins[snakemake.output[0]])
