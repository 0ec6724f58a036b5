"""Measure the properties of a user's galaxies, and of simulated galaxies that they are compared with."""

from shearbench.data.own_stamps import OwnStamps, in_words
from shearbench.data.stamps import read_stamps
from shearbench.files.tables import write_table
from shearbench.jobs.job import logged
from shearbench.measurement.own_stamps import own_properties, simulated_properties

with logged(snakemake.log[0]):
    params, origins = snakemake.params, snakemake.params.origins
    stamps = OwnStamps.of(params.options)
    for words, number in stamps.causes().items():
        print(f"{number} of {len(stamps)} stamps are not measured: {words}")
    galaxies = own_properties(stamps)
    galaxies["cause"] = list(map(in_words, galaxies["stamp_flag"]))
    index = read_stamps(snakemake.input.stamps, origins[snakemake.input.stamps])
    simulated = simulated_properties(index, tuple(params.noise), params.seed)
    for name, table in (("galaxies", galaxies), ("simulated", simulated)):
        write_table(snakemake.output[name], table, origin=origins[snakemake.output[name]])
