"""Compare the attention of a study's networks with the information in the pixels, and measure their cost."""

import torch

from shearbench.data.catalogs import read_catalog
from shearbench.data.stamps import read_stamps
from shearbench.diagnostics.attention import measure_attention
from shearbench.evaluation.attention import write_maps
from shearbench.files.text import write_csv
from shearbench.jobs.job import logged
from shearbench.jobs.torch_settings import torch_settings
from shearbench.simulation.populations import Population
from shearbench.tasks.shear.model_file import load_model

with logged(snakemake.log[0]), torch_settings(snakemake.threads, 0, torch.device("cpu")):
    origins = snakemake.params.origins
    ranks, costs, maps = measure_attention(
        snakemake.wildcards.study,
        {
            value: [load_model(path, expected=origins[path]) for path in paths]
            for value, paths in snakemake.params.models.items()
        },
        read_stamps(snakemake.input.stamps, origins[snakemake.input.stamps]),
        read_catalog(snakemake.input.catalog, origins[snakemake.input.catalog]),
        Population(**snakemake.params.population),
        snakemake.params.sigmas,
        snakemake.params.seed,
        snakemake.params.resamples,
    )
    write_csv(snakemake.output.ranks, ranks, origins[snakemake.output.ranks])
    write_csv(snakemake.output.costs, costs, origins[snakemake.output.costs])
    write_maps(snakemake.output.maps, maps, origins[snakemake.output.maps])
