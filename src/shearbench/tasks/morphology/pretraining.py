"""Training of an encoder on images without labels, and its model file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

import shearbench
from shearbench.data.labelled_images import LabelledImages
from shearbench.files.origin import Origin
from shearbench.networks import architecture_kinds
from shearbench.networks.base import Architecture
from shearbench.tasks.contrastive.embedding import unit
from shearbench.tasks.contrastive.network import projection
from shearbench.tasks.contrastive.objective import ContrastiveObjective
from shearbench.tasks.morphology.augmentation import augment
from shearbench.tasks.morphology.network import ClassNetwork
from shearbench.tasks.morphology.options import ImageEncoder, ImageRecipe
from shearbench.tasks.morphology.train import on_device
from shearbench.training import train as training
from shearbench.training.checkpoint import check_format, load
from shearbench.training.task import Job, Result
from shearbench.training.workers import Workers

RULE = "pretrain_encoder"
FORMAT = "shearbench encoder of images 1"
_BLOCK = 256  # number of images encoded at once


class EncoderNetwork(ClassNetwork):
    """A network of the zoo as an encoder f, whose outputs are features, and the projection g.

    Parameters
    ----------
    architecture, bands, shape
        As for `ClassNetwork`.
    features : int
        Number of outputs of f.
    projected : (int, int)
        Units of the hidden layer and of the output of g.
    """

    def __init__(
        self,
        architecture: Architecture,
        bands: int,
        shape: tuple[int, int],
        features: int,
        projected: tuple[int, int],
    ) -> None:
        super().__init__(architecture, bands, shape, features)
        self.projection = projection(features, *projected)

    @property
    def learned(self) -> tuple[str, ...]:
        """Names of the submodules that contain all weights; see `TrainedModule.learned`."""
        return ("network", "projection")

    def encode(self, images: Tensor) -> Tensor:
        """Return the features f [n, features] of images [n, bands, ny, nx]."""
        return super().forward(images)

    def forward(self, images: Tensor) -> Tensor:
        """Return the projections g(f) as unit vectors [n, d]."""
        return unit(self.projection(self.encode(images)))


@dataclass(frozen=True)
class ImageViews:
    """Changed views of images on a device, see `shearbench.tasks.contrastive.objective.Views`."""

    pixels: Tensor
    validation_pixels: Tensor
    names: tuple[str, ...]

    @property
    def train(self) -> int:
        """Number of training images."""
        return len(self.pixels)

    @property
    def validation(self) -> int:
        """Number of validation images."""
        return len(self.validation_pixels)

    def make(self, rows: Tensor, training: bool, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return a view [n, bands, ny, nx] of each image."""
        images = (self.pixels if training else self.validation_pixels)[rows].float()
        numbers = torch.rand(len(self.names), len(rows), 3, generator=generator, device=images.device)
        return (augment(images, images.new_zeros(len(rows), 1), self.names, numbers)[0],)


@dataclass(frozen=True)
class EncoderTask:
    """The training of an encoder, see `shearbench.training.task.Task`.

    Attributes
    ----------
    train, validation : LabelledImages
        Their labels are not used.
    variant : ImageEncoder
    name : str
        Name of the encoder.
    """

    train: LabelledImages
    validation: LabelledImages
    variant: ImageEncoder
    name: str

    @property
    def recipe(self) -> ImageRecipe:
        """Options of the training."""
        return self.variant.training

    @property
    def identity(self) -> dict[str, Any]:
        """The encoder, as plain values."""
        return {"encoder": self.variant.model_dump(mode="json")}

    def network(self) -> EncoderNetwork:
        """Return an encoder with random weights."""
        _, ny, nx, bands = self.train.images.shape
        recipe = self.recipe
        return EncoderNetwork(self.variant.make(), bands, (ny, nx), recipe.features, recipe.projection)

    def drops_out(self) -> bool:
        """Return whether the network has dropout, so that its training steps draw random masks."""
        with torch.random.fork_rng([]):
            return self.network().drops_out

    def start(self, seeds: Sequence[int], device: torch.device, workers: Workers) -> ContrastiveObjective:
        """Make an encoder for each seed, and put the images on a device."""
        pixels, validation = (on_device(one, device).images for one in (self.train, self.validation))
        networks = []
        for seed in seeds:
            torch.manual_seed(seed)
            network = self.network().to(device)
            network.fit_scaling(pixels)
            workers.take_from_first(network)
            networks.append(network)
        views = ImageViews(pixels, validation, self.recipe.augmentation)
        return ContrastiveObjective(networks, views, self.recipe, seeds, workers)

    def content(self, objective: ContrastiveObjective, result: Result) -> dict[str, Any]:
        """Return the content of the model file of the first encoder."""
        network = objective.networks[0]
        _, ny, nx, bands = self.train.images.shape
        return {
            "format": FORMAT,
            "architecture": self.variant.architecture,
            "options": self.variant.options,
            "training": self.recipe.model_dump(mode="json"),
            "shape": (ny, nx),
            "bands": bands,
            "encoder": self.name,
            "seed": result.seed,
            "fingerprint": result.fingerprint,
            "epoch": result.epoch,
            "parameters": sum(weight.numel() for weight in network.parameters()),
            "versions": {"shearbench": shearbench.__version__, "torch": str(torch.__version__)},
            "state": {key: value.detach().cpu().clone() for key, value in network.state_dict().items()},
        }


def train_encoder(
    train: LabelledImages, validation: LabelledImages, variant: ImageEncoder, name: str, job: Job
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Train an encoder without labels, or continue its training from a checkpoint if there is one.

    Parameters
    ----------
    train, validation : LabelledImages
    variant : ImageEncoder
    name : str
        Name of the encoder, for progress lines and errors.
    job : Job

    Returns
    -------
    model, history
        See `shearbench.training.train.train`. The history has the columns ``validation_loss`` (InfoNCE, in
        nats), ``alignment``, ``uniformity`` and ``effective_rank`` of the projections.

    Raises
    ------
    ShearbenchError, Terminated, ChildProcessError
        See `shearbench.training.train.train`.
    """
    return training.train(EncoderTask(train, validation, variant, name), job)


def load_encoder(
    path: str | os.PathLike[str], expected: Origin | None = None
) -> tuple[EncoderNetwork, dict[str, Any]]:
    """Read the model file of an encoder, and return it in evaluation mode and the rest of the file.

    Raises
    ------
    ContractError
        The file is damaged, has another origin, or is no encoder.
    """
    content = load(path, RULE, expected)
    check_format(content, FORMAT, path, RULE)
    recipe = content["training"]
    architecture = architecture_kinds()[content["architecture"]](**content["options"])
    with torch.random.fork_rng([]):
        network = EncoderNetwork(
            architecture,
            content["bands"],
            tuple(content["shape"]),
            recipe["features"],
            tuple(recipe["projection"]),
        )
    network.load_state_dict(content["state"])
    return network.eval(), {key: value for key, value in content.items() if key != "state"}


@torch.no_grad()
def embed(network: EncoderNetwork, images: LabelledImages) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the features f [n, features] and the projections g [n, d], unit vectors, of images."""
    pixels = on_device(images, network.mean.device).images
    found = [network.encode(block.float()) for block in pixels.split(_BLOCK)]
    features = torch.cat(found)
    return features.cpu().numpy(), unit(network.projection(features)).cpu().numpy()
