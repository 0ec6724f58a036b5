"""Measure what the trained networks of a study do inside: one kind of table."""

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
    found = measure_inside(
        snakemake.wildcards.inside,
        snakemake.wildcards.study,
        {
            value: [load_model(path, expected=origins[path]) for path in paths]
            for value, paths in snakemake.params.models.items()
        },
        Split(read_stamps(index, origins[index]), read_catalog(table, origins[table])),
        snakemake.params.sigmas,
        snakemake.params.seed,
    )
    write_csv(snakemake.output[0], found, origins[snakemake.output[0]])
