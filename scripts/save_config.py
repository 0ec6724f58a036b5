"""Write the resolved configuration, which is enough to do the run again."""

from shearbench.files import write_text
from shearbench.job import logged
from shearbench.plain_yaml import dump

with logged(snakemake.log[0]):
    write_text(snakemake.output[0], dump(dict(snakemake.params.config)))
