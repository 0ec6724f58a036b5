"""Join the tables of the stamps of all users, with the simulated galaxies that they are compared with."""

import pandas as pd

from shearbench.files.tables import read_table, write_table
from shearbench.jobs.job import logged

with logged(snakemake.log[0]):
    params, origins = snakemake.params, snakemake.params.origins

    def together(paths, source):
        """Return tables of all observations in one, with columns that name observation and source."""
        tables = []
        for observation, path in zip(params.names, paths, strict=True):
            table = read_table(path, (), "catalogue_observation", expected=origins[path])
            tables.append(table.assign(observation=observation, source=source))
        return pd.concat(tables, ignore_index=True)

    found = {name: together(snakemake.input[name], "data") for name in ("galaxies", "shapes", "shear")}
    simulated = together(snakemake.input.simulated, "simulated")
    # The estimates of single galaxies are in the table of shapes.
    own = ["row", "stamp_flag", "distance", "out_of_range"]
    galaxies = found["galaxies"][[*own, *simulated]]
    found["galaxies"] = pd.concat([galaxies, simulated], ignore_index=True)
    for name, table in found.items():
        write_table(snakemake.output[name], table, origin=origins[snakemake.output[name]])
