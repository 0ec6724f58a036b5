"""Draw how a study's values do."""

import pandas as pd

from shearbench.figures.study import draw
from shearbench.figures.style import save
from shearbench.job import logged
from shearbench.studies import Study

with logged(snakemake.log[0]):
    study = Study(**snakemake.params.study)
    figure = draw(
        pd.read_csv(snakemake.input.table),
        pd.read_csv(snakemake.input.accuracy),
        study.question,
        study.name.replace("_", " "),
    )
    save(figure, snakemake.output.pdf, snakemake.output.png)
