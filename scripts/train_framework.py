"""Train the small network with one framework, and measure the test split at every noise level."""

from shearbench.data.catalogs import read_catalog
from shearbench.data.estimates import estimates_table, write_estimates
from shearbench.data.stamps import read_stamps
from shearbench.files.text import write_csv
from shearbench.frameworks.base import Sizes
from shearbench.frameworks.batches import Batches
from shearbench.frameworks.train import measure, outputs_of, train, write_network
from shearbench.jobs.job import logged

with logged(snakemake.log[0]):
    source, output, origins = snakemake.input, snakemake.output, snakemake.params.origins
    options, wildcards = snakemake.params.options, snakemake.wildcards
    seed = int(wildcards.seed)
    stamps = read_stamps(source.train, origins[source.train])
    count = options["galaxies"] or len(stamps)
    catalog = read_catalog(source.catalog, origins[source.catalog]).set_index("galaxy_id")
    batches = Batches(
        images=stamps.noiseless(0, count)[0],
        shapes=catalog.loc[stamps.galaxy_id[:count], ["g1", "g2"]].to_numpy(float),
        noise=tuple(options["noise"]),
        epochs=options["epochs"],
        size=options["batch_size"],
        rate=options["learning_rate"],
        seed=seed,
    )
    sizes = Sizes.of(stamps.shape, options, wildcards.framework)
    network, history = train(wildcards.framework, sizes, batches)
    write_csv(output.history, history, origins[output.history])
    write_network(output.weights, network, batches.scaling, origins[output.weights])
    test = read_stamps(source.test, origins[source.test])
    outputs = outputs_of(network.forward, batches.scaling)
    for sigma, path in zip(snakemake.params.sigmas, output.estimates, strict=True):
        shapes, seconds = measure(outputs, test, sigma, snakemake.params.seed)
        table = estimates_table(shapes, test, sigma, "network", seconds)
        write_estimates(path, table, wildcards.framework, seed, origins[path])
