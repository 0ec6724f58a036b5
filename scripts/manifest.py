"""Write the manifest: checksums of all outputs, versions, seeds and machine."""

import os
import sys

from shearbench.data.stamps import read_index
from shearbench.jobs.job import logged
from shearbench.paper.manifest import make_manifest, write_manifest

with logged(snakemake.log[0]):
    outputs = [*snakemake.input, *(chunk for index in snakemake.input.stamps for chunk in read_index(index))]
    manifest = make_manifest(
        outputs,
        os.path.dirname(snakemake.output[0]),
        snakemake.params.seeds,
        snakemake.params.inputs,
    )
    if manifest["git"]["reason"]:
        print(f"the manifest names no commit: {manifest['git']['reason']}", file=sys.stderr)
    write_manifest(snakemake.output[0], manifest)
