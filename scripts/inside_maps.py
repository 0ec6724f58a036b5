"""Compute maps of a trained network, and compare its weights of the pixels with the optimal ones."""

import torch

from shearbench.data.catalogs import read_catalog
from shearbench.data.stamps import read_stamps
from shearbench.diagnostics.galaxies import Galaxies, Split
from shearbench.diagnostics.maps import measure_maps
from shearbench.evaluation.inside_maps import write_inside
from shearbench.files.text import write_csv
from shearbench.jobs.job import logged
from shearbench.jobs.torch_settings import torch_settings
from shearbench.simulation.populations import Population
from shearbench.tasks.shear.model_file import load_model

GALAXIES = 16

with logged(snakemake.log[0]):
    origins, wildcards, output = snakemake.params.origins, snakemake.wildcards, snakemake.output
    path, index, table = snakemake.input.model, snakemake.input.stamps, snakemake.input.catalog
    model = load_model(path, wildcards.variant, wildcards.population, int(wildcards.seed), origins[path])
    test = Split(read_stamps(index, origins[index]), read_catalog(table, origins[table]))
    with torch_settings(snakemake.threads, 0, torch.device("cpu")):
        maps, overlap = measure_maps(
            model,
            test,
            Galaxies.of(test, GALAXIES),
            Population(**snakemake.params.population),
            snakemake.params.sigmas,
            snakemake.params.seed,
        )
    write_inside(output.maps, [maps], origins[output.maps])
    write_csv(output.overlap, overlap, origins[output.overlap])
