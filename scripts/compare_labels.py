"""Classify with some of the labels: from an encoder, by its features, and from scratch."""

import shutil
import sys
from pathlib import Path

from shearbench.data.labelled_images import read_splits
from shearbench.files.tables import write_table
from shearbench.files.text import write_csv
from shearbench.jobs.job import logged
from shearbench.tasks.morphology.labels import compare_labels, describe_embedding, sentences
from shearbench.tasks.morphology.options import ClassRecipe, ClassVariant
from shearbench.tasks.morphology.pretraining import load_encoder
from shearbench.training.task import Job

with logged(snakemake.log[0]):
    origins, output, wildcards = snakemake.params.origins, snakemake.output, snakemake.wildcards
    splits = read_splits(snakemake.input.images, **snakemake.params.images)
    network, about = load_encoder(snakemake.input.model, origins[snakemake.input.model])
    options, states = snakemake.params.options, Path(snakemake.params.states)
    embedding, spectrum = describe_embedding(network, splits[-1], snakemake.threads)
    for sentence in sentences(spectrum, f"{wildcards.encoder} seed {wildcards.seed}"):
        print(sentence, file=sys.stderr)
    job = Job(
        seed=int(wildcards.seed),
        fingerprint=origins[output.labels].depends,
        threads=snakemake.threads,
        gpus=snakemake.resources.gpu,
    )
    variant = ClassVariant(
        architecture=about["architecture"],
        options=about["options"],
        training=ClassRecipe(**options["fine_tuning"]),
    )
    labels = compare_labels(
        splits, network, variant, options["labels"], options["neighbours"], job, states
    ).assign(encoder=wildcards.encoder, seed=job.seed)
    spectrum = spectrum.assign(encoder=wildcards.encoder, seed=job.seed, epoch=about["epoch"])
    write_csv(output.labels, labels, origins[output.labels])
    write_csv(output.spectrum, spectrum, origins[output.spectrum])
    write_table(output.embedding, embedding, {}, origins[output.embedding])
    shutil.rmtree(states, ignore_errors=True)
