"""Compute how much m and c of every estimator change with a PSF or a noise level that is told wrongly."""

from shearbench.data.catalogs import read_catalog
from shearbench.data.estimates import read_estimates
from shearbench.evaluation.model_errors import model_errors, model_errors_table
from shearbench.files.text import write_csv
from shearbench.jobs.job import logged

params = snakemake.params

with logged(snakemake.log[0]):
    origins = params.origins
    catalogs = {
        table.attrs["population"]: table
        for table in (read_catalog(path, origins[path]) for path in snakemake.input.catalogs)
    }
    rows = []
    paths = iter(snakemake.input.misjudged)
    for plain in snakemake.input.estimates:
        estimates = read_estimates(plain, origins[plain])
        for (told, amount), path in zip(params.errors.items(), paths):
            wrong = read_estimates(path, origins[path])
            rows += model_errors(
                estimates.head(len(wrong)),
                wrong,
                catalogs[wrong.attrs["population"]].head(len(wrong)),
                told,
                amount,
                label=params.labels.get(wrong.attrs["estimator"]),
                resamples=params.resamples,
                source=path,
            )
    write_csv(snakemake.output[0], model_errors_table(rows), origins[snakemake.output[0]])
