"""Encoders trained without labels: accuracy against the number of labels, and the rank of the embedding.

Values are means over the seeds; an error is their standard deviation over the square root of their number.
Each seed has an encoder, and other labels, of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

METHODS = {
    "scratch": "from scratch",
    "fine_tuned": "fine-tuned",
    "probe_f": "linear, on f",
    "probe_g": "linear, on g",
    "neighbours": "nearest neighbours",
}
"""Words for the methods of `shearbench.tasks.morphology.labels.compare_labels`."""
_PERPLEXITY = 30.0


def label_curve(labels: pd.DataFrame) -> pd.DataFrame:
    """Combine the seeds of the accuracies with some of the labels.

    Parameters
    ----------
    labels : pandas.DataFrame
        Rows with ``encoder``, ``seed``, ``share``, ``labels``, ``method``, ``accuracy`` and
        ``balanced_accuracy``.

    Returns
    -------
    pandas.DataFrame
        A row for each encoder, share and method, with ``n_seeds``, the mean of ``accuracy``,
        ``balanced_accuracy`` and ``above_scratch`` (the accuracy minus that of the training from scratch with
        the same seed and labels), each with its ``_error``, which is missing with one seed.
    """
    keys = ["encoder", "share", "seed"]
    scratch = labels[labels["method"] == "scratch"].set_index(keys)["accuracy"]
    own = pd.MultiIndex.from_frame(labels[keys])
    labels = labels.assign(above_scratch=labels["accuracy"].to_numpy() - scratch.reindex(own).to_numpy())
    rows: list[dict[str, Any]] = []
    for (encoder, share, method), part in labels.groupby(["encoder", "share", "method"], sort=False):
        row = {"encoder": encoder, "share": share, "labels": part["labels"].iloc[0], "method": method}
        row["n_seeds"] = len(part)
        for name in ("accuracy", "balanced_accuracy", "above_scratch"):
            values = part[name].to_numpy(float)
            row[name] = values.mean()
            row[f"{name}_error"] = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def embeddings(histories: pd.DataFrame, spectra: pd.DataFrame) -> pd.DataFrame:
    """Return the measures of each embedding.

    Parameters
    ----------
    histories : pandas.DataFrame
        The histories of all encoders, with ``encoder`` and ``seed``.
    spectra : pandas.DataFrame
        See `shearbench.tasks.morphology.labels.describe_embedding`, with ``encoder``, ``seed`` and ``epoch``
        (the one whose weights are kept).

    Returns
    -------
    pandas.DataFrame
        A row for each encoder, seed and ``output`` (f or g), with ``epoch``, ``loss``, ``alignment`` and
        ``uniformity`` (of g, of the validation images), ``dimensions``, ``effective_rank``, ``variance`` and
        ``collapsed`` (0 or 1; of the test images).
    """
    rows = []
    for (encoder, seed, output), part in spectra.groupby(["encoder", "seed", "output"], sort=False):
        epoch = int(part["epoch"].iloc[0])
        row: dict[str, Any] = {"encoder": encoder, "seed": seed, "output": output, "epoch": epoch}
        of_seed = histories[(histories["encoder"] == encoder) & (histories["seed"] == seed)]
        measured = of_seed[of_seed["epoch"] == epoch].iloc[0]
        of_g = output == "g"
        for name in ("validation_loss", "alignment", "uniformity"):
            row[name.removeprefix("validation_")] = float(measured[name]) if of_g else np.nan
        row["dimensions"] = len(part)
        row["effective_rank"] = float(part["effective_rank"].iloc[0])
        row["variance"] = float(part["singular_value"].pow(2).sum())
        row["collapsed"] = int(part["collapsed"].iloc[0])
        rows.append(row)
    return pd.DataFrame(rows)


def draw_map(embedding: pd.DataFrame, classes: Sequence[str], seed: int = 0) -> pd.DataFrame:
    """Map the features of images to a plane by t-SNE (van der Maaten & Hinton 2008, JMLR 9, 2579).

    Parameters
    ----------
    embedding : pandas.DataFrame
        ``label`` and the features ``f0``, ``f1``, ... of each image.
    classes : sequence of str
    seed : int

    Returns
    -------
    pandas.DataFrame
        ``x``, ``y``, ``class`` (number) and ``name`` of each image.
    """
    from sklearn.manifold import TSNE

    features = embedding.drop(columns="label").to_numpy(float)
    perplexity = min(_PERPLEXITY, (len(features) - 1) / 3)
    found = TSNE(perplexity=perplexity, init="pca", metric="cosine", random_state=seed).fit_transform(
        features
    )
    labels = embedding["label"].to_numpy(int)
    return pd.DataFrame(
        {"x": found[:, 0], "y": found[:, 1], "class": labels, "name": [classes[k] for k in labels]}
    )
