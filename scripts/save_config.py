"""Write the resolved configuration, which is enough to do the run again."""

from shearbench.files import write_text
from shearbench.job import logged
from shearbench.plain_yaml import dump

with logged(snakemake.log[0]):
    text = dump(dict(snakemake.params.config))
    write_text(snakemake.output[0], text, snakemake.params.origins[snakemake.output[0]])
