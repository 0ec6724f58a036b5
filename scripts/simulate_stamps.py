"""Draw one chunk of stamps with GalSim."""

from shearbench.data.catalogs import read_catalog_rows
from shearbench.data.observing import Observing
from shearbench.data.stamps import write_stamps
from shearbench.jobs.job import logged
from shearbench.simulation.galsim_stamps import draw_stamps, versions
from shearbench.simulation.populations import Population

with logged(snakemake.log[0]):
    origins = snakemake.params.origins
    population = Population(**snakemake.params.population)
    rows = read_catalog_rows(
        snakemake.input.catalog, *snakemake.params.rows, origins[snakemake.input.catalog]
    )
    shape = (snakemake.params.size, snakemake.params.size)
    write_stamps(
        snakemake.output[0],
        draw_stamps(rows, population, shape, snakemake.params.pixel_scale),
        rows["galaxy_id"].to_numpy(),
        rows["noise_id"].to_numpy(),
        shape,
        per_galaxy_psf=not population.constant_psf(snakemake.wildcards.split),
        attributes={
            "population": snakemake.wildcards.population,
            "split": snakemake.wildcards.split,
            "pixel_scale": snakemake.params.pixel_scale,
            "catalog_digest": rows.attrs["digest"],
            **Observing.of(rows.attrs).attributes,
            **versions(),
        },
        origin=origins[snakemake.output[0]],
    )
