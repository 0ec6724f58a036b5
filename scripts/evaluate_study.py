"""Compare the values of a study and write its verdict."""

from shearbench.bounds.cramer_rao import prior_limited, read_bounds
from shearbench.data.catalogs import read_catalog
from shearbench.data.estimates import read_estimates
from shearbench.data.shapes import Flag
from shearbench.evaluation.accuracy import accuracy, accuracy_table
from shearbench.evaluation.study import study_table, verdict
from shearbench.files.text import write_csv, write_text
from shearbench.jobs.job import logged
from shearbench.studies import Study

with logged(snakemake.log[0]):
    origins = snakemake.params.origins
    study = Study(**snakemake.params.study)
    catalog = read_catalog(snakemake.input.catalog, origins[snakemake.input.catalog])
    bounds = read_bounds(snakemake.input.bounds, origins[snakemake.input.bounds])
    rows, diverged = [], set()
    for path in snakemake.input.estimates:
        estimates = read_estimates(path, origins[path])
        if (estimates["flag"] == int(Flag.DIVERGED)).all():
            diverged.add((estimates.attrs["estimator"], estimates.attrs["seed"]))
        prior = prior_limited(bounds, catalog, estimates.attrs["sigma"])
        rows.append(
            accuracy(estimates, catalog, bounds, prior, resamples=snakemake.params.resamples, source=path)
        )
    table = study_table(study, snakemake.params.networks, judged := accuracy_table(rows), diverged)
    write_csv(snakemake.output.accuracy, judged, origins[snakemake.output.accuracy])
    write_csv(snakemake.output.table, table, origins[snakemake.output.table])
    write_text(snakemake.output.verdict, verdict(study, table) + "\n", origins[snakemake.output.verdict])
