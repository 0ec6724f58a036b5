"""Write the manifest of the classification by morphology: checksums, versions, seeds and machine."""

from pathlib import Path

from shearbench.jobs.job import logged
from shearbench.paper.manifest import make_manifest, write_manifest

with logged(snakemake.log[0]):
    path, params = Path(snakemake.output[0]), snakemake.params
    write_manifest(path, make_manifest(snakemake.input, path.parent, params.seeds, params.inputs))
