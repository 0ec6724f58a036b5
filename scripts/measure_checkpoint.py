"""Measure the test split at every noise level with a network that was trained with ShearNet."""

from shearbench.data.estimates import estimates_table, write_estimates
from shearbench.data.stamps import read_stamps
from shearbench.frameworks.shearnet_checkpoint import shapes_of
from shearbench.frameworks.train import measure
from shearbench.jobs.job import logged

with logged(snakemake.log[0]):
    origins, index = snakemake.params.origins, snakemake.input.test
    test = read_stamps(index, origins[index])
    outputs = shapes_of(snakemake.params.folder, test.shape)
    for sigma, path in zip(snakemake.params.sigmas, snakemake.output, strict=True):
        shapes, seconds = measure(outputs, test, sigma, snakemake.params.seed)
        table = estimates_table(shapes, test, sigma, "network", seconds)
        write_estimates(path, table, snakemake.wildcards.checkpoint, origin=origins[path])
