"""Put accuracy and cost of the small network in all frameworks into one table."""

from shearbench.evaluation.frameworks import frameworks_table
from shearbench.evaluation.metrics import read_metrics
from shearbench.files.text import write_csv
from shearbench.jobs.job import logged

with logged(snakemake.log[0]):
    origins, source = snakemake.params.origins, snakemake.input
    histories = [
        (*network, read_metrics(path, origins[path]))
        for network, path in zip(snakemake.params.networks, source.histories, strict=True)
    ]
    accuracy = read_metrics(source.accuracy, origins[source.accuracy])
    table = frameworks_table(accuracy, histories, snakemake.params.checkpoints)
    write_csv(snakemake.output[0], table, origins[snakemake.output[0]])
