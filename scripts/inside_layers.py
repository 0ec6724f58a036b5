"""Measure the information that each layer of a trained network holds, and what can be read from it."""

import torch

from shearbench.data.catalogs import read_catalog
from shearbench.data.stamps import read_stamps
from shearbench.diagnostics.galaxies import Galaxies, Split
from shearbench.diagnostics.layers import table_of_layers
from shearbench.files.text import write_csv
from shearbench.jobs.job import logged
from shearbench.jobs.torch_settings import torch_settings
from shearbench.tasks.shear.model_file import load_model

with logged(snakemake.log[0]):
    origins, wildcards = snakemake.params.origins, snakemake.wildcards
    path = snakemake.input.model
    model = load_model(path, wildcards.variant, wildcards.population, int(wildcards.seed), origins[path])
    splits = {
        stamps.split: Split(stamps, read_catalog(catalog, origins[catalog]))
        for index, catalog in zip(snakemake.input.stamps, snakemake.input.catalogs, strict=True)
        for stamps in [read_stamps(index, origins[index])]
    }
    with torch_settings(snakemake.threads, 0, torch.device("cpu")):
        table = table_of_layers(
            model,
            Galaxies.of(splits["test"], snakemake.params.galaxies),
            splits,
            snakemake.params.sigmas,
            snakemake.params.probed,
            snakemake.params.seed,
        )
    write_csv(snakemake.output[0], table, origins[snakemake.output[0]])
