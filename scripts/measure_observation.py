"""Measure a user's stamps with one estimator, or with one network of the run."""

from shearbench.data.own_stamps import OwnStamps
from shearbench.estimators import make_estimator
from shearbench.files.tables import write_table
from shearbench.jobs.job import logged
from shearbench.measurement.own_stamps import geometry_of, measure_own, predict_own
from shearbench.tasks.shear.model_file import load_model

with logged(snakemake.log[0]):
    params, origins, path = snakemake.params, snakemake.params.origins, snakemake.input.get("network")
    stamps, resize = OwnStamps.of(params.observation), params.observation["resize"]
    model = load_model(path, expect_population=params.population, expected=origins[path]) if path else None
    if params.options is None:
        table = predict_own(model, stamps, resize, threads=snakemake.threads)
    else:
        options, geometry = params.options, None
        if model:
            options, geometry = {**options, "network_file": path}, geometry_of(model)
        table = measure_own(make_estimator(options), stamps, geometry, resize)
    write_table(snakemake.output[0], table, origin=origins[snakemake.output[0]])
