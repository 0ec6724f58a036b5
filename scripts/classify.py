"""Classify the test images with a trained classifier, turned by each of some angles."""

from shearbench.data.labelled_images import read_splits
from shearbench.diagnostics.classifiers import look_inside
from shearbench.evaluation.morphology import predictions
from shearbench.evaluation.morphology_inside import with_images, write_inside
from shearbench.files.tables import write_table
from shearbench.jobs.job import logged
from shearbench.tasks.morphology.prediction import classify
from shearbench.tasks.morphology.train import load_classifier

with logged(snakemake.log[0]):
    origins, source = snakemake.params.origins, snakemake.input
    *_, test = read_splits(source.images, **snakemake.params.images)
    model = load_classifier(source.model, origins[source.model])
    angles = snakemake.params.angles
    found = classify(model, test, angles, snakemake.threads)
    table = predictions(found, test.labels, angles)
    inside = with_images(look_inside(model, test, snakemake.threads), test.images, test.labels)
    about = {name: model.about[name] for name in ("variant", "seed", "epoch", "parameters", "architecture")}
    output = snakemake.output
    write_table(output.predictions, table, about, origins[output.predictions])
    write_inside(output.inside, {about["variant"]: inside}, test.classes, origins[output.inside])
