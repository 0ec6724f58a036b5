"""Write the best recipe of a search as a variant, and the tables of its trials."""

from shearbench.files.text import write_csv, write_text
from shearbench.jobs.job import logged
from shearbench.training.search import Search
from shearbench.training.trials import importances, opened, recipe_text, trials_table
from shearbench.training.variants import Variant

with logged(snakemake.log[0]):
    params, outputs, origins = snakemake.params, snakemake.output, snakemake.params.origins
    search, base = Search(**params.search["search"]), Variant(**params.search["base"])
    study = opened(params.journal, search)
    write_csv(outputs.trials, trials_table(study, search), origins[outputs.trials])
    write_csv(outputs.importances, importances(study), origins[outputs.importances])
    write_text(outputs.recipe, recipe_text(study, search, base), origins[outputs.recipe])
