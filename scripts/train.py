"""Train one network with one seed; continue from a checkpoint of the same training, if there is one."""

from pathlib import Path

from shearbench.data.catalogs import read_catalog
from shearbench.data.stamps import read_stamps
from shearbench.files.text import write_csv
from shearbench.jobs.job import logged
from shearbench.simulation.populations import Population
from shearbench.tasks.shear.data import Splits
from shearbench.tasks.shear.model_file import fingerprint_of, save_model
from shearbench.tasks.shear.train import train
from shearbench.training.task import Job
from shearbench.training.variants import Variant

seed = int(snakemake.wildcards.seed)


def untrained():
    """Yield the other seeds that are not trained yet."""
    for other in map(int, snakemake.resources.seeds.split()):
        model = Path(snakemake.output.model).parents[1] / f"seed{other}/model.pt"
        if other != seed and fingerprint_of(model) != snakemake.params.depends:
            yield other


with logged(snakemake.log[0]):
    origins = snakemake.params.origins
    together = snakemake.resources.together
    others = list(untrained()) if together > 1 else []
    splits = Splits(
        read_stamps(snakemake.input.train, origins[snakemake.input.train]),
        read_stamps(snakemake.input.validation, origins[snakemake.input.validation]),
        read_catalog(snakemake.input.train_catalog, origins[snakemake.input.train_catalog]),
        read_catalog(snakemake.input.validation_catalog, origins[snakemake.input.validation_catalog]),
    )
    job = Job(
        seed=seed,
        checkpoint=snakemake.params.checkpoint,
        fingerprint=snakemake.params.depends,
        threads=snakemake.threads,
        gpus=snakemake.resources.gpu,
        others={other: Path(snakemake.params.checkpoint).with_name(f"seed{other}.pt") for other in others},
        together=together,
        gpu_use_path=snakemake.params.gpu_use_path,
        may_diverge=snakemake.params.may_diverge,
    )
    variant, population = Variant(**snakemake.params.variant), Population(**snakemake.params.population)
    model, history = train(splits, variant, population, snakemake.wildcards.variant, job)
    write_csv(snakemake.output.history, history, origins[snakemake.output.history])
    save_model(snakemake.output.model, model, origins[snakemake.output.model])
