"""Measure m and c of the networks of a study."""

from shearbench.data.catalogs import read_catalog
from shearbench.data.estimates import estimates_table
from shearbench.data.stamps import read_stamps
from shearbench.evaluation.shear_bias import shear_bias, shear_bias_table
from shearbench.evaluation.study_shear import shear_verdict, study_shear_table
from shearbench.files.text import write_csv, write_text
from shearbench.jobs.job import logged
from shearbench.studies import Study
from shearbench.tasks.shear.model_file import load_model
from shearbench.tasks.shear.prediction import predict

params = snakemake.params

with logged(snakemake.log[0]):
    origins, study = params.origins, Study(**params.study)
    stamps = read_stamps(snakemake.input.stamps, origins[snakemake.input.stamps])
    catalog = read_catalog(snakemake.input.catalog, origins[snakemake.input.catalog])
    trained = [(network, seed) for network, seeds in params.trained.items() for seed in seeds]
    rows = []
    for (network, seed), path in zip(trained, snakemake.input.models, strict=True):
        model = load_model(path, network, study.population, seed, origins[path])
        for sigma in study.levels:
            shapes, seconds = predict(model, stamps, sigma, params.seed, threads=snakemake.threads)
            table = estimates_table(shapes, stamps, sigma, "network", seconds)
            table.attrs |= {"estimator": network, "seed": seed}
            rows += shear_bias(table, catalog, resamples=params.resamples, source=path, rule="train")
    table = study_shear_table(study, params.networks, shear_bias_table(rows))
    write_csv(snakemake.output.table, table, origins[snakemake.output.table])
    write_text(
        snakemake.output.verdict, shear_verdict(study, table) + "\n", origins[snakemake.output.verdict]
    )
