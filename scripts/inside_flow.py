"""Measure gradients, curvature and dead units of a network, and its sensitivity to shifts of a galaxy."""

import torch

from shearbench.data.catalogs import read_catalog
from shearbench.data.stamps import read_stamps
from shearbench.diagnostics.flow import Batch, table_of_curvature, table_of_gradients, table_of_layers
from shearbench.diagnostics.galaxies import Split
from shearbench.diagnostics.shifts import Shifted, table_of_shifts
from shearbench.evaluation.metrics import read_metrics
from shearbench.files.text import write_csv
from shearbench.jobs.job import logged
from shearbench.jobs.torch_settings import torch_settings
from shearbench.tasks.shear.model_file import load_model

STAMPS, SHIFTED = 60, 32

with logged(snakemake.log[0]):
    origins, wildcards = snakemake.params.origins, snakemake.wildcards
    path, index, table = snakemake.input.model, snakemake.input.stamps, snakemake.input.catalog
    history = snakemake.input.history
    model = load_model(path, wildcards.variant, wildcards.population, int(wildcards.seed), origins[path])
    test = Split(read_stamps(index, origins[index]), read_catalog(table, origins[table]))
    sigmas = snakemake.params.sigmas
    with torch_settings(snakemake.threads, 0, torch.device("cpu")):
        batch = Batch.of(test, STAMPS, sigmas, snakemake.params.seed, model.network.targets)
        tables = {
            "flow": table_of_layers(model, batch),
            "gradients": table_of_gradients(model, read_metrics(history, origins[history])),
            "curvature": table_of_curvature(model, batch),
            "shifts": table_of_shifts(model, Shifted.of(test, SHIFTED), sigmas[0]),
        }
    for name, found in tables.items():
        write_csv(snakemake.output[name], found, origins[snakemake.output[name]])
