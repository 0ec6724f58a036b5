"""Save a few stamps at each noise level, the exponential model fitted to them, and the residuals."""

from functools import partial

from shearbench.data.catalogs import read_catalog
from shearbench.data.stamps import read_stamps
from shearbench.evaluation.gallery import make_gallery, write_gallery
from shearbench.jobs.job import logged
from shearbench.measurement.mixture.fit import fitted_images

with logged(snakemake.log[0]):
    origins = snakemake.params.origins
    catalogs = {
        table.attrs["population"]: table
        for table in (read_catalog(path, origins[path]) for path in snakemake.input.catalogs)
    }
    galleries = []
    for index in snakemake.input.stamps:
        stamps = read_stamps(index, origins[index])
        galleries.append(
            make_gallery(
                stamps,
                catalogs[stamps.population],
                snakemake.params.sigmas,
                snakemake.params.seed,
                partial(fitted_images, model="exp"),
                "mixture fit (exp)",
            )
        )
    write_gallery(snakemake.output[0], galleries, origins[snakemake.output[0]])
