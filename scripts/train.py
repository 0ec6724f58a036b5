"""Train networks, one after the other; each continues from its checkpoint, if there is one."""

from pathlib import Path

from shearbench.files.origin import read_origin
from shearbench.files.text import write_csv
from shearbench.jobs.job import logged
from shearbench.simulation.populations import Population
from shearbench.tasks.shear.data import Splits
from shearbench.tasks.shear.model_file import fingerprint_of, save_model
from shearbench.tasks.shear.pretraining import encoder_weights
from shearbench.tasks.shear.train import train
from shearbench.training.task import Job
from shearbench.training.tracking import Tracking
from shearbench.training.variants import Variant

source, resources, origins = snakemake.input, snakemake.resources, snakemake.params.origins


def is_made(path):
    """Return whether a file is there already, as it should be: of a job that was changed in part."""
    return Path(path).exists() and read_origin(path) == origins[path]


def untrained(training, model, fingerprint):
    """Yield the other seeds of the variant that are not trained yet."""
    for seed in training["seeds"]:
        path = Path(model).parents[1] / f"seed{seed}/model.pt"
        if seed != training["seed"] and fingerprint_of(path) != fingerprint:
            yield seed


with logged(snakemake.log[0]):
    splits = Splits.read(source, origins)
    population = Population(**snakemake.params.population)
    outputs = snakemake.output.model, snakemake.output.history
    for training, model_path, history_path in zip(snakemake.params.trainings, *outputs, strict=True):
        name, seed = training["name"], training["seed"]
        if training["values"]:
            print(f"{name}, seed {seed}: for {', '.join(training['values'])}")
        if is_made(model_path) and is_made(history_path):
            print("made before")
            continue
        checkpoint, fingerprint = Path(training["checkpoint"]), origins[model_path].depends
        together = resources.together
        encoder = training["encoder"]
        weights = None if encoder is None else encoder_weights(encoder, origins[encoder])
        # Seeds that start from encoders of their own are trained alone.
        others = untrained(training, model_path, fingerprint) if together > 1 and weights is None else []
        job = Job(
            seed=seed,
            checkpoint=checkpoint,
            fingerprint=fingerprint,
            threads=snakemake.threads,
            gpus=resources.gpu,
            others={other: checkpoint.with_name(f"seed{other}.pt") for other in others},
            together=together,
            gpu_use_path=training["gpu_use_path"],
            may_diverge=training["may_diverge"],
            tracking=Tracking(**training["tracking"]),
        )
        model, history = train(splits, Variant(**training["variant"]), population, name, job, weights)
        write_csv(history_path, history, origins[history_path])
        save_model(model_path, model, origins[model_path])
