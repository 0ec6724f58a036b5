"""List the layers of every network and its parameters, operations and receptive field."""

from shearbench.diagnostics.summary import listing, summarise_networks
from shearbench.files.text import write_csv, write_text
from shearbench.jobs.job import logged
from shearbench.networks import architecture_kinds

with logged(snakemake.log[0]):
    origins = snakemake.params.origins
    kinds = architecture_kinds()
    networks, layers = summarise_networks(
        {name: kinds[kind](**options) for name, (kind, options) in snakemake.params.variants.items()},
        snakemake.params.channels,
        (snakemake.params.size, snakemake.params.size),
        snakemake.params.pixel_scale,
    )
    write_csv(snakemake.output.networks, networks, origins[snakemake.output.networks])
    write_csv(snakemake.output.layers, layers, origins[snakemake.output.layers])
    write_text(snakemake.output.listing, listing(networks, layers), origins[snakemake.output.listing])
