"""Run trials of a search until its budget is spent; several of these jobs may share them."""

from shearbench.files.text import write_text
from shearbench.jobs.job import logged
from shearbench.simulation.populations import Population
from shearbench.tasks.shear.data import Splits
from shearbench.tasks.shear.train import validation_loss
from shearbench.training.search import Search
from shearbench.training.trials import budget, opened, run_trials
from shearbench.training.variants import Variant

source, params = snakemake.input, snakemake.params
origins, (output,) = params.origins, snakemake.output

with logged(snakemake.log[0]):
    splits = Splits.read(source, origins)
    population, search = Population(**params.population), Search(**params.search["search"])

    def evaluate(variant, job):
        return validation_loss(splits, variant, population, search.name, job)

    run_trials(
        search,
        Variant(**params.search["base"]),
        params.journal,
        params.trial,
        evaluate,
        worker=int(snakemake.wildcards.worker),
        workers=params.workers,
        threads=snakemake.threads,
    )
    used = budget(opened(params.journal, search))
    text = f"{used['trials']} trials and {used['core_minutes']} core-minutes, of all jobs of the search\n"
    write_text(output, text, origins[output])
