"""Compute how networks do on other populations than they were trained on."""

from shearbench.bounds.cramer_rao import read_bounds
from shearbench.data.catalogs import read_catalog
from shearbench.data.estimates import read_estimates
from shearbench.evaluation.judged import at_home, judged, judged_table
from shearbench.evaluation.metrics import read_metrics
from shearbench.files.text import write_csv
from shearbench.jobs.job import logged

given = snakemake.input


def network_of(estimates):
    """Return the population that estimates are of, their noise level, and the network with its seed."""
    return tuple(estimates.attrs[name] for name in ("population", "sigma", "estimator", "seed"))


with logged(snakemake.log[0]):
    origins = snakemake.params.origins
    catalogs = {
        (table.attrs["population"], table.attrs["split"]): table
        for table in (read_catalog(path, origins[path]) for path in given.catalogs)
    }
    bounds = {
        table.attrs["population"]: table
        for table in (read_bounds(path, origins[path]) for path in given.bounds)
    }
    biases = read_metrics(given.shear_bias, origins[given.shear_bias])
    own = {network_of(table): table for table in (read_estimates(path, origins[path]) for path in given.own)}
    how = {"resamples": snakemake.params.resamples}
    rows = [
        at_home(table, catalogs[name, "test"], bounds[name], biases, **how)
        for (name, *_), table in own.items()
    ]
    for pair in zip(given.test, given.shear, strict=True):
        estimates, sheared = (read_estimates(path, origins[path]) for path in pair)
        name = estimates.attrs["population"]
        splits = (catalogs[name, "test"], catalogs[name, "shear"], bounds[name])
        rows.append(judged(estimates, sheared, own[network_of(estimates)], *splits, biases, **how))
    write_csv(snakemake.output[0], judged_table(rows), origins[snakemake.output[0]])
