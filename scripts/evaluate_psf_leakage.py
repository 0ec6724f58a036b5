"""Compute how much of the PSF's shape is left in the shear that every estimator measures."""

from shearbench.data.catalogs import read_catalog
from shearbench.data.estimates import read_estimates
from shearbench.evaluation.metrics import read_metrics
from shearbench.evaluation.psf_leakage import psf_leakage, psf_leakage_table
from shearbench.files.text import write_csv
from shearbench.jobs.job import logged

with logged(snakemake.log[0]):
    origins = snakemake.params.origins
    catalogs = {
        table.attrs["population"]: table
        for table in (read_catalog(path, origins[path]) for path in snakemake.input.catalogs)
    }
    shear_bias = read_metrics(snakemake.input.shear_bias, origins[snakemake.input.shear_bias])
    rows = []
    for path in snakemake.input.estimates:
        estimates = read_estimates(path, origins[path])
        # Some slow estimators measure the first galaxies only.
        catalog = catalogs[estimates.attrs["population"]].head(len(estimates))
        rows += psf_leakage(
            estimates,
            catalog,
            shear_bias,
            label=snakemake.params.labels.get(estimates.attrs["estimator"]),
            resamples=snakemake.params.resamples,
            source=path,
        )
    write_csv(snakemake.output[0], psf_leakage_table(rows), origins[snakemake.output[0]])
