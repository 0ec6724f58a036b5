"""Measure the shapes of some splits with trained networks, at every noise level."""

from itertools import product

from shearbench.data.estimates import estimates_table, write_estimates
from shearbench.data.stamps import read_stamps
from shearbench.jobs.gpu_use import recorded_gpu_use
from shearbench.jobs.job import logged
from shearbench.tasks.shear.model_file import load_model
from shearbench.tasks.shear.prediction import predict

params = snakemake.params

with logged(snakemake.log[0]), recorded_gpu_use(params.gpu_use_path):
    origins, population = params.origins, params.population
    splits = [read_stamps(path, origins[path]) for path in snakemake.input.stamps]
    models = [
        load_model(path, variant, population, seed, origins[path])
        for (variant, seed), path in zip(params.networks, snakemake.input.models, strict=True)
    ]
    wanted = product(splits, zip(params.networks, models), params.sigmas)
    for (stamps, ((variant, seed), model), sigma), path in zip(wanted, snakemake.output, strict=True):
        elsewhere = stamps.population != population
        how = {"threads": snakemake.threads, "elsewhere": elsewhere}
        shapes, seconds = predict(model, stamps, sigma, params.seed, **how)
        table = estimates_table(shapes, stamps, sigma, "network", seconds)
        if elsewhere:
            table.attrs["trained_on"] = population
        write_estimates(path, table, variant, seed, origins[path])
