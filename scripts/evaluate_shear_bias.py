"""Compute m and c of every estimator from pairs of opposite shear, before and after calibration."""

from shearbench.data.catalogs import read_catalog
from shearbench.data.estimates import read_estimates
from shearbench.evaluation.shear_bias import shear_bias, shear_bias_table
from shearbench.evaluation.shear_bias_bins import shear_bias_bins, shear_bias_bins_table
from shearbench.files.text import write_csv
from shearbench.jobs.job import logged

with logged(snakemake.log[0]):
    origins = snakemake.params.origins
    catalogs = {
        table.attrs["population"]: table
        for table in (read_catalog(path, origins[path]) for path in snakemake.input.catalogs)
    }
    rows, bins = [], []
    for path in snakemake.input.estimates:
        estimates = read_estimates(path, origins[path])
        # Some slow estimators measure the first galaxies only.
        catalog = catalogs[estimates.attrs["population"]].head(len(estimates))
        how = {
            "label": snakemake.params.labels.get(estimates.attrs["estimator"]),
            "resamples": snakemake.params.resamples,
            "source": path,
        }
        rows += shear_bias(estimates, catalog, **how)
        bins += shear_bias_bins(estimates, catalog, **how)
    write_csv(snakemake.output.table, shear_bias_table(rows), origins[snakemake.output.table])
    write_csv(snakemake.output.bins, shear_bias_bins_table(bins), origins[snakemake.output.bins])
