"""Join the tables of the stamps of all users, with the simulated galaxies that they are compared with."""

from shearbench.evaluation.own_stamps import observed_tables
from shearbench.files.tables import read_table, write_table
from shearbench.jobs.job import logged

with logged(snakemake.log[0]):
    params, origins, given = snakemake.params, snakemake.params.origins, snakemake.input
    paths = zip(given.galaxies, given.simulated, given.shapes, given.shear, strict=True)
    read = {
        name: tuple(read_table(path, (), "observe", expected=origins[path]) for path in own)
        for name, own in zip(params.names, paths, strict=True)
    }
    for name, table in observed_tables(read).items():
        write_table(snakemake.output[name], table, origin=origins[snakemake.output[name]])
