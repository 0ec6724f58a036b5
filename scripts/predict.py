"""Measure the shapes of one split with one trained network, at every noise level."""

from shearbench.job import logged
from shearbench.measurement import estimates_table, write_estimates
from shearbench.stamps import StampSet
from shearbench.training.model_file import load_model
from shearbench.training.prediction import predict

with logged(snakemake.log[0]):
    variant, seed = snakemake.wildcards.variant, int(snakemake.wildcards.seed)
    stamps = StampSet(snakemake.input.stamps)
    model = load_model(snakemake.input.model, variant, snakemake.wildcards.population, seed)
    for sigma, path in zip(snakemake.params.sigmas, snakemake.output):
        shapes, seconds = predict(model, stamps, sigma, snakemake.params.seed, threads=snakemake.threads)
        table = estimates_table(shapes, stamps, sigma, "network", seconds)
        write_estimates(path, table, variant, seed)
