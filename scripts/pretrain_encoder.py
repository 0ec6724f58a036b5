"""Train an encoder on images without labels; the training continues from its checkpoint, if there is one."""

from pathlib import Path

from shearbench.data.labelled_images import read_splits
from shearbench.files.text import write_csv
from shearbench.jobs.job import logged
from shearbench.tasks.morphology.options import ImageEncoder
from shearbench.tasks.morphology.pretraining import train_encoder
from shearbench.training.checkpoint import save
from shearbench.training.task import Job
from shearbench.training.tracking import Tracking

with logged(snakemake.log[0]):
    origins, output = snakemake.params.origins, snakemake.output
    train, validation, _ = read_splits(snakemake.input.images, **snakemake.params.images)
    job = Job(
        seed=int(snakemake.wildcards.seed),
        checkpoint=Path(snakemake.params.checkpoint),
        fingerprint=origins[output.model].depends,
        threads=snakemake.threads,
        gpus=snakemake.resources.gpu,
        tracking=Tracking(**snakemake.params.tracking),
    )
    encoder = ImageEncoder(**snakemake.params.encoder)
    model, history = train_encoder(train, validation, encoder, snakemake.wildcards.encoder, job)
    write_csv(output.history, history, origins[output.history])
    save(output.model, model, origins[output.model])
