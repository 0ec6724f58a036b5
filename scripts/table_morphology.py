"""Write the comparison of the classifiers as a LaTeX table."""

from shearbench.evaluation.metrics import read_metrics
from shearbench.files.text import write_text
from shearbench.jobs.job import logged
from shearbench.paper.tables import morphology_tex

with logged(snakemake.log[0]):
    origins = snakemake.params.origins
    table = read_metrics(snakemake.input[0], origins[snakemake.input[0]])
    write_text(snakemake.output[0], morphology_tex(table), origins[snakemake.output[0]])
