"""Train a committee that corrects the answers of a network; it continues from its state, if there is one."""

from shearbench.files.text import write_csv
from shearbench.jobs.job import logged
from shearbench.simulation.populations import Population
from shearbench.tasks.shear.calibration import calibrate, calibrated_content
from shearbench.tasks.shear.model_file import load_model
from shearbench.training.checkpoint import Checkpoint, load, save

with logged(snakemake.log[0]):
    params, output, path = snakemake.params, snakemake.output, snakemake.input.network
    origins, names = params.origins, snakemake.wildcards
    model = load_model(path, params.network, names.population, int(names.seed), origins[path])
    calibration, history = calibrate(
        model,
        Population(**params.population),
        **params.options,
        seed=params.run_seed,
        checkpoint=Checkpoint(params.checkpoint, {"fingerprint": origins[output.model].depends}),
        threads=snakemake.threads,
    )
    write_csv(output.history, history, origins[output.history])
    content = calibrated_content(load(path, "train", origins[path]), calibration)
    save(output.model, content, origins[output.model])
