"""Write a study as a LaTeX table."""

import pandas as pd

from shearbench.files import write_text
from shearbench.job import logged
from shearbench.paper.tables import study_tex
from shearbench.studies import Study

with logged(snakemake.log[0]):
    study = Study(**snakemake.params.study)
    write_text(snakemake.output[0], study_tex(study, pd.read_csv(snakemake.input.table)))
