"""Sample the posterior of the shapes of some test galaxies at every noise level."""

import torch

from shearbench.bounds.bayes_floor import sample_posterior
from shearbench.data.catalogs import read_catalog
from shearbench.data.stamps import read_stamps
from shearbench.files.tables import write_table
from shearbench.jobs.job import logged
from shearbench.jobs.torch_settings import torch_settings
from shearbench.simulation.populations import Population

with logged(snakemake.log[0]), torch_settings(snakemake.threads, 0, torch.device("cpu")):
    origins = snakemake.params.origins
    catalog = read_catalog(snakemake.input.catalog, origins[snakemake.input.catalog])
    table = sample_posterior(
        read_stamps(snakemake.input.stamps, origins[snakemake.input.stamps]),
        catalog,
        Population(**snakemake.params.population),
        snakemake.params.sigmas,
        snakemake.params.galaxies,
        snakemake.params.samples,
        snakemake.params.seed,
    )
    write_table(
        snakemake.output[0],
        table,
        {"population": catalog.attrs["population"]},
        origins[snakemake.output[0]],
    )
