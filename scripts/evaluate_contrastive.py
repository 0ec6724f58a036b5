"""Compare encoders: accuracy against the number of labels, rank and map of the embedding."""

import pandas as pd

from shearbench.evaluation.contrastive import draw_map, embeddings, label_curve
from shearbench.evaluation.metrics import read_metrics
from shearbench.files.tables import read_table
from shearbench.files.text import write_csv
from shearbench.jobs.job import logged

with logged(snakemake.log[0]):
    origins, source, output = snakemake.params.origins, snakemake.input, snakemake.output
    encoders = list(snakemake.params.encoders)
    histories = pd.concat(
        read_metrics(path, origins[path]).assign(encoder=encoder, seed=seed)
        for path, (encoder, seed) in zip(source.histories, encoders, strict=True)
    )
    labels, spectra = (
        pd.concat(read_metrics(path, origins[path]) for path in paths)
        for paths in (source.labels, source.spectra)
    )
    maps, drawn = [], set()
    for path, (encoder, _) in zip(source.embeddings, encoders, strict=True):
        if encoder not in drawn:  # the first seed
            drawn.add(encoder)
            table = read_table(path, (), "compare_labels", expected=origins[path])
            maps.append(draw_map(table, snakemake.params.classes).assign(encoder=encoder))
    tables = {
        "labels": label_curve(labels),
        "embedding": embeddings(histories, spectra),
        "spectrum": spectra,
        "map": pd.concat(maps),
        "pretraining": histories,
    }
    for name, table in tables.items():
        write_csv(output[name], table, origins[output[name]])
