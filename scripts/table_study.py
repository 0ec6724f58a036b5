"""Write a study as a LaTeX table."""

from shearbench.evaluation.metrics import read_metrics
from shearbench.files.text import write_text
from shearbench.jobs.job import logged
from shearbench.paper.tables import study_tex
from shearbench.studies import Study

with logged(snakemake.log[0]):
    origins = snakemake.params.origins
    study = Study(**snakemake.params.study)
    table = read_metrics(snakemake.input.table, origins[snakemake.input.table])
    write_text(snakemake.output[0], study_tex(study, table), origins[snakemake.output[0]])
