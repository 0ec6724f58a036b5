"""Compute whether the errors that estimators give are right, also outside the population of the training."""

from shearbench.bounds.cramer_rao import read_bounds
from shearbench.data.catalogs import read_catalog
from shearbench.data.estimates import read_estimates
from shearbench.evaluation.uncertainty import curves_table, stated_errors, uncertainty, uncertainty_table
from shearbench.files.text import write_csv
from shearbench.jobs.job import logged

params, given = snakemake.params, snakemake.input

with logged(snakemake.log[0]):
    origins = params.origins
    catalogs = {
        table.attrs["population"]: table
        for table in (read_catalog(path, origins[path]) for path in given.catalogs)
    }
    bounds = {
        table.attrs["population"]: table
        for table in (read_bounds(path, origins[path]) for path in given.bounds)
    }

    def read(path):
        """Return the errors that a file of estimates states, and the population of the training."""
        table = read_estimates(path, origins[path])
        about = table.attrs
        label = params.labels.get(about["estimator"])
        tables = table, catalogs[about["population"]], bounds[about["population"]]
        return stated_errors(*tables, label=label, source=path), about.get("trained_on", about["population"])

    def key(stated, population=None):
        """Return population (another one, if it is given), noise level, estimator and seed."""
        who = stated.who
        return population or who["population"], who["noise"], who["estimator"], who["seed"]

    own = {key(stated): stated for stated, _ in map(read, given.estimates)}
    cases = [(stated, None) for stated in own.values()]
    cases += [(stated, own[key(stated, trained)]) for stated, trained in map(read, given.judged)]
    # Estimators without a training, for comparison: how much do other galaxies change the errors of a fit?
    cases += [
        (stated, own[key(stated, trained)])
        for trained, population in params.judged
        for stated in own.values()
        if stated.who["population"] == population
        and stated.who["estimator"] in params.untrained
        and stated.who["noise"] in params.judged_sigmas
    ]
    rows, curves = [], []
    for stated, home in cases:
        found = uncertainty(stated, home, resamples=params.resamples)
        rows += found[0]
        curves += found[1]
    table, points = snakemake.output.table, snakemake.output.curves
    write_csv(table, uncertainty_table(rows), origins[table])
    write_csv(points, curves_table(curves), origins[points])
