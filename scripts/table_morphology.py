"""Write the comparisons of the classifiers and of the encoders as LaTeX tables."""

from shearbench.evaluation.metrics import read_metrics
from shearbench.files.text import write_text
from shearbench.jobs.job import logged
from shearbench.paper.tables import labels_tex, morphology_tex

with logged(snakemake.log[0]):
    origins = snakemake.params.origins
    for name, made in (("summary", morphology_tex), ("labels", labels_tex)):
        if path := snakemake.output.get(name):
            source = snakemake.input[name]
            write_text(path, made(read_metrics(source, origins[source])), origins[path])
