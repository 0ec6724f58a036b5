"""Draw the galaxies of one split."""

from shearbench.files.tables import write_table
from shearbench.jobs.job import logged
from shearbench.simulation.catalog import sample_catalog
from shearbench.simulation.populations import Population

with logged(snakemake.log[0]):
    table = sample_catalog(
        Population(**snakemake.params.population),
        snakemake.wildcards.population,
        snakemake.wildcards.split,
        snakemake.params.galaxies,
        snakemake.params.seed,
        snakemake.params.pixel_scale,
        snakemake.params.shear,
        snakemake.params.rotations,
        snakemake.params.psf_shape,
    )
    write_table(snakemake.output[0], table, table.attrs, snakemake.params.origins[snakemake.output[0]])
