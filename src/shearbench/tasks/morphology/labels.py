"""What an encoder trained without labels is worth: classifiers with few labels, from it and from scratch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from shearbench.data.labelled_images import LabelledImages
from shearbench.jobs.torch_settings import torch_settings
from shearbench.tasks.contrastive.embedding import collapsed, effective_rank, singular_values
from shearbench.tasks.morphology.options import ClassVariant
from shearbench.tasks.morphology.prediction import classify
from shearbench.tasks.morphology.pretraining import EncoderNetwork, embed
from shearbench.tasks.morphology.train import ClassTask, classifier_of, stratified_first
from shearbench.training import train as training
from shearbench.training.task import Job

_STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # of the regularisation of the linear probe; the validation images choose

Floats = NDArray[np.float32]


def compare_labels(
    splits: Sequence[LabelledImages],
    network: EncoderNetwork,
    variant: ClassVariant,
    shares: Sequence[float],
    neighbours: int,
    job: Job,
    states: Path | None = None,
) -> pd.DataFrame:
    """Classify with some of the labels, from an encoder and from scratch.

    Parameters
    ----------
    splits : sequence of LabelledImages
        Training, validation and test images. The validation images have their labels in every case: they
        choose the best epoch, and the strength of the regularisation of the probes.
    network : EncoderNetwork
    variant : ClassVariant
        The architecture of the encoder, and the recipe of the trainings from scratch and of the fine-tuning.
    shares : sequence of float
        Fractions of the training images whose labels are used, drawn at random for each seed, with the
        same fractions of each class.
    neighbours : int
        Number of nearest neighbours that vote.
    job : Job
        Seed and share of the machine of the trainings; its checkpoint is not used.
    states : path, optional
        Folder of the checkpoints of the trainings.

    Returns
    -------
    pandas.DataFrame
        A row for each method and fraction: ``share``, ``labels`` (their number), ``method``, ``accuracy``,
        ``balanced_accuracy``. The methods are ``scratch``, ``fine_tuned`` (all weights trained on from the
        encoder's), ``probe_f`` and ``probe_g`` (multinomial logistic regression on the features and on the
        projections), and ``neighbours`` (vote of the nearest features by their cosine).
    """
    train, validation, test = splits
    order = np.random.default_rng([job.seed, 3]).permutation(len(train))
    mixed = train[order]
    with torch_settings(job.threads, 0, torch.device("cpu")):
        known, judged, asked = (embed(network, images) for images in (mixed, validation, test))
    rows: list[dict[str, Any]] = []
    for share in shares:
        count = max(round(share * len(train)), 2)
        part = stratified_first(mixed.labels, count)
        answers = {
            method: _trained(mixed[part], splits, variant, weights, f"{method} {count}", job, states)
            for method, weights in (("scratch", None), ("fine_tuned", network.state_dict()))
        }
        for k, name in enumerate(("probe_f", "probe_g")):
            answers[name] = _probe(known[k], part, mixed.labels, judged[k], validation.labels, asked[k])
        answers["neighbours"] = (
            KNeighborsClassifier(min(neighbours, count), metric="cosine")
            .fit(known[0][part], mixed.labels[part])
            .predict(asked[0])
        )
        for method, answer in answers.items():
            row = {"share": share, "labels": count, "method": method}
            row["accuracy"] = accuracy_score(test.labels, answer)
            row["balanced_accuracy"] = balanced_accuracy_score(test.labels, answer)
            rows.append(row)
    return pd.DataFrame(rows)


def _trained(
    labelled: LabelledImages,
    splits: Sequence[LabelledImages],
    variant: ClassVariant,
    weights: Mapping[str, torch.Tensor] | None,
    name: str,
    job: Job,
    states: Path | None,
) -> NDArray[np.int64]:
    """Train a classifier, and return its answers for the test images."""
    train, validation, test = splits
    recipe = variant.training
    # With any number of labels the same number of images is shown.
    recipe = recipe.model_copy(update={"epoch_stamps": recipe.epoch_stamps or len(train)})
    task = ClassTask(labelled, validation, variant.model_copy(update={"training": recipe}), name, weights)
    state = None if states is None else states / f"{name.replace(' ', '_')}.pt"
    content, _ = training.train(task, replace(job, checkpoint=state))
    return classify(classifier_of(content), test, threads=job.threads)[0].argmax(1)


def _probe(
    known: Floats,
    part: NDArray[np.int64],
    labels: NDArray[np.int64],
    judged: Floats,
    truth: NDArray[np.int64],
    asked: Floats,
) -> NDArray[np.int64]:
    """Return the answers of a linear classifier on features, for the features `asked`."""
    if len(np.unique(labels[part])) == 1:
        return np.full(len(asked), labels[part][0])
    scale = StandardScaler().fit(known)  # needs no labels
    given, judged, asked = (scale.transform(one) for one in (known[part], judged, asked))
    found: list[tuple[float, NDArray[np.int64]]] = []
    for strength in _STRENGTHS:
        probe = LogisticRegression(C=strength, class_weight="balanced", max_iter=1000, tol=1e-3)
        probe.fit(given, labels[part])
        found.append((float(probe.score(judged, truth)), probe.predict(asked)))
    return max(found, key=lambda one: one[0])[1]


def describe_embedding(
    network: EncoderNetwork, test: LabelledImages, threads: int = 1
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the embedding of the test images, and the singular values that show a collapse.

    Parameters
    ----------
    network : EncoderNetwork
    test : LabelledImages
    threads : int
        Number of CPU threads.

    Returns
    -------
    embedding : pandas.DataFrame
        A row for each image: ``label``, and the features ``f0``, ``f1``, ... of unit length.
    spectrum : pandas.DataFrame
        A row for each singular value: ``output`` (``f`` or ``g``), ``number`` (from 1), ``singular_value``,
        and for all of an output ``effective_rank`` and ``collapsed`` (0 or 1), see
        `shearbench.tasks.contrastive.embedding`.
    """
    with torch_settings(threads, 0, torch.device("cpu")):
        found = dict(zip("fg", embed(network, test)))
        parts, units = [], torch.zeros(0, 0)
        for output, vectors in found.items():
            unit = torch.nn.functional.normalize(torch.from_numpy(vectors), dim=1)
            units = unit if output == "f" else units
            values = singular_values(unit)
            table = pd.DataFrame({"singular_value": values.numpy()})
            table.insert(0, "output", output)
            table.insert(1, "number", np.arange(1, len(values) + 1))
            parts.append(
                table.assign(effective_rank=effective_rank(values), collapsed=int(collapsed(values)))
            )
    embedding = pd.DataFrame(units.numpy(), columns=[f"f{k}" for k in range(units.shape[1])])
    embedding.insert(0, "label", test.labels)
    return embedding, pd.concat(parts, ignore_index=True)


def sentences(spectrum: pd.DataFrame, name: str) -> list[str]:
    """Return a sentence for each output of an encoder, which says its rank and whether it has collapsed."""
    said = []
    for output, one in spectrum.groupby("output"):
        text = f"{name}: the effective rank of {output} is {one['effective_rank'].iloc[0]:.1f} of {len(one)}"
        if one["collapsed"].iloc[0]:
            text += (
                "; the embedding has collapsed: images hardly differ in it. Lower training.temperature, "
                "raise training.batch_size, or use other augmentations"
            )
        said.append(text)
    return said
