"""Measure the same stamps with PSFs or a noise level that trained networks are told wrongly."""

from itertools import product

from shearbench.data.catalogs import read_catalog
from shearbench.data.estimates import estimates_table, write_estimates
from shearbench.data.stamps import read_stamps
from shearbench.jobs.gpu_use import recorded_gpu_use
from shearbench.jobs.job import logged
from shearbench.simulation.misjudged import misjudged
from shearbench.simulation.populations import Population
from shearbench.tasks.shear.model_file import load_model
from shearbench.tasks.shear.prediction import predict

params = snakemake.params

with logged(snakemake.log[0]), recorded_gpu_use(params.gpu_use_path):
    origins = params.origins
    stamps = read_stamps(snakemake.input.stamps, origins[snakemake.input.stamps])
    catalog = read_catalog(snakemake.input.catalog, origins[snakemake.input.catalog]).head(params.stamps)
    population = Population(**params.population)
    wrong = [misjudged(stamps, catalog, population, *error) for error in params.errors.items()]
    models = [
        load_model(path, variant, snakemake.wildcards.population, seed, origins[path])
        for (variant, seed), path in zip(params.networks, snakemake.input.models, strict=True)
    ]
    wanted = product(zip(params.networks, models), params.sigmas, wrong)
    for (((variant, seed), model), sigma, told), path in zip(wanted, snakemake.output, strict=True):
        shapes, seconds = predict(model, told, sigma, params.seed, threads=snakemake.threads)
        table = estimates_table(shapes, told, sigma, "network", seconds)
        write_estimates(path, table, variant, seed, origins[path])
