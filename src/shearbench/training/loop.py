"""The training loop. A training can be resumed at any step, and gives the same weights each time."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from shearbench.training.arithmetic import arithmetic, in_float64, multiplication
from shearbench.training.checkpoint import Checkpoint
from shearbench.training.optimisers import make_optimisers, rate_at, take_step
from shearbench.training.progress import ProgressLine
from shearbench.training.recipe import Recipe
from shearbench.training.task import Objective
from shearbench.training.termination import Terminated, termination
from shearbench.training.together import join_states, split_state, stacked
from shearbench.training.tracking import Report
from shearbench.training.workers import Workers

GRADIENT = "gradient of "
"""Start of the names of a history's columns for the norm of the gradient of each layer."""


class Training:
    """One training, or several at once: networks, optimisers, and everything that a checkpoint contains.

    Several networks of one architecture are computed at once (see `shearbench.training.together`). Each takes
    the same steps as alone, except for rounding errors.

    Parameters
    ----------
    objective : Objective
        The networks with their initial weights, their data and their loss.
    recipe : Recipe
    seeds : sequence of int
        The seed of each network.
    workers : Workers, optional
        The processes that share each batch.
    """

    def __init__(
        self,
        objective: Objective,
        recipe: Recipe,
        seeds: Sequence[int],
        workers: Workers | None = None,
    ) -> None:
        self.objective, self.networks = objective, list(objective.networks)
        self.recipe, self.seeds, self.workers = recipe, seeds, workers or Workers()
        self.models = len(self.networks)
        proper = [one.get_submodule(one.learned[0]) for one in self.networks]
        self._undo = [in_float64(one) for one in proper] if recipe.precision == "float64" else []
        self.network = network = stacked(self.networks)
        self.device = next(network.parameters()).device
        self.generator = torch.Generator(self.device)
        self.weights = [weight for weight in network.parameters() if weight.requires_grad]
        self.layers = [
            name.replace("/", ".").rpartition(".")[0]
            for name, weight in network.named_parameters()
            if weight.requires_grad
        ]
        # Of the last step of an epoch: the norm of the gradient by each weight, in rows of one network each.
        self.gradients: list[list[Tensor]] = []
        self.drops_out = network.drops_out
        self.optimisers = make_optimisers(
            network, recipe, int(self.models > 1), network.learned[0], network.parts
        )
        self.average = [weight.detach().clone() for weight in self.weights] if recipe.ema else []
        self.epoch_steps = recipe.epoch_steps(objective.epoch_items)
        self.total_stamps = recipe.epochs * self.epoch_steps * recipe.batch_size
        self.step = 0
        self.seconds = 0.0
        # One entry for each network; `stale` counts epochs without a better validation loss.
        self.stale = [0] * self.models
        self.history: list[list[dict[str, float]]] = [[] for _ in self.networks]
        self.best: list[dict[str, Tensor]] = [{} for _ in self.networks]
        # The epoch after which a network had infinite or NaN values; it is not validated any more.
        self.diverged: list[int | None] = [None] * self.models

    def states(self) -> list[dict[str, Any]]:
        """Return the state of the training of each network; each can be continued alone or with others."""
        optimisers = [split_state(optimiser.state_dict(), self.models) for optimiser in self.optimisers]
        averages = [average if self.models > 1 else average[None] for average in self.average]
        return [
            {
                "network": {name: value.clone() for name, value in network.state_dict().items()},
                "optimisers": [states[k] for states in optimisers],
                "average": [average[k].clone() for average in averages],
                **self.objective.state(k),
                "step": self.step,
                "seconds": self.seconds / self.models,
                "stale": self.stale[k],
                "ended": self._ended(k),
                "diverged": self.diverged[k],
                "history": self.history[k],
                "best": self.best[k],
            }
            for k, network in enumerate(self.networks)
        ]

    def restore(self, states: Sequence[dict[str, Any]]) -> None:
        """Continue from one state for each network; all states must be of the same step."""
        for network, state in zip(self.networks, states):
            network.load_state_dict(state["network"])
        for optimiser, kept in zip(self.optimisers, zip(*(state["optimisers"] for state in states))):
            optimiser.load_state_dict(join_states(kept))
        for average, parts in zip(self.average, zip(*(state["average"] for state in states))):
            average.copy_(torch.stack(parts).view_as(average))
        self.objective.restore(states)
        self.step, self.seconds = states[0]["step"], sum(state["seconds"] for state in states)
        self.stale, self.history, self.best, self.diverged = (
            [state[key] for state in states] for key in ("stale", "history", "best", "diverged")
        )

    def _stopped(self, k: int) -> bool:
        """Return whether a network has diverged, or has not improved for `Recipe.patience` epochs."""
        late = self.recipe.patience is not None and self.stale[k] >= self.recipe.patience
        return late or self.diverged[k] is not None

    def _ended(self, k: int) -> bool:
        """Return whether the training of a network has ended."""
        return self.step >= self.recipe.epochs * self.epoch_steps or self._stopped(k)

    def run(
        self,
        checkpoints: Sequence[Checkpoint],
        progress: ProgressLine,
        report: Report = lambda histories: None,
    ) -> list[pd.DataFrame]:
        """Train to the end, put the best weights into the networks, and return the histories.

        A network that diverges (see `diverged`) keeps its last weights; the other networks are trained
        further.

        Parameters
        ----------
        checkpoints : sequence of Checkpoint
            The checkpoint of each network.
        progress : ProgressLine
        report : callable
            It gets the history of each network, as rows, at the start and after each epoch
            (`shearbench.training.tracking.tracked`).

        Returns
        -------
        list of pandas.DataFrame
            The history of each network, see `shearbench.training.train.train`.

        Raises
        ------
        Terminated
            The process received SIGTERM or Ctrl-C; the state is saved.
        """
        self.workers.check_same(self.step, "checkpoint (steps)")
        recipe, steps = self.recipe, self.recipe.epochs * self.epoch_steps
        proper = self.network.get_submodule(self.network.learned[0])
        report(self.history)
        with termination() as terminated, arithmetic(proper, recipe, self.device):
            while not all(map(self._ended, range(self.models))):
                start = time.monotonic() - self.seconds
                epoch, done = divmod(self.step, self.epoch_steps)
                self.objective.start_epoch(epoch if recipe.fresh_noise else 0)
                for k in range(done, self.epoch_steps):
                    if self.workers.any(terminated.is_set()):
                        self.seconds = time.monotonic() - start
                        self._save(checkpoints)
                        if self.workers.first:
                            progress.note("stopped; the next attempt continues from here")
                        raise Terminated(terminated.signal)
                    self._step(k, steps)
                    if self.workers.first:
                        progress.step(self.views * self.models, self._status)
                rows = self._validate()
                self.seconds = time.monotonic() - start
                for row in rows:
                    row["seconds"] = self.seconds / self.models
                self._save(checkpoints)
                report(self.history)
                if self.workers.first:
                    progress.line(self.views * self.models, self._status())
        for network, best, diverged in zip(self.networks, self.best, self.diverged):
            if diverged is None:
                network.load_state_dict(best)
        for undo in self._undo:
            undo()
        return [pd.DataFrame(history) for history in self.history]

    @property
    def views(self) -> int:
        """Number of stamps that each network has been shown."""
        return self.step * self.recipe.batch_size

    def _save(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Save the states. All processes wait until the first one has written them."""
        self._average_statistics()
        if self.workers.first:
            for checkpoint, state in zip(checkpoints, self.states()):
                checkpoint.save(state)
        self.workers.wait()

    def _average_statistics(self) -> None:
        for network in self.networks:
            self.workers.average_statistics(network)

    def _step(self, place: int, steps: int) -> None:
        """Take one step.

        Parameters
        ----------
        place : int
            Number of the step within its epoch, from 0.
        steps : int
            Number of steps of the whole training.
        """
        recipe, network = self.recipe, self.network
        rate = rate_at(self.step, steps, recipe)
        draw = self.step if recipe.fresh_noise else self.step % self.epoch_steps
        part = slice(place * recipe.batch_items, (place + 1) * recipe.batch_items)
        batch = self.objective.draw(part, draw, self.generator)
        if self.drops_out:
            # Dropout uses torch's global generators. Seeded here, its masks depend on (seed, step) only.
            torch.manual_seed(self.generator.initial_seed() ^ (1 + self.workers.rank))
        network.train()
        loss = self.objective.loss(network, batch, self.step)
        with multiplication(recipe.precision):
            loss.backward()
        self.workers.add_gradients(self.weights)
        if place == self.epoch_steps - 1:
            self.gradients = gradient_norms(self.weights, self.models)
        if recipe.gradient_clip is not None:
            clip_gradients(self.weights, recipe.gradient_clip, self.models)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            take_step(optimiser)
            optimiser.zero_grad()
        self.step += 1
        if recipe.ema:
            # A shorter mean in the first steps, so that it forgets the initial weights.
            decay = min(recipe.ema, self.step / (self.step + 10))
            torch._foreach_lerp_(self.average, [w.detach() for w in self.weights], 1 - decay)

    def _validate(self) -> list[dict[str, float]]:
        """Validate the networks whose training goes on, and return the new rows of their histories."""
        current = [weight.detach().clone() for weight in self.weights] if self.recipe.ema else []
        if current:
            torch._foreach_copy_([w.detach() for w in self.weights], self.average)
        self._average_statistics()
        rows = [self._judge(k) for k in range(self.models) if not self._stopped(k)]
        if current:
            torch._foreach_copy_([w.detach() for w in self.weights], current)
        return rows

    def _judge(self, k: int) -> dict[str, float]:
        network = self.networks[k]
        found = self.objective.validate(network)
        loss = found["validation_loss"]
        like = [row["validation_loss"] for row in self._comparable(k)]
        self.stale[k] = self.stale[k] + 1 if self.step > self.objective.comparable_after else 0
        state, epoch = network.state_dict(), self.step // self.epoch_steps
        if math.isfinite(loss) and (not like or loss < min(like)):
            self.stale[k] = 0
            self.best[k] = {name: value.detach().clone() for name, value in state.items()}
        row = {
            "epoch": epoch,
            "views": self.views,
            "seconds": self.seconds,
            "learning_rate": self.optimisers[0].param_groups[0]["lr"],
            "train_loss": self.objective.train_loss(k),
            **layer_norms(self.layers, self.gradients[k]),
            **found,
        }
        self.history[k].append(row)
        # A training diverged if its weights or running errors are infinite or NaN. A validation loss
        # alone may be finite again in the next epoch.
        kept = [*self.objective.state(k).values(), *state.values()]
        whole = all(bool(torch.isfinite(value).all()) for value in kept)
        if not whole or (self._ended(k) and not self._comparable(k)):
            self.diverged[k] = epoch
        return row

    def _comparable(self, k: int) -> list[dict[str, float]]:
        """Return the rows of a history among which the best epoch is chosen.

        Their validation loss is finite, and comparable with that of the last epoch (see
        `Objective.comparable_after`).
        """
        return [
            row
            for row in self.history[k]
            if row["views"] > self.objective.comparable_after * self.recipe.batch_size
            and math.isfinite(row["validation_loss"])
        ]

    def best_epoch(self, k: int) -> int:
        """Return the epoch with the lowest validation loss of a network, whose weights are kept."""
        return int(min(self._comparable(k), key=lambda row: row["validation_loss"])["epoch"])

    def _status(self) -> str:
        losses = " ".join(f"{self.objective.train_loss(k):.3g}" for k in range(self.models))
        text = f"epoch {-(-self.step // self.epoch_steps)}/{self.recipe.epochs}, loss {losses}"
        if all(self.history):
            last = [list(history[-1].items())[-1] for history in self.history]
            text += f", {last[0][0].replace('_', ' ')} {' '.join(f'{value:.3g}' for _, value in last)}"
        return text


def gradient_norms(weights: Sequence[Tensor], models: int = 1) -> list[list[Tensor]]:
    """Return the norm of the gradient by each weight, of each model; zero where a weight has no gradient.

    Parameters
    ----------
    weights : sequence of Tensor
        With several models, the first dimension of each weight numbers them.
    models : int
        Number of models.
    """
    found = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    return [
        list(torch._foreach_norm(found if models == 1 else [gradient[k] for gradient in found]))
        for k in range(models)
    ]


def layer_norms(layers: Sequence[str], norms: Sequence[Tensor]) -> dict[str, float]:
    """Return the columns of a history for the norm of the gradient: of all weights and of each layer.

    Parameters
    ----------
    layers : sequence of str
        The layer of each weight.
    norms : sequence of Tensor
        The norm of the gradient by each weight.

    Returns
    -------
    dict of str to float
        ``gradient_norm``, and `GRADIENT` followed by the name of the layer for each layer, in order.
    """
    squares = dict.fromkeys(layers, 0.0)
    for layer, norm in zip(layers, torch.stack(list(norms)).double().square().tolist(), strict=True):
        squares[layer] += norm
    own = {GRADIENT + layer: math.sqrt(square) for layer, square in squares.items()}
    return {"gradient_norm": math.sqrt(sum(squares.values())), **own}


def clip_gradients(weights: Sequence[Tensor], limit: float, models: int = 1) -> None:
    """Shorten the gradient of each model whose norm is larger than `limit` to this norm.

    Parameters
    ----------
    weights : sequence of Tensor
        With several models, the first dimension of each weight numbers them.
    limit : float
    models : int
        Number of models.
    """
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    for k in range(models):
        own = gradients if models == 1 else [gradient[k] for gradient in gradients]
        factor = (limit / (torch.nn.utils.get_total_norm(own) + 1e-6)).clamp_max(1.0)
        torch._foreach_mul_(own, factor)
