"""Write the resolved configuration, which is enough to do the run again."""

import yaml

from shearbench.files import write_text
from shearbench.job import logged

with logged(snakemake.log[0]):
    write_text(snakemake.output[0], yaml.safe_dump(dict(snakemake.params.config), sort_keys=False))
