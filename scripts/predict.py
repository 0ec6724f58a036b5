"""Measure the shapes of one split with the trained networks of a variant, at every noise level."""

from itertools import product

from shearbench.data.estimates import estimates_table, write_estimates
from shearbench.data.stamps import read_stamps
from shearbench.jobs.gpu_use import recorded_gpu_use
from shearbench.jobs.job import logged
from shearbench.tasks.shear.model_file import load_model
from shearbench.tasks.shear.prediction import predict

with logged(snakemake.log[0]), recorded_gpu_use(snakemake.params.gpu_use_path):
    origins = snakemake.params.origins
    population, variant = snakemake.wildcards.population, snakemake.wildcards.variant
    stamps = read_stamps(snakemake.input.stamps, origins[snakemake.input.stamps])
    models = [
        load_model(path, variant, population, seed, origins[path])
        for seed, path in zip(snakemake.params.seeds, snakemake.input.models)
    ]
    wanted = product(zip(snakemake.params.seeds, models), snakemake.params.sigmas)
    for ((seed, model), sigma), path in zip(wanted, snakemake.output):
        shapes, seconds = predict(model, stamps, sigma, snakemake.params.seed, threads=snakemake.threads)
        table = estimates_table(shapes, stamps, sigma, "network", seconds)
        write_estimates(path, table, variant, seed, origins[path])
