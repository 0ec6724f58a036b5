"""Draw one of the figures of `shearbench.figures`."""

import importlib

from shearbench.evaluation.metrics import read_metrics
from shearbench.figures.style import save
from shearbench.files.origin import read_origin
from shearbench.jobs.job import logged


def read(path):
    """Return a table, or the path of an HDF5 file, which the figure reads itself."""
    expected = snakemake.params.origins[path]
    if not path.endswith(".h5"):
        return read_metrics(path, expected)
    expected.check(path, read_origin(path))
    return path


with logged(snakemake.log[0]):
    draw = importlib.import_module(f"shearbench.figures.{snakemake.params.figure}").draw
    tables = [read(path) for path in snakemake.input]
    # One figure per list of further arguments: a population, or the question and the name of a study.
    outputs = zip(snakemake.params.arguments, snakemake.output.pdf, snakemake.output.png, strict=True)
    for arguments, pdf, png in outputs:
        save(draw(*tables, *arguments), pdf, png)
