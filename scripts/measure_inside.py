"""Measure what the trained networks of a study do inside: a table of each kind."""

import torch

from shearbench.data.catalogs import read_catalog
from shearbench.data.stamps import read_stamps
from shearbench.diagnostics.galaxies import Split
from shearbench.diagnostics.study import measure_inside
from shearbench.files.text import write_csv
from shearbench.jobs.job import logged
from shearbench.jobs.torch_settings import torch_settings
from shearbench.tasks.shear.model_file import load_model

with logged(snakemake.log[0]), torch_settings(snakemake.threads, 0, torch.device("cpu")):
    origins, index, table = snakemake.params.origins, snakemake.input.stamps, snakemake.input.catalog
    models = {
        value: [load_model(path, expected=origins[path]) for path in paths]
        for value, paths in snakemake.params.models.items()
    }
    test = Split(read_stamps(index, origins[index]), read_catalog(table, origins[table]))
    study, sigmas, seed = snakemake.params.study, snakemake.params.sigmas, snakemake.params.seed
    for kind, path in snakemake.output.items():
        write_csv(path, measure_inside(kind, study, models, test, sigmas, seed), origins[path])
