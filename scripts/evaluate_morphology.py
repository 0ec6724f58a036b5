"""Compare the answers of all classifiers with the classes of the test images."""

from shearbench.data.labelled_images import read_splits
from shearbench.evaluation import morphology
from shearbench.evaluation.metrics import read_metrics
from shearbench.evaluation.morphology_inside import read_inside, write_inside
from shearbench.files.tables import read_table
from shearbench.files.text import write_csv
from shearbench.jobs.job import logged

with logged(snakemake.log[0]):
    origins, source, output = snakemake.params.origins, snakemake.input, snakemake.output
    *_, test = read_splits(source.images, **snakemake.params.images)
    tables = [read_table(path, (), "classify", expected=origins[path]) for path in source.predictions]
    histories = [read_metrics(path, origins[path]) for path in source.histories]
    found = morphology.evaluate(tables, histories, test.classes, snakemake.params.resamples)
    for name, table in found.items():
        path = output[name]
        write_csv(path, table, origins[path])
    inside = {}
    for path in source.inside:
        for name, arrays in read_inside(path, origins[path])[1].items():
            inside.setdefault(name, arrays)  # of the first seed
    write_inside(output.inside, inside, test.classes, origins[output.inside])
    morphology.write_examples(
        output.examples, test.images, test.classes, tables, found, origins[output.examples]
    )
