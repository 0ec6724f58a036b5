"""Classes of galaxies compared with the truth: accuracy, calibration, invariance, examples.

All errors are bootstrap errors over the test images: each resample has a number of copies of each image, the
same for all classifiers and seeds, so that classifiers are compared on the same images. Values are means over
the training seeds; their scatter is given beside.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shearbench.files.hdf5 import add_dataset, create_hdf5, open_hdf5
from shearbench.files.origin import Origin

EXAMPLES = 3
"""Number of images of each class that are shown."""
WRONG = 10
"""Number of the most confidently wrong images that are shown."""
_BINS = 10  # of confidence, with equal numbers of images

Floats = NDArray[np.float64]


def predictions(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], angles: Sequence[float]
) -> pd.DataFrame:
    """Return the answers of a classifier as a table.

    Parameters
    ----------
    probabilities : ndarray, shape (angles, n, classes)
    labels : ndarray of int, shape (n,)
    angles : sequence of float
        [degrees]

    Returns
    -------
    pandas.DataFrame
        A row for each angle and image: ``angle_deg``, ``image`` (its number among the test images),
        ``label``, and ``p0``, ``p1``, ... (probability of each class).
    """
    count, classes = len(labels), probabilities.shape[2]
    table = pd.DataFrame(
        {
            "angle_deg": np.repeat(np.asarray(angles, float), count),
            "image": np.tile(np.arange(count), len(angles)),
            "label": np.tile(labels, len(angles)),
        }
    )
    columns = [f"p{k}" for k in range(classes)]
    return pd.concat([table, pd.DataFrame(probabilities.reshape(-1, classes), columns=columns)], axis=1)


def evaluate(
    tables: Sequence[pd.DataFrame],
    histories: Sequence[pd.DataFrame],
    classes: Sequence[str],
    resamples: int,
) -> dict[str, pd.DataFrame]:
    """Compare the answers of all classifiers with the truth.

    Parameters
    ----------
    tables : sequence of pandas.DataFrame
        The answers of each classifier, see `predictions`. Their attributes have ``variant``, ``seed``,
        ``epoch`` (the best one), ``parameters`` and ``architecture``.
    histories : sequence of pandas.DataFrame
        The history of each training.
    classes : sequence of str
    resamples : int
        Number of bootstrap resamples.

    Returns
    -------
    dict of str to pandas.DataFrame
        ``summary``: a row for each variant, with ``accuracy``, ``balanced_accuracy`` (mean recall of the
        classes), ``loss`` (mean cross-entropy, nats), ``ece`` (expected calibration error), each with
        its ``_error`` and ``_scatter`` (standard deviation over the seeds). ``classes``: precision and recall
        of each class. ``confusion``: number of images (mean over the seeds) and fraction of the true class.
        ``calibration``: fraction of right answers in bins of confidence. ``angles``: accuracy and agreement
        with the answer at 0 degrees. ``training``: the columns that all
        histories have.
    """
    found: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("summary", "classes", "confusion", "calibration", "angles")
    }
    for variant in dict.fromkeys(str(table.attrs["variant"]) for table in tables):
        chosen = [k for k, table in enumerate(tables) if table.attrs["variant"] == variant]
        _judge(
            variant, [tables[k] for k in chosen], [histories[k] for k in chosen], classes, resamples, found
        )
    training = [
        history.assign(variant=table.attrs["variant"], seed=table.attrs["seed"])
        for table, history in zip(tables, histories)
    ]
    return {
        **{name: pd.DataFrame(rows) for name, rows in found.items()},
        "training": pd.concat(training, ignore_index=True, join="inner"),
    }


def _judge(
    variant: str,
    tables: Sequence[pd.DataFrame],
    histories: Sequence[pd.DataFrame],
    classes: Sequence[str],
    resamples: int,
    found: dict[str, list[dict[str, Any]]],
) -> None:
    """Add the rows of a variant to all tables."""
    upright = [table[table["angle_deg"] == 0] for table in tables]
    labels, count = upright[0]["label"].to_numpy(), len(classes)
    copies = resampled(len(labels), resamples)
    given = [_probabilities(table, count) for table in upright]
    answers = [one.argmax(1) for one in given]
    # The confusion matrix of each resample is a sum over images, and all that follows is a function of it.
    each = [np.eye(count * count)[labels * count + answer] for answer in answers]
    whole = np.stack([one.sum(0) for one in each]).reshape(-1, count, count)
    drawn = np.stack([copies @ one for one in each]).reshape(-1, resamples, count, count)
    first, best = tables[0].attrs, [int(table.attrs["epoch"]) for table in tables]
    row: dict[str, Any] = {
        "variant": variant,
        "architecture": first["architecture"],
        "parameters": first["parameters"],
        "n_images": len(labels),
        "n_seeds": len(tables),
        "best_epoch": float(np.mean(best)),
        "seconds": float(np.mean([history["seconds"].iloc[-1] for history in histories])),
        "validation_accuracy": float(
            np.mean(
                [
                    history.set_index("epoch")["validation_accuracy"][epoch]
                    for history, epoch in zip(histories, best)
                ]
            )
        ),
    }
    for name, measure in (("accuracy", accuracy), ("balanced_accuracy", balanced_accuracy)):
        row |= _column(name, measure(whole), measure(drawn).mean(0))
    right = [answer == labels for answer in answers]
    losses = [-np.log(np.maximum(one[np.arange(len(labels)), labels], 1e-12)) for one in given]
    row |= _column(
        "loss", np.array([one.mean() for one in losses]), copies @ np.mean(losses, 0) / len(labels)
    )
    measured = [calibration_error(one.max(1), hit, copies) for one, hit in zip(given, right)]
    row |= _column(
        "ece", np.array([value for value, _ in measured]), np.mean([some for _, some in measured], 0)
    )
    found["summary"].append(row)
    of_classes: dict[str, Callable[[Floats], Floats]] = {"precision": precision, "recall": recall}
    measured_classes = {name: (measure(whole), measure(drawn)) for name, measure in of_classes.items()}
    for k, label in enumerate(classes):
        entry: dict[str, Any] = {"variant": variant, "class": k, "name": label}
        entry["n_images"] = int((labels == k).sum())
        for name, (values, some) in measured_classes.items():
            entry[name] = _mean(values[:, k])
            entry[f"{name}_error"] = _deviation(_over_seeds(some[:, :, k]))
        found["classes"].append(entry)
        for j in range(count):
            mean = whole[:, k, j].mean()
            part = {"true": k, "predicted": j, "n": mean, "fraction": mean / max((labels == k).sum(), 1)}
            found["confusion"].append({"variant": variant, "name": label, **part})
    found["calibration"] += [
        {"variant": variant, **bin_}
        for bin_ in reliability(np.concatenate([one.max(1) for one in given]), np.concatenate(right))
    ]
    for angle in dict.fromkeys(tables[0]["angle_deg"]):
        turned = [_probabilities(table[table["angle_deg"] == angle], count).argmax(1) for table in tables]
        hits = np.mean([one == labels for one in turned], 0)
        same = np.mean([one == answer for one, answer in zip(turned, answers)], 0)
        entry = {"variant": variant, "angle_deg": angle}
        for name, values in (("accuracy", hits), ("agreement", same)):
            entry[name] = float(values.mean())
            entry[f"{name}_error"] = _deviation(copies @ values / len(labels))
        found["angles"].append(entry)


def resampled(count: int, resamples: int, seed: int = 0) -> Floats:
    """Return how many copies of each image each bootstrap resample has, shape (resamples, count)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(float)


def _probabilities(table: pd.DataFrame, classes: int) -> Floats:
    return table[[f"p{k}" for k in range(classes)]].to_numpy(float)


def _column(name: str, seeds: Floats, drawn: Floats) -> dict[str, float]:
    """Return a value, its error and its scatter over the seeds, as columns of a table."""
    scatter = float(seeds.std(ddof=1)) if len(seeds) > 1 else float("nan")
    return {name: float(seeds.mean()), f"{name}_error": _deviation(drawn), f"{name}_scatter": scatter}


def _mean(values: Floats) -> float:
    """Return the mean of the finite values, or NaN if there are none."""
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if kept.size else float("nan")


def _over_seeds(values: Floats) -> Floats:
    """Return the means over the first dimension of the finite values."""
    finite = np.isfinite(values)
    number = finite.sum(0)
    total = np.where(finite, values, 0.0).sum(0)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _deviation(drawn: Floats) -> float:
    kept = drawn[np.isfinite(drawn)]
    return float(kept.std(ddof=1)) if kept.size > 1 else float("nan")


def accuracy(confusion: Floats) -> Floats:
    """Return the fraction of right answers, of matrices [..., true, predicted]."""
    return np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum((-2, -1))


def recall(confusion: Floats) -> Floats:
    """Return the fraction of each true class that is found, [..., classes]; NaN without images."""
    return _ratio(np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1))


def precision(confusion: Floats) -> Floats:
    """Return the fraction of right answers among those of each class, [..., classes]; NaN without any."""
    return _ratio(np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-2))


def balanced_accuracy(confusion: Floats) -> Floats:
    """Return the mean recall of the classes that have images."""
    return _over_seeds(np.moveaxis(recall(confusion), -1, 0))


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)


def calibration_error(confidence: Floats, right: NDArray[np.bool_], copies: Floats) -> tuple[float, Floats]:
    """Return the expected calibration error of all images and of bootstrap resamples.

    The mean over images of |fraction of right answers - mean confidence| in bins of confidence with equal
    numbers of images (Guo et al. 2017, arXiv:1706.04599).

    Parameters
    ----------
    confidence : ndarray, shape (n,)
        Probability of the answer.
    right : ndarray of bool, shape (n,)
    copies : ndarray, shape (resamples, n)
        See `resampled`.
    """
    rows = np.array_split(np.argsort(confidence, kind="stable"), _BINS)
    excess = right - confidence
    value = sum(abs(excess[part].sum()) for part in rows if len(part)) / len(excess)
    drawn = sum(np.abs(copies[:, part] @ excess[part]) for part in rows if len(part)) / len(excess)
    return float(value), np.asarray(drawn)


def reliability(confidence: Floats, right: NDArray[np.bool_]) -> list[dict[str, float]]:
    """Return the fraction of right answers in bins of confidence with equal numbers of answers.

    Returns
    -------
    list of dict
        ``confidence`` (mean), ``accuracy``, ``accuracy_error`` (binomial) and ``n`` of each bin.
    """
    bins = []
    for part in np.array_split(np.argsort(confidence, kind="stable"), min(_BINS, len(confidence))):
        share = float(right[part].mean())
        # Of a bin without or with nothing but right answers, the error of one answer that differs.
        variance = max(share * (1 - share), 1 / len(part)) / len(part)
        bins.append(
            {
                "confidence": float(confidence[part].mean()),
                "accuracy": share,
                "accuracy_error": float(np.sqrt(variance)),
                "n": len(part),
            }
        )
    return bins


def best_variant(summary: pd.DataFrame) -> str:
    """Return the variant with the highest accuracy of the validation images."""
    return str(summary["variant"].iloc[int(summary["validation_accuracy"].to_numpy().argmax())])


def write_examples(
    path: str | os.PathLike[str],
    images: NDArray[Any],
    classes: Sequence[str],
    tables: Sequence[pd.DataFrame],
    found: Mapping[str, pd.DataFrame],
    origin: Origin | None = None,
) -> None:
    """Write images of each class, and those of which the best classifier was most confidently wrong.

    Parameters
    ----------
    path : path-like
    images : ndarray, shape (n, ny, nx, bands)
        The test images.
    classes : sequence of str
    tables : sequence of pandas.DataFrame
        As for `evaluate`; of the best variant, the first seed is taken.
    found : mapping of str to pandas.DataFrame
        The result of `evaluate`.
    origin : Origin, optional
        The origin to store with the file.
    """
    best = best_variant(found["summary"])
    table = next(one for one in tables if one.attrs["variant"] == best)
    table = table[table["angle_deg"] == 0]
    labels, given = table["label"].to_numpy(), _probabilities(table, len(classes))
    chosen = [np.flatnonzero(labels == k)[:EXAMPLES] for k in range(len(classes))]
    answers, confidence = given.argmax(1), given.max(1)
    order = np.argsort(-confidence, kind="stable")
    wrong = order[(answers != labels)[order]][:WRONG]
    shown = np.concatenate(chosen)
    with create_hdf5(path, origin) as file:
        about = {"classes": list(classes), "variant": best}
        file.attrs["about"] = np.bytes_(json.dumps(about))
        for name, rows in (("examples", shown), ("wrong", wrong)):
            if len(rows):
                add_dataset(file, name, displayed(images[rows]))
                add_dataset(file, f"{name}_labels", labels[rows])
                add_dataset(file, f"{name}_answers", answers[rows])
                add_dataset(file, f"{name}_confidence", confidence[rows])


def displayed(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Return images as red, green and blue of 0 to 255; unless there are three bands, the first as grey."""
    if images.shape[-1] != 3:
        images = np.repeat(images[..., :1], 3, axis=-1)
    if images.dtype == np.uint8:
        return images
    low, high = (np.percentile(images, q, axis=(1, 2, 3), keepdims=True) for q in (1, 99.7))
    return (255 * np.clip((images - low) / np.maximum(high - low, 1e-12), 0, 1)).astype(np.uint8)


def read_examples(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return what `write_examples` wrote: ``classes`` and ``variant``, and the arrays by their names."""
    with open_hdf5(path, "images of galaxies", "evaluate_morphology") as file:
        about = json.loads(file.attrs["about"])
        return about, {name: file[name][:] for name in file}
