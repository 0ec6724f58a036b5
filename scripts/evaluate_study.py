"""Compare the values of a study and write its verdict."""

from shearbench.bounds.cramer_rao import prior_limited, read_bounds
from shearbench.data.catalogs import read_catalog
from shearbench.data.estimates import read_estimates
from shearbench.data.shapes import Flag
from shearbench.evaluation.accuracy import accuracy, accuracy_table, resampled_ratios
from shearbench.evaluation.metrics import read_metrics
from shearbench.evaluation.study import study_table, verdict
from shearbench.files.text import write_csv, write_text
from shearbench.jobs.job import logged
from shearbench.studies import Study

with logged(snakemake.log[0]):
    origins, networks = snakemake.params.origins, snakemake.params.networks
    study, resamples = Study(**snakemake.params.study), snakemake.params.resamples
    catalog = read_catalog(snakemake.input.catalog, origins[snakemake.input.catalog])
    bounds = read_bounds(snakemake.input.bounds, origins[snakemake.input.bounds])
    rows, diverged, resampled = [], set(), {}
    for path in snakemake.input.estimates:
        estimates = read_estimates(path, origins[path])
        network, seed, sigma = (estimates.attrs[name] for name in ("estimator", "seed", "sigma"))
        if (estimates["flag"] == int(Flag.DIVERGED)).all():
            diverged.add((network, seed))
        prior = prior_limited(bounds, catalog, sigma)
        rows.append(accuracy(estimates, catalog, bounds, prior, resamples=resamples, source=path))
        resampled[network, seed, sigma] = resampled_ratios(
            estimates, catalog, bounds, resamples=resamples, source=path
        )
    seconds = {}
    for path in snakemake.input.histories:
        names = origins[path].names
        seconds[names["variant"], names["seed"]] = read_metrics(path, origins[path])["seconds"].max()
    judged = accuracy_table(rows)
    table = study_table(study, networks, judged, diverged, resampled, seconds)
    write_csv(snakemake.output.accuracy, judged, origins[snakemake.output.accuracy])
    write_csv(snakemake.output.table, table, origins[snakemake.output.table])
    write_text(snakemake.output.verdict, verdict(study, table) + "\n", origins[snakemake.output.verdict])
