"""Training of a classifier, and its model file: the weights and everything needed to use them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

import shearbench
from shearbench.data.labelled_images import LabelledImages, balancing_weights
from shearbench.errors import ConfigError
from shearbench.files.origin import Origin
from shearbench.networks import architecture_kinds
from shearbench.tasks.contrastive.network import start_from
from shearbench.tasks.morphology.network import ClassNetwork
from shearbench.tasks.morphology.objective import ClassObjective, Images
from shearbench.tasks.morphology.options import ClassRecipe, ClassVariant, objection
from shearbench.training import train as training
from shearbench.training.checkpoint import check_format, load, save
from shearbench.training.task import Job, Result
from shearbench.training.workers import Workers

RULE = "train_classifier"
FORMAT = "shearbench classifier 1"


@dataclass(frozen=True)
class ClassTask:
    """The training of a classifier, see `shearbench.training.task.Task`.

    Attributes
    ----------
    train, validation : LabelledImages
    variant : ClassVariant
    name : str
        Name of the variant.
    weights : mapping of str to Tensor, optional
        The state of an encoder of the same architecture, from which the network starts; its normalisation
        is taken too.
    """

    train: LabelledImages
    validation: LabelledImages
    variant: ClassVariant
    name: str
    weights: Mapping[str, Tensor] | None = None

    @property
    def recipe(self) -> ClassRecipe:
        """Options of the training of the variant."""
        return self.variant.training

    @property
    def identity(self) -> dict[str, Any]:
        """The variant, as plain values."""
        return {"variant": self.variant.model_dump(mode="json"), "name": self.name}

    def network(self) -> ClassNetwork:
        """Return a network with random weights."""
        _, ny, nx, bands = self.train.images.shape
        return ClassNetwork(self.variant.make(), bands, (ny, nx), len(self.train.classes))

    def drops_out(self) -> bool:
        """Return whether the network has dropout, so that its training steps draw random masks."""
        with torch.random.fork_rng([]):
            return self.network().drops_out

    def start(self, seeds: Sequence[int], device: torch.device, workers: Workers) -> ClassObjective:
        """Make a network for each seed, and put the images on a device."""
        used = self.train
        if self.recipe.galaxies is not None:
            used = used[stratified_first(used.labels, self.recipe.galaxies)]
        train, validation = (on_device(images, device) for images in (used, self.validation))
        classes = len(used.classes)
        weights = np.ones(classes)
        if self.recipe.class_weights == "balanced":
            weights = balancing_weights(used.labels, classes)
        networks = []
        for seed in seeds:
            torch.manual_seed(seed)
            network = self.network().to(device)
            network.fit_scaling(train.images)
            if self.weights is not None:
                self._start_from(network, self.weights)
            workers.take_from_first(network)
            networks.append(network)
        in_loss = torch.tensor(weights, dtype=torch.float32, device=device)
        return ClassObjective(networks, train, validation, in_loss, self.recipe, seeds, workers)

    def _start_from(self, network: ClassNetwork, weights: Mapping[str, Tensor]) -> None:
        prefix = "network."
        inner = {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}
        if (reason := start_from(network.network, inner)) is not None:
            raise ConfigError(f"{self.name}: the encoder has another architecture: {reason}")
        network.mean.copy_(weights["mean"])
        network.spread.copy_(weights["spread"])

    def content(self, objective: ClassObjective, result: Result) -> dict[str, Any]:
        """Return the content of the model file of the first network."""
        network = objective.networks[0]
        _, ny, nx, bands = self.train.images.shape
        return {
            "format": FORMAT,
            "architecture": self.variant.architecture,
            "options": self.variant.options,
            "training": self.recipe.model_dump(mode="json"),
            "shape": (ny, nx),
            "bands": bands,
            "classes": list(self.train.classes),
            "variant": self.name,
            "seed": result.seed,
            "fingerprint": result.fingerprint,
            "epoch": result.epoch,
            "parameters": sum(weight.numel() for weight in network.parameters()),
            "versions": {"shearbench": shearbench.__version__, "torch": str(torch.__version__)},
            "state": {key: value.detach().cpu().clone() for key, value in network.state_dict().items()},
        }


def train_classifier(
    train: LabelledImages, validation: LabelledImages, variant: ClassVariant, name: str, job: Job
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Train a classifier, or continue its training from a checkpoint if there is one.

    Parameters
    ----------
    train, validation : LabelledImages
    variant : ClassVariant
    name : str
        Name of the variant, for progress lines and errors.
    job : Job

    Returns
    -------
    model, history
        See `shearbench.training.train.train`. The history has the columns ``validation_loss`` (the mean
        cross-entropy, in nats) and ``validation_accuracy`` too.

    Raises
    ------
    ConfigError
        The architecture cannot classify images of this size, or there are too few images.
    ShearbenchError, Terminated, ChildProcessError
        See `shearbench.training.train.train`.
    """
    shape = (train.images.shape[1], train.images.shape[2])
    reason = objection(variant.make(), shape) or variant.training.objection(len(train))
    if reason is not None:
        raise ConfigError(f"morphology.variants.{name}: {reason}")
    return training.train(ClassTask(train, validation, variant, name), job)


def on_device(images: LabelledImages, device: torch.device) -> Images:
    """Put images on a device, in the order [n, bands, ny, nx] and the type of the file."""
    pixels = torch.from_numpy(np.ascontiguousarray(np.moveaxis(images.images, 3, 1)))
    return Images(pixels.to(device), torch.from_numpy(images.labels).to(device))


def stratified_first(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return `count` rows with about the same fractions of each class as all rows have.

    A smaller count gives a part of the rows of a larger one.
    """
    place = np.empty(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.sort(np.argsort(place, kind="stable")[:count])


@dataclass
class Classifier:
    """A trained classifier.

    Attributes
    ----------
    network : ClassNetwork
        In evaluation mode, on the CPU.
    about : dict
        The content of the model file without the weights, see `ClassTask.content`.
    """

    network: ClassNetwork
    about: dict[str, Any]


def save_classifier(
    path: str | os.PathLike[str], content: dict[str, Any], origin: Origin | None = None
) -> None:
    """Write a model file, completely or not at all; equal content gives equal bytes."""
    save(path, content, origin)


def load_classifier(path: str | os.PathLike[str], expected: Origin | None = None) -> Classifier:
    """Read a model file.

    Raises
    ------
    ContractError
        The file is damaged, has another origin, or is no classifier.
    """
    content = load(path, RULE, expected)
    check_format(content, FORMAT, path, RULE)
    return classifier_of(content)


def classifier_of(content: Mapping[str, Any]) -> Classifier:
    """Return the classifier that the content of a model file describes."""
    architecture = architecture_kinds()[content["architecture"]](**content["options"])
    with torch.random.fork_rng([]):
        network = ClassNetwork(
            architecture, content["bands"], tuple(content["shape"]), len(content["classes"])
        )
    network.load_state_dict(content["state"])
    return Classifier(network.eval(), {key: value for key, value in content.items() if key != "state"})
