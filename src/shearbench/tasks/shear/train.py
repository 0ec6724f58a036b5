"""Training of a network that measures shapes, from stamps to the content of its model file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from shearbench.errors import ConfigError
from shearbench.networks.base import Architecture
from shearbench.simulation.populations import Population
from shearbench.tasks.contrastive.network import start_from
from shearbench.tasks.shear.data import Rendered, Source, Splits, Stored, load_examples
from shearbench.tasks.shear.model_file import model_content
from shearbench.tasks.shear.network import ShearNetwork
from shearbench.tasks.shear.objective import ShearObjective
from shearbench.training import train as training
from shearbench.training.recipe import Recipe
from shearbench.training.task import Job, Result
from shearbench.training.variants import Variant, architecture_for
from shearbench.training.workers import Workers


def train(
    splits: Splits,
    variant: Variant,
    population: Population,
    name: str,
    job: Job,
    weights: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Train a network that measures shapes, see `shearbench.training.train.train`.

    Parameters
    ----------
    splits : Splits
    variant : Variant
    population : Population
        Population of the stamps. With the option ``data: rendered``, new galaxies are drawn from it.
    name : str
        Name of the variant, for the model file and the progress line.
    job : Job
    weights : mapping of str to Tensor, optional
        The weights of the encoder that `Recipe.start_from` names, see
        `shearbench.tasks.shear.pretraining.encoder_weights`.

    Returns
    -------
    model : dict
        See `shearbench.tasks.shear.model_file`.
    history : pandas.DataFrame
        A row for each epoch, see `shearbench.training.train.train`. ``train_loss`` and ``validation_loss``
        are the geometric mean of the RMSE over the noise levels, divided by the standard deviation of the
        true shapes; ``validation_rmse`` is the RMSE of a component at the lowest noise level.

    Raises
    ------
    ContractError
        The stamps were drawn from another catalog, or have NaN or infinite pixels.
    ConfigError
        See `architecture_for`; or the forward model cannot describe the PSFs; or the encoder has another
        architecture.
    ShearbenchError, Terminated, ChildProcessError
        See `shearbench.training.train.train`.
    """
    return training.train(replace(ShearTask.of(splits, variant, population, name), weights=weights), job)


def validation_loss(splits: Splits, variant: Variant, population: Population, name: str, job: Job) -> float:
    """Train a network as `train` does, and return the validation loss of its best epoch.

    Returns
    -------
    float
        NaN if the training diverged.
    """
    model, history = train(splits, variant, population, name, job)
    best = history.loc[history["epoch"] == model["epoch"], "validation_loss"]
    return math.nan if model["diverged"] else float(best.iloc[0])


@dataclass(frozen=True)
class ShearTask:
    """The training of a network that measures shapes, see `shearbench.training.task.Task`.

    Attributes
    ----------
    splits : Splits
    variant : Variant
    architecture : Architecture
        Architecture of the variant, adapted to the population.
    population : Population
    name : str
        Name of the variant.
    weights : mapping of str to Tensor, optional
        The weights of an encoder of the same architecture, from which the network starts.
    """

    splits: Splits
    variant: Variant
    architecture: Architecture
    population: Population
    name: str
    weights: Mapping[str, Tensor] | None = None

    @classmethod
    def of(cls, splits: Splits, variant: Variant, population: Population, name: str) -> ShearTask:
        """Return the task of training a variant on a population.

        Raises
        ------
        ConfigError
            See `architecture_for`.
        """
        stamps = splits.train
        architecture = architecture_for(f"variants.{name}", variant, population, stamps.shape, len(stamps))
        return cls(splits, variant, architecture, population, name)

    @property
    def recipe(self) -> Recipe:
        """Options of the training of the variant."""
        return self.variant.training

    @property
    def shifted(self) -> bool:
        """Whether the labels are shifted by the noise, see `Recipe.labels`."""
        possible = self.recipe.unmet is None and not self.population.noise.correlation_pixels
        return self.recipe.labels == "posterior" or (self.recipe.labels == "best" and possible)

    @property
    def identity(self) -> dict[str, Any]:
        """The variant, as plain values."""
        return {"variant": self.variant.model_dump(mode="json")}

    def network(self) -> ShearNetwork:
        """Return a network with random weights."""
        stamps = self.splits.train
        return ShearNetwork(self.architecture, stamps.shape, stamps.pixel_scale, not stamps.constant_psf)

    def drops_out(self) -> bool:
        """Return whether the network has dropout, so that its training steps draw random masks."""
        with torch.random.fork_rng([]):
            return self.network().drops_out

    def start(self, seeds: Sequence[int], device: torch.device, workers: Workers) -> ShearObjective:
        """Make a network for each seed, and put the stamps on a device.

        Raises
        ------
        ContractError
            The stamps were drawn from another catalog, or have NaN or infinite pixels.
        ConfigError
            The forward model cannot describe the PSFs, or the galaxies cannot be rendered.
        """
        splits, recipe, targets = self.splits, self.recipe, self.architecture.targets
        examples = load_examples(splits.train, splits.train_catalog, targets, device).first(recipe.galaxies)
        validation = load_examples(splits.validation, splits.validation_catalog, targets, device)
        networks: list[ShearNetwork] = []
        for seed in seeds:
            torch.manual_seed(seed)
            network = self.network().to(device)
            network.fit_scaling(examples.images, examples.psf, examples.parameters)
            if self.weights is not None:
                reason = start_from(network.get_submodule(network.learned[0]), self.weights)
                if reason is not None:
                    raise ConfigError(
                        f"variants.{self.name}: training.start_from: the encoder has another architecture: "
                        f"{reason}"
                    )
            workers.take_from_first(network)
            networks.append(network)
        if network.refinement is not None and not network.refinement.draws(examples.psf):
            raise ConfigError(
                f"variants.{self.name}: options.forward_model: 'mixture' needs Gaussian PSFs that fit into "
                "the stamp, and those of these stamps are not of this kind; use fourier"
            )
        count = recipe.shown(len(examples))
        source: Source = Stored(examples, count, seeds)
        if recipe.data == "rendered":
            source = Rendered(
                self.population,
                splits.train.population,
                splits.train_catalog,
                examples.psf,
                splits.train.pixel_scale,
                targets,
                count,
                seeds,
                recipe.galaxies,
                self.shifted,
            )
        scale = splits.train.pixel_scale
        return ShearObjective(networks, source, count, validation, recipe, seeds, workers, scale)

    def content(self, objective: ShearObjective, result: Result) -> dict[str, Any]:
        """Calibrate the errors of the first network, and return the content of its model file."""
        network = objective.networks[0]
        network.refining = True
        if not result.diverged:
            objective.calibrate(network)
        stamps = self.splits.train
        return model_content(
            network,
            self.variant.model_copy(update={"options": self.architecture.model_dump(mode="json")}),
            name=self.name,
            seed=result.seed,
            fingerprint=result.fingerprint,
            shape=stamps.shape,
            pixel_scale=stamps.pixel_scale,
            population=stamps.population,
            epoch=result.epoch,
            diverged=result.diverged,
        )
