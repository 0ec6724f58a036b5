"""Training of an encoder on stamps without their true shapes, and its model file."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

import shearbench
from shearbench.data.stamps import StampSet
from shearbench.files.origin import Origin
from shearbench.networks.base import Architecture
from shearbench.simulation.populations import Population
from shearbench.tasks.contrastive.embedding import unit
from shearbench.tasks.contrastive.network import projection
from shearbench.tasks.contrastive.objective import ContrastiveObjective
from shearbench.tasks.contrastive.options import StampEncoder, StampRecipe
from shearbench.tasks.shear.augmentation import Stamps, augment
from shearbench.tasks.shear.network import ShearNetwork
from shearbench.training import train as training
from shearbench.training.checkpoint import check_format, load
from shearbench.training.task import Job, Result, TrainedModule
from shearbench.training.workers import Workers

RULE = "pretrain"
FORMAT = "shearbench encoder of stamps 1"
LAYERS = "shear.body.network."
"""The weights of the encoder that a shear network starts from have names that begin so."""
_TARGETS = ("g1", "g2")  # which augmentation turns with the stamp; they are all zero and not used


class EncoderNetwork(TrainedModule):
    """A shear network whose outputs are features instead of a shape, the encoder f, and the projection g.

    Parameters
    ----------
    architecture, shape, pixel_scale, per_galaxy_psf
        As for `ShearNetwork`.
    features : int
        Number of outputs of f.
    projected : (int, int)
        Units of the hidden layer and of the output of g.
    """

    def __init__(
        self,
        architecture: Architecture,
        shape: tuple[int, int],
        pixel_scale: float,
        per_galaxy_psf: bool,
        features: int,
        projected: tuple[int, int],
    ) -> None:
        super().__init__()
        self.shear = ShearNetwork(architecture, shape, pixel_scale, per_galaxy_psf)
        self.shear.body = architecture.body(shape, per_galaxy_psf, architecture.targets, features)
        self.projection = projection(features, *projected)

    @property
    def learned(self) -> tuple[str, ...]:
        """Names of the submodules that contain all weights; see `TrainedModule.learned`."""
        return (LAYERS.rstrip("."), "projection")

    def encode(self, images: Tensor, psf: Tensor, sigma: Tensor) -> Tensor:
        """Return the features f [n, features] of noisy stamps; arguments as for `ShearNetwork.normalise`."""
        return self.shear.body(self.shear.normalise(images, psf, sigma))

    def forward(self, images: Tensor, psf: Tensor, sigma: Tensor) -> Tensor:
        """Return the projections g(f) as unit vectors [n, d]."""
        return unit(self.projection(self.encode(images, psf, sigma)))


@dataclass(frozen=True)
class StampViews:
    """Changed, noisy views of stamps on a device, see `shearbench.tasks.contrastive.objective.Views`.

    Attributes
    ----------
    stamps, validation_stamps : (Tensor, Tensor)
        Noiseless images [n, ny, nx] and PSFs, [ny, nx] or [n, ny, nx].
    recipe : StampRecipe
    pixel_scale : float
        Pixel scale [arcsec].
    """

    stamps: tuple[Tensor, Tensor]
    validation_stamps: tuple[Tensor, Tensor]
    recipe: StampRecipe
    pixel_scale: float

    @property
    def train(self) -> int:
        """Number of training stamps."""
        return len(self.stamps[0])

    @property
    def validation(self) -> int:
        """Number of validation stamps."""
        return min(self.recipe.validation_stamps, len(self.validation_stamps[0]))

    def make(self, rows: Tensor, training: bool, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return a view of each stamp with new noise: images and PSFs [n, ny, nx], and noise levels [n]."""
        every, psf = self.stamps if training else self.validation_stamps
        images, psf = every[rows], psf if psf.ndim == 2 else psf[rows]
        count, device = len(rows), images.device

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator, device=device)

        names = self.recipe.augmentation
        numbers: dict[str, Tensor] = {name: uniform(1, count, 3) for name in names if name != "d4"}
        counts = [len(part) for part in rows.tensor_split(8)]
        own = psf if psf.ndim == 2 else psf[None]
        given = Stamps(images[None], own, images.new_zeros(1, count, 2), _TARGETS, self.pixel_scale)
        changed = augment(given, names, numbers, counts)
        low, high = self.recipe.noise_range
        sigma = low * (uniform(count) * math.log(high / low)).exp()
        images = changed.images[0]
        noise = torch.randn(images.shape, generator=generator, device=device)
        seen = changed.psf.expand(images.shape) if changed.psf.ndim == 2 else changed.psf[0]
        return images + sigma[:, None, None] * noise, seen, sigma


@dataclass(frozen=True)
class EncoderTask:
    """The training of an encoder, see `shearbench.training.task.Task`.

    Attributes
    ----------
    train, validation : StampSet
    variant : StampEncoder
    population : Population
    name : str
        Name of the encoder.
    """

    train: StampSet
    validation: StampSet
    variant: StampEncoder
    population: Population
    name: str

    @property
    def recipe(self) -> StampRecipe:
        """Options of the training."""
        return self.variant.training

    @property
    def identity(self) -> dict[str, Any]:
        """The encoder, as plain values."""
        return {"encoder": self.variant.model_dump(mode="json")}

    def network(self) -> EncoderNetwork:
        """Return an encoder with random weights."""
        stamps, recipe = self.train, self.recipe
        architecture = self.variant.make().adapted(self.population)
        per_galaxy = not stamps.constant_psf
        projected = recipe.projection
        return EncoderNetwork(
            architecture, stamps.shape, stamps.pixel_scale, per_galaxy, recipe.features, projected
        )

    def drops_out(self) -> bool:
        """Return whether the network has dropout, so that its training steps draw random masks."""
        with torch.random.fork_rng([]):
            return self.network().drops_out

    def start(self, seeds: Sequence[int], device: torch.device, workers: Workers) -> ContrastiveObjective:
        """Make an encoder for each seed, and put the stamps on a device."""
        train, validation = (
            tuple(torch.from_numpy(array).to(device) for array in stamps.noiseless())
            for stamps in (self.train, self.validation)
        )
        networks = []
        for seed in seeds:
            torch.manual_seed(seed)
            network = self.network().to(device)
            network.shear.fit_inputs(*train)
            workers.take_from_first(network)
            networks.append(network)
        views = StampViews(train, validation, self.recipe, self.train.pixel_scale)  # type: ignore[arg-type]
        return ContrastiveObjective(networks, views, self.recipe, seeds, workers)

    def content(self, objective: ContrastiveObjective, result: Result) -> dict[str, Any]:
        """Return the content of the model file of the first encoder."""
        network = objective.networks[0]
        return {
            "format": FORMAT,
            "architecture": self.variant.architecture,
            "options": self.variant.options,
            "training": self.recipe.model_dump(mode="json"),
            "shape": tuple(self.train.shape),
            "population": self.train.population,
            "encoder": self.name,
            "seed": result.seed,
            "fingerprint": result.fingerprint,
            "epoch": result.epoch,
            "versions": {"shearbench": shearbench.__version__, "torch": str(torch.__version__)},
            "state": {key: value.detach().cpu().clone() for key, value in network.state_dict().items()},
        }


def train_encoder(
    train: StampSet,
    validation: StampSet,
    variant: StampEncoder,
    population: Population,
    name: str,
    job: Job,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Train an encoder without true shapes, or continue its training from a checkpoint if there is one.

    Parameters
    ----------
    train, validation : StampSet
    variant : StampEncoder
    population : Population
        Population of the stamps.
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
    return training.train(EncoderTask(train, validation, variant, population, name), job)


def encoder_weights(path: str | os.PathLike[str], expected: Origin | None = None) -> dict[str, Tensor]:
    """Return the weights of an encoder's layers, by their names in the body of a shear network.

    Raises
    ------
    ContractError
        The file is damaged, has another origin, or is no encoder of stamps.
    """
    content = load(path, RULE, expected)
    check_format(content, FORMAT, path, RULE)
    return {
        name.removeprefix(LAYERS): value
        for name, value in content["state"].items()
        if name.startswith(LAYERS)
    }
