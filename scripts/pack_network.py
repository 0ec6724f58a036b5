"""Write a network with its population, noise range and calibration into one file that travels."""

from shearbench.data.stamps import read_stamps
from shearbench.evaluation.metrics import read_metrics
from shearbench.jobs.job import logged
from shearbench.measurement.own_stamps import noise_range, simulated_properties
from shearbench.tasks.shear.model_file import load_model
from shearbench.tasks.shear.packed import pack, save_packed

with logged(snakemake.log[0]):
    params, origins, given = snakemake.params, snakemake.params.origins, snakemake.input
    noise = noise_range(load_model(given.model, expected=origins[given.model]))
    stamps = read_stamps(given.stamps, origins[given.stamps])
    content = pack(
        given.model,
        params.options,
        noise,
        simulated_properties(stamps, noise, params.run_seed),
        read_metrics(given.shear_bias, origins[given.shear_bias]),
        origins[given.model],
    )
    save_packed(snakemake.output[0], content, origins[snakemake.output[0]])
