"""What a training has to know of its task: how a batch is drawn, what is minimised, measured and written.

A `Task` is plain data, which is sent to every process of a training. There it becomes an `Objective`:
networks and data on that process's device. The loop (`shearbench.training.loop`) knows no more of a task.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from shearbench.training.recipe import Recipe
from shearbench.training.workers import Workers


class TrainedModule(nn.Module):
    """A network that can be trained.

    Attributes
    ----------
    models : int
        Among so many networks the inputs are divided, see `shearbench.training.together`.
    """

    models: int = 1

    @property
    @abstractmethod
    def learned(self) -> tuple[str, ...]:
        """Names of the submodules that hold all weights; the first is the network proper.

        Precision and compilation concern that one, and its last layer is where the answer comes from.
        """

    @property
    def drops_out(self) -> bool:
        """Whether its training steps draw random masks."""
        return any(isinstance(layer, nn.Dropout) for layer in self.modules())


class Objective(Protocol):
    """A task at work: some networks of one architecture, their data and their loss, on one device.

    A batch is of any type: `draw` makes it and `loss` takes it. Networks are of the task's own class.
    """

    @property
    def networks(self) -> Sequence[TrainedModule]:
        """The networks at their start, one for each seed."""

    @property
    def epoch_items(self) -> int:
        """Examples that an epoch shows, each `Recipe.realisations` times."""

    @property
    def comparable_after(self) -> int:
        """Steps of the training after which the losses of two validations can be compared."""

    def start_epoch(self, epoch: int) -> None:
        """Prepare the examples of an epoch; they depend on seeds and epoch alone."""

    def draw(self, part: slice, step: int, generator: torch.Generator) -> Any:
        """Return the batch of a step: the own share of a part of the epoch's examples, for all networks.

        All random numbers follow from the seeds and the step, by the generator, which is seeded here.
        """

    def loss(self, network: Any, batch: Any, step: int) -> Tensor:
        """Return the sum over the networks of the loss of a batch, a number; `network` holds all of them."""

    def train_loss(self, k: int) -> float:
        """Return the running training loss of a network, as the history reports it."""

    def validate(self, network: Any) -> dict[str, float]:
        """Measure a network: ``validation_loss``, by which the best epoch is found, and further columns."""

    def state(self, k: int) -> dict[str, Tensor]:
        """Return what the training of a network goes on from, beside its weights and its optimiser."""

    def restore(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Take up a state for each network."""


class Task(Protocol):
    """What is learned, as plain data that can be pickled."""

    @property
    def name(self) -> str:
        """What progress and errors call it: a variant's name."""

    @property
    def recipe(self) -> Recipe:
        """How it is trained."""

    @property
    def identity(self) -> dict[str, Any]:
        """Plain values that tell its checkpoints from those of other tasks."""

    def drops_out(self) -> bool:
        """Return whether its training steps draw random masks."""

    def start(self, seeds: Sequence[int], device: torch.device, workers: Workers) -> Objective:
        """Make the networks of some seeds and put the data on a device."""

    def content(self, objective: Any, result: Result) -> dict[str, Any]:
        """Return what the model file of the first network holds; `objective` is one that `start` made."""


@dataclass(frozen=True)
class Result:
    """How the training of one network ended.

    Attributes
    ----------
    seed : int
    fingerprint : str
        As in `Job`.
    epoch : int
        The epoch that the weights are of: the best one, or that after which the training diverged.
    diverged : bool
        Whether the loss did not stay finite.
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
        Of the weights at the start and of all random numbers of the training.
    checkpoint : path-like, optional
        File for the state, rewritten after each epoch and at SIGTERM. The caller removes it when it has the
        results in safety. It must lie outside outputs that a workflow clears.
    fingerprint : str
        A digest of all that the training depends on: a checkpoint is used only if it has the same.
    threads : int
        CPU threads.
    gpus : int
        Processes among which every batch is shared, each on a GPU of its own; on the CPU where there are
        none. They share the threads. The weights differ from those of one process by rounding, and a
        checkpoint may be taken up by another number.
    others : mapping of int to path-like
        Seeds that are not trained yet either, and the files of their states.
    together : int
        How many seeds to train in the same steps, all networks computed as one: of the others, the first that
        are at the same step and that no other process has. Their states are left for their own calls, which
        have nothing to do but to end. A network that drops out is trained alone: its masks would be others.
        The steps differ from those of a training alone by rounding, of which SOAP makes another, equally
        good training.
    gpu_use : path-like, optional
        Where to note how much of its GPU the first process used, see `shearbench.jobs.gpu_use`.
    may_diverge : bool
        Return a training whose loss does not stay finite, and say so in the model, as a study asks; by
        default it is an error.
    """

    seed: int
    checkpoint: str | os.PathLike[str] | None = None
    fingerprint: str = ""
    threads: int = 1
    gpus: int = 1
    others: Mapping[int, str | os.PathLike[str]] = field(default_factory=dict)
    together: int = 1
    gpu_use: str | os.PathLike[str] | None = None
    may_diverge: bool = False
