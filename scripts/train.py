"""Train one network with one seed, from a checkpoint of the same training if there is one."""

from pathlib import Path

from shearbench.catalog import read_catalog
from shearbench.files import write_csv
from shearbench.job import logged
from shearbench.networks import Variant
from shearbench.populations import Population
from shearbench.stamps import StampSet, read_index
from shearbench.training.model_file import fingerprint_of, save_model
from shearbench.training.train import train

seed = int(snakemake.wildcards.seed)


def of_seed(path, other):
    """Return the path of another seed's file."""
    return Path(str(path).replace(f"seed{seed}", f"seed{other}"))


with logged(snakemake.log[0]):
    others = [int(other) for other in snakemake.resources.seeds.split() if int(other) != seed]
    untrained = [
        other
        for other in others
        if fingerprint_of(of_seed(snakemake.output.model, other)) != snakemake.params.depends
    ]
    model, history = train(
        StampSet(read_index(snakemake.input.train)),
        StampSet(read_index(snakemake.input.validation)),
        read_catalog(snakemake.input.train_catalog),
        read_catalog(snakemake.input.validation_catalog),
        Variant(**snakemake.params.variant),
        population=Population(**snakemake.params.population),
        name=snakemake.wildcards.variant,
        seed=seed,
        checkpoint=snakemake.params.checkpoint,
        fingerprint=snakemake.params.depends,
        threads=snakemake.threads,
        gpus=snakemake.resources.gpu,
        others={
            other: of_seed(snakemake.params.checkpoint, other)
            for other in untrained[: snakemake.resources.together - 1]
        },
        gpu_use=snakemake.params.gpu_use,
    )
    write_csv(snakemake.output.history, history)
    save_model(snakemake.output.model, model)
