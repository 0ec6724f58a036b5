"""Join the tables and the maps of all networks that are examined from inside."""

from shearbench.evaluation.inside_maps import read_inside, write_inside
from shearbench.evaluation.metrics import read_metrics
from shearbench.evaluation.residuals import together
from shearbench.files.text import write_csv
from shearbench.jobs.job import logged

with logged(snakemake.log[0]):
    origins = snakemake.params.origins
    for name, output in snakemake.output.items():
        paths = snakemake.input[name]
        paths = [paths] if isinstance(paths, str) else paths
        if name == "maps":
            write_inside(
                output, [one for path in paths for one in read_inside(path, origins[path])], origins[output]
            )
            continue
        tables = [read_metrics(path, origins[path]) for path in paths]
        write_csv(output, together(tables, ["population", "variant", "seed"]), origins[output])
