"""Check all chunks of a split and write the index file that lists them."""

from shearbench.data.stamps import write_index
from shearbench.jobs.job import logged

with logged(snakemake.log[0]):
    write_index(snakemake.output[0], snakemake.input, snakemake.params.origins[snakemake.output[0]])
