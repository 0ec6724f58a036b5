"""Write what every output is, byte for byte, and what it was made with."""

import os

from shearbench.job import logged
from shearbench.paper.manifest import make_manifest, write_manifest

with logged(snakemake.log[0]):
    manifest = make_manifest(
        snakemake.input, os.path.dirname(snakemake.output[0]), snakemake.params.seeds, repository="."
    )
    write_manifest(snakemake.output[0], manifest)
