"""Write the effect of each value of all studies, with false discoveries controlled."""

from shearbench.evaluation.beliefs import summary
from shearbench.evaluation.metrics import read_metrics
from shearbench.files.text import write_csv
from shearbench.jobs.job import logged

with logged(snakemake.log[0]):
    origins, (path,) = snakemake.params.origins, snakemake.output
    tables = [read_metrics(one, origins[one]) for one in snakemake.input]
    write_csv(path, summary(tables), origins[path])
