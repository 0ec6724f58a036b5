"""Join the estimates of a user's galaxies: the catalogue, and the shear of the ensemble."""

from shearbench.evaluation.metrics import read_metrics
from shearbench.evaluation.own_stamps import Measured, results_of, write_fits
from shearbench.files.tables import read_table, write_table
from shearbench.jobs.job import logged

with logged(snakemake.log[0]):
    params, origins, given = snakemake.params, snakemake.params.origins, snakemake.input

    def read(path, rule="measure_observation"):
        return read_table(path, (), rule, expected=origins[path])

    measured = [
        Measured(column, estimator, params.labels.get(estimator, estimator), kind, seed, read(path))
        for (column, estimator, kind, seed), path in zip(params.measurers, given.estimates, strict=True)
    ]
    tables = results_of(
        snakemake.wildcards.observation,
        params.population,
        read(given.galaxies, "observe"),
        read(given.simulated, "observe"),
        tuple(params.noise),
        measured,
        read_metrics(given.shear_bias, origins[given.shear_bias]),
        params.resamples,
    )
    write_fits(snakemake.output.fits, tables[0])
    for name, table in zip(("parquet", "shapes", "shear"), tables, strict=True):
        write_table(snakemake.output[name], table, origin=origins[snakemake.output[name]])
