"""Measure the test split with the small network in NumPy in several arithmetics, and compare the shapes."""

from shearbench.bounds.cramer_rao import read_bounds
from shearbench.data.catalogs import read_catalog
from shearbench.data.estimates import estimates_table
from shearbench.data.stamps import read_stamps
from shearbench.evaluation.frameworks import precision_row, precision_table
from shearbench.evaluation.joining import join
from shearbench.files.text import write_csv
from shearbench.frameworks.base import Sizes
from shearbench.frameworks.precision import PRECISIONS, in_precision
from shearbench.frameworks.train import measure, outputs_of, read_network
from shearbench.jobs.job import logged

with logged(snakemake.log[0]):
    origins, source, params = snakemake.params.origins, snakemake.input, snakemake.params
    files = zip(source.weights, source.test, source.catalogs, source.bounds, strict=True)
    found = []
    for weights_path, index, catalog_path, bounds_path in files:
        test = read_stamps(index, origins[index])
        catalog = read_catalog(catalog_path, origins[catalog_path])
        bounds = read_bounds(bounds_path, origins[bounds_path])
        weights, scaling = read_network(weights_path, origins[weights_path])
        sizes = Sizes.of(test.shape, params.options, "numpy")
        for sigma in params.sigmas:
            exact = None
            for precision in PRECISIONS:
                outputs = outputs_of(in_precision(precision, sizes, weights), scaling)
                shapes, seconds = measure(outputs, test, sigma, params.seed)
                table = estimates_table(shapes, test, sigma, "network", seconds)
                table.attrs |= {"estimator": "numpy", "seed": None}
                rows = join(table, catalog, bounds, source=weights_path, rule="train_framework")
                exact = rows if exact is None else exact
                about = {"population": test.population, "noise": sigma, "precision": precision}
                found.append(precision_row(rows, exact, about, params.resamples))
    write_csv(snakemake.output[0], precision_table(found), origins[snakemake.output[0]])
