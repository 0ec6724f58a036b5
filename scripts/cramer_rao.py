"""Compute the Cramer-Rao bound of each galaxy."""

from shearbench.bounds.cramer_rao import cramer_rao
from shearbench.data.catalogs import read_catalog
from shearbench.data.stamps import read_stamps
from shearbench.files.tables import write_table
from shearbench.jobs.job import logged

with logged(snakemake.log[0]):
    origins = snakemake.params.origins
    shape = (snakemake.params.size, snakemake.params.size)
    catalog = read_catalog(snakemake.input.catalog, origins[snakemake.input.catalog])
    # PSF images are read from the stamps file, like those of the estimators.
    index = snakemake.input.stamps
    images = read_stamps(index, origins[index]).noiseless()[1] if index else None
    table = cramer_rao(catalog, snakemake.params.pixel_scale, shape, psf_images=images)
    write_table(snakemake.output[0], table, table.attrs, origins[snakemake.output[0]])
