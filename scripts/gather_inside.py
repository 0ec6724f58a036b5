"""Join the tables of all networks that are examined from inside."""

from shearbench.evaluation.metrics import read_metrics
from shearbench.evaluation.residuals import together
from shearbench.files.text import write_csv
from shearbench.jobs.job import logged

with logged(snakemake.log[0]):
    origins = snakemake.params.origins
    for name, output in snakemake.output.items():
        tables = [read_metrics(path, origins[path]) for path in snakemake.input[name]]
        write_csv(output, together(tables, ["population", "variant", "seed"]), origins[output])
