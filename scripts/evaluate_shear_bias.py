"""Measure m and c of every estimator on the +-shear pairs, before and after calibration."""

from shearbench.catalog import read_catalog
from shearbench.evaluation.shear_bias import shear_bias, shear_bias_table
from shearbench.files import write_csv
from shearbench.job import logged
from shearbench.measurement import read_estimates

with logged(snakemake.log[0]):
    catalogs = {table.attrs["population"]: table for table in map(read_catalog, snakemake.input.catalogs)}
    rows = []
    for path in snakemake.input.estimates:
        estimates = read_estimates(path)
        rows += shear_bias(
            estimates,
            catalogs[estimates.attrs["population"]],
            label=snakemake.params.labels.get(estimates.attrs["estimator"]),
            resamples=snakemake.params.resamples,
            source=path,
        )
    write_csv(snakemake.output[0], shear_bias_table(rows))
