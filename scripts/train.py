"""Train one network with one seed, from a checkpoint of the same training if there is one."""

from shearbench.catalog import read_catalog
from shearbench.files import write_csv
from shearbench.job import logged
from shearbench.networks import Variant
from shearbench.populations import Population
from shearbench.stamps import StampSet, read_index
from shearbench.training.model_file import save_model
from shearbench.training.train import train

with logged(snakemake.log[0]):
    model, history = train(
        StampSet(read_index(snakemake.input.train)),
        StampSet(read_index(snakemake.input.validation)),
        read_catalog(snakemake.input.train_catalog),
        read_catalog(snakemake.input.validation_catalog),
        Variant(**snakemake.params.variant),
        population=Population(**snakemake.params.population),
        name=snakemake.wildcards.variant,
        seed=int(snakemake.wildcards.seed),
        checkpoint=snakemake.params.checkpoint,
        fingerprint=snakemake.params.depends,
        threads=snakemake.threads,
        gpus=snakemake.resources.gpu,
        gpu_use=snakemake.params.gpu_use,
    )
    write_csv(snakemake.output.history, history)
    save_model(snakemake.output.model, model)
