"""Write the resolved configuration, from which the run can be repeated."""

from shearbench.config.plain_yaml import dump
from shearbench.files.text import write_text
from shearbench.jobs.job import logged

with logged(snakemake.log[0]):
    text = dump(dict(snakemake.params.config))
    write_text(snakemake.output[0], text, snakemake.params.origins[snakemake.output[0]])
