"""Compute m and c of every estimator from pairs of opposite shear: of all and of selected galaxies."""

from pathlib import Path

from shearbench.data.catalogs import read_catalog
from shearbench.data.estimates import read_estimates
from shearbench.data.stamps import read_stamps
from shearbench.evaluation.pair_scatter import pair_scatter, pair_scatter_table
from shearbench.evaluation.selection import selection, selection_table
from shearbench.evaluation.shape_noise import shape_noise, shape_noise_table
from shearbench.evaluation.shear_bias import shear_bias, shear_bias_table
from shearbench.evaluation.shear_bias_bins import shear_bias_bins, shear_bias_bins_table
from shearbench.evaluation.shear_trends import shear_trends, shear_trends_table
from shearbench.files.text import write_csv
from shearbench.jobs.job import logged

params, written = snakemake.params, snakemake.output

with logged(snakemake.log[0]):
    origins = params.origins
    catalogs = {
        table.attrs["population"]: table
        for table in (read_catalog(path, origins[path]) for path in snakemake.input.catalogs)
    }
    signals = {
        stamps.population: stamps.signal()
        for stamps in (read_stamps(path, origins[path]) for path in snakemake.input.stamps)
    }
    # By the folder, which is that of a population and a noise level.
    references, fits = (
        {
            Path(path).parent: read_estimates(path, origins[path])
            for path in snakemake.input.estimates
            if Path(path).stem == name
        }
        for name in (params.reference, params.fit)
    )
    rows, bins, trends, selected, noises, scatters = [], [], [], [], [], []
    for path in snakemake.input.estimates:
        estimates = read_estimates(path, origins[path])
        # Some slow estimators measure the first galaxies only.
        catalog = catalogs[estimates.attrs["population"]].head(len(estimates))
        how = {
            "label": params.labels.get(estimates.attrs["estimator"]),
            "resamples": params.resamples,
            "source": path,
        }
        rows += shear_bias(estimates, catalog, **how)
        bins += shear_bias_bins(estimates, catalog, **how)
        signal = signals[estimates.attrs["population"]][: len(estimates)]
        trends += shear_trends(estimates, catalog, signal, **how)
        selected += selection(estimates, catalog, **how)
        if Path(path).parent in references:
            noises.append(shape_noise(estimates, references[Path(path).parent], catalog, **how))
        if Path(path).parent in fits:
            scatters.append(pair_scatter(estimates, fits[Path(path).parent], catalog, **how))
    write_csv(written.table, shear_bias_table(rows), origins[written.table])
    write_csv(written.bins, shear_bias_bins_table(bins), origins[written.bins])
    write_csv(written.trends, shear_trends_table(trends), origins[written.trends])
    write_csv(written.selection, selection_table(selected), origins[written.selection])
    write_csv(written.shape_noise, shape_noise_table(noises), origins[written.shape_noise])
    write_csv(written.pair_scatter, pair_scatter_table(scatters), origins[written.pair_scatter])
