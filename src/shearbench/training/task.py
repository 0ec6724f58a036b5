"""The protocol between the training loop and a task: batches, loss, validation, content of the model file.

A `Task` is plain data that is sent to each process of a training. Each process makes an `Objective` of it:
networks and data on its device. The loop (`shearbench.training.loop`) uses nothing else of a task.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from shearbench.training.recipe import Recipe
from shearbench.training.tracking import Row, Tracking
from shearbench.training.workers import Workers


class TrainedModule(nn.Module):
    """A network that can be trained.

    Attributes
    ----------
    models : int
        Number of networks among which the inputs are divided, see `shearbench.training.together`.
    parts : int
        Number of networks of the same layers that the first submodule of `learned` consists of. They follow
        each other, and each computes some of the outputs.
    """

    models: int = 1
    parts: int = 1

    @property
    @abstractmethod
    def learned(self) -> tuple[str, ...]:
        """Names of the submodules that contain all weights.

        The first contains the layers of the architecture. `Recipe.precision` and `Recipe.compile` apply to
        it, and its last layer computes the output.
        """

    @property
    def drops_out(self) -> bool:
        """Whether the network has dropout, so that its training steps draw random masks."""
        return any(isinstance(layer, nn.modules.dropout._DropoutNd) for layer in self.modules())


class Objective(Protocol):
    """A task on one device: networks of one architecture, their data and their loss.

    A batch can have any type: `draw` returns it and `loss` takes it. The networks have the task's own class.
    """

    @property
    def networks(self) -> Sequence[TrainedModule]:
        """The networks with their initial weights, one for each seed."""

    @property
    def epoch_items(self) -> int:
        """Number of examples in an epoch; each is shown `Recipe.realisations` times."""

    @property
    def comparable_after(self) -> int:
        """Number of training steps before which the validation loss is not comparable with later ones."""

    def start_epoch(self, epoch: int) -> None:
        """Prepare the examples of an epoch; they depend on the seeds and the epoch only."""

    def draw(self, part: slice, step: int, generator: torch.Generator) -> Any:
        """Return the batch of a step for all networks.

        Parameters
        ----------
        part : slice
            The examples of the epoch that are in the batch; this process takes its share of them.
        step : int
            With the seeds, it determines all random numbers.
        generator : torch.Generator
            A generator on the device; this method seeds it.
        """

    def loss(self, network: Any, batch: Any, step: int) -> Tensor:
        """Return the loss of a batch, summed over the networks.

        Parameters
        ----------
        network : TrainedModule
            The one network that computes all of them, see `shearbench.training.together`.
        batch : object
            As `draw` returns it.
        step : int

        Returns
        -------
        Tensor, shape ()
        """

    def train_loss(self, k: int) -> float:
        """Return the running mean of the training loss of the k-th network, for the history."""

    def validate(self, network: Any) -> dict[str, float]:
        """Return the columns of the history that validation measures.

        One of them is ``validation_loss``: the epoch with the lowest one is the best.
        """

    def state(self, k: int) -> dict[str, Tensor]:
        """Return the state of the k-th training, apart from weights and optimiser, for the checkpoint."""

    def restore(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Continue from the states of all networks, as `state` returned them."""


class Task(Protocol):
    """A task of training, as plain data that can be pickled."""

    @property
    def name(self) -> str:
        """Name of the variant, for progress lines and errors."""

    @property
    def recipe(self) -> Recipe:
        """Options of the training."""

    @property
    def identity(self) -> dict[str, Any]:
        """Plain values that distinguish checkpoints of this task from those of other tasks."""

    def drops_out(self) -> bool:
        """Return whether the network has dropout, so that its training steps draw random masks."""

    def start(self, seeds: Sequence[int], device: torch.device, workers: Workers) -> Objective:
        """Make a network for each seed, and put the data on a device."""

    def content(self, objective: Any, result: Result) -> dict[str, Any]:
        """Return the content of the model file of the first network.

        Parameters
        ----------
        objective : Objective
            As `start` returned it; its networks have the best weights.
        result : Result
        """


@dataclass(frozen=True)
class Result:
    """The result of the training of one network.

    Attributes
    ----------
    seed : int
    fingerprint : str
        As in `Job`.
    epoch : int
        The epoch of the saved weights: the best one, or the one after which the training diverged.
    diverged : bool
        Whether the loss became infinite or NaN.
    """

    seed: int
    fingerprint: str
    epoch: int
    diverged: bool


@dataclass(frozen=True)
class Job:
    """One training of a task: its seed, its files and its share of the machine.

    Attributes
    ----------
    seed : int
        Seed of the initial weights and of all random numbers of the training.
    checkpoint : path-like, optional
        File for the state, rewritten after each epoch and on SIGTERM. The caller deletes it after saving the
        results. It must not be among the outputs that a workflow deletes before each attempt.
    fingerprint : str
        A digest of everything that the training depends on. A checkpoint is used only if its fingerprint is
        the same.
    threads : int
        Number of CPU threads, of all processes together.
    gpus : int
        Number of processes that share each batch, each with its own GPU; on a machine without GPUs they use
        the CPU. The weights differ from those of one process by rounding errors. A checkpoint can be
        continued with another number of processes.
    others : mapping of int to path-like
        Further seeds that are not trained yet, and the files of their checkpoints.
    together : int
        Number of seeds to train at once, this one included. Of `others`, the first that have made the same
        number of steps and that no other process is training are taken. Their final states are saved in
        their checkpoints, so that their own jobs only have to write the results. A network with dropout is
        always trained alone, because its random masks would differ. The steps differ from those of a
        training alone by rounding errors; with SOAP these grow to different, equally good weights.
    gpu_use_path : path-like, optional
        Where to record how much of its GPU the first process used, see `shearbench.jobs.gpu_use`.
    may_diverge : bool
        If the loss becomes infinite or NaN, return the model, marked as diverged, as a study needs it. By
        default this is an error.
    tracking : Tracking, optional
        Where the curves of the training are written.
    watch : callable, optional
        It gets the history of the seed, as rows, at the start and after each epoch. An exception that it
        raises ends the training. Only with one process.
    """

    seed: int
    checkpoint: str | os.PathLike[str] | None = None
    fingerprint: str = ""
    threads: int = 1
    gpus: int = 1
    others: Mapping[int, str | os.PathLike[str]] = field(default_factory=dict)
    together: int = 1
    gpu_use_path: str | os.PathLike[str] | None = None
    may_diverge: bool = False
    tracking: Tracking | None = None
    watch: Callable[[Sequence[Row]], None] | None = None
