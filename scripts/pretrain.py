"""Train an encoder on stamps without true shapes; it continues from its checkpoint, if there is one."""

import sys
from pathlib import Path

from shearbench.data.stamps import read_stamps
from shearbench.files.text import write_csv
from shearbench.jobs.job import logged
from shearbench.simulation.populations import Population
from shearbench.tasks.contrastive.embedding import LEAST_RANK
from shearbench.tasks.contrastive.options import StampEncoder
from shearbench.tasks.shear.pretraining import train_encoder
from shearbench.training.checkpoint import save
from shearbench.training.task import Job
from shearbench.training.tracking import Tracking

with logged(snakemake.log[0]):
    origins, source, output = snakemake.params.origins, snakemake.input, snakemake.output
    train, validation = (read_stamps(path, origins[path]) for path in (source.train, source.validation))
    job = Job(
        seed=int(snakemake.wildcards.seed),
        checkpoint=Path(snakemake.params.checkpoint),
        fingerprint=origins[output.model].depends,
        threads=snakemake.threads,
        gpus=snakemake.resources.gpu,
        tracking=Tracking(**snakemake.params.tracking),
    )
    encoder, name = StampEncoder(**snakemake.params.encoder), snakemake.wildcards.encoder
    population = Population(**snakemake.params.population)
    model, history = train_encoder(train, validation, encoder, population, name, job)
    rank = history.set_index("epoch").loc[model["epoch"], "effective_rank"]
    collapse = "; the embedding has collapsed" if rank < LEAST_RANK else ""
    print(f"{name}: the effective rank of g is {rank:.1f}{collapse}", file=sys.stderr)
    write_csv(output.history, history, origins[output.history])
    save(output.model, model, origins[output.model])
