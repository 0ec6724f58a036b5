"""The training loop: resumable at any step, the same weights every time."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from shearbench.training.arithmetic import arithmetic, multiplication
from shearbench.training.checkpoint import Checkpoint
from shearbench.training.optimisers import make_optimisers, rate_at
from shearbench.training.progress import ProgressLine
from shearbench.training.recipe import Recipe
from shearbench.training.task import Objective
from shearbench.training.termination import Terminated, termination
from shearbench.training.together import join_states, split_state, stacked
from shearbench.training.workers import Workers


class Training:
    """One training, or several in step: networks, optimisers, and all that a checkpoint has to keep.

    Several networks of one architecture take their steps together, computed as one (see
    `shearbench.training.together`): each the steps that it would take alone, but for rounding.

    Parameters
    ----------
    objective : Objective
        The networks at their start, their data and their loss.
    recipe : Recipe
    seeds : sequence of int
        One for each network.
    workers : Workers, optional
        The processes that share the work, each with its own part of every batch.
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
        self.network = network = stacked(self.networks)
        self.device = next(network.parameters()).device
        self.generator = torch.Generator(self.device)
        self.weights = [weight for weight in network.parameters() if weight.requires_grad]
        self.drops_out = network.drops_out
        self.optimisers = make_optimisers(network, recipe, int(self.models > 1), network.learned[0])
        self.average = [weight.detach().clone() for weight in self.weights] if recipe.ema else []
        self.epoch_steps = recipe.epoch_steps(objective.epoch_items)
        self.total_stamps = recipe.epochs * self.epoch_steps * recipe.batch_size
        self.step = 0
        self.seconds = 0.0
        # Of each network.
        self.stale = [0] * self.models
        self.history: list[list[dict[str, float]]] = [[] for _ in self.networks]
        self.best: list[dict[str, Tensor]] = [{} for _ in self.networks]
        # The epoch after which a network's numbers were no longer finite; it takes no further part.
        self.diverged: list[int | None] = [None] * self.models

    def states(self) -> list[dict[str, Any]]:
        """Return everything that the training of each network goes on from, alone or with others."""
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
        """Go on from a state for each network, all of the same step."""
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
        """Return whether a network has diverged, or has not become better for too long."""
        late = self.recipe.patience is not None and self.stale[k] >= self.recipe.patience
        return late or self.diverged[k] is not None

    def _ended(self, k: int) -> bool:
        """Return whether there is nothing left to do for a network."""
        return self.step >= self.recipe.epochs * self.epoch_steps or self._stopped(k)

    def run(self, checkpoints: Sequence[Checkpoint], progress: ProgressLine) -> list[pd.DataFrame]:
        """Train to the end, leave the best weights in the networks, and return their histories.

        A network that diverges (`diverged`) keeps the weights that it ended with; the others go on.

        Parameters
        ----------
        checkpoints : sequence of Checkpoint
            Where the states of the networks are kept.
        progress : ProgressLine

        Raises
        ------
        Terminated
            SIGTERM or Ctrl-C came; the state is saved.
        """
        self.workers.check_same(self.step, "checkpoint (steps)")
        recipe, steps = self.recipe, self.recipe.epochs * self.epoch_steps
        proper = self.network.get_submodule(self.network.learned[0])
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
                            progress.note("stopped; the next attempt goes on from here")
                        raise Terminated(terminated.signal)
                    self._step(k, steps)
                    if self.workers.first:
                        progress.step(self.views * self.models, self._status)
                rows = self._validate()
                self.seconds = time.monotonic() - start
                for row in rows:
                    row["seconds"] = self.seconds / self.models
                self._save(checkpoints)
                if self.workers.first:
                    progress.line(self.views * self.models, self._status())
        for network, best, diverged in zip(self.networks, self.best, self.diverged):
            if diverged is None:
                network.load_state_dict(best)
        return [pd.DataFrame(history) for history in self.history]

    @property
    def views(self) -> int:
        """Stamps that each network has been shown."""
        return self.step * self.recipe.batch_size

    def _save(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Save the states; nobody goes on, or leaves, before that is done."""
        self._average_statistics()
        if self.workers.first:
            for checkpoint, state in zip(checkpoints, self.states()):
                checkpoint.save(state)
        self.workers.wait()

    def _average_statistics(self) -> None:
        for network in self.networks:
            self.workers.average_statistics(network)

    def _step(self, place: int, steps: int) -> None:
        """Take a step: that of a place in the epoch, of so many steps of the whole training."""
        recipe, network = self.recipe, self.network
        rate = rate_at(self.step, steps, recipe)
        draw = self.step if recipe.fresh_noise else self.step % self.epoch_steps
        part = slice(place * recipe.batch_items, (place + 1) * recipe.batch_items)
        batch = self.objective.draw(part, draw, self.generator)
        if self.drops_out:
            # Dropout draws from torch's own generators: that too follows from (seed, step) alone.
            torch.manual_seed(self.generator.initial_seed() ^ (1 + self.workers.rank))
        network.train()
        loss = self.objective.loss(network, batch, self.step)
        with multiplication(recipe.precision):
            loss.backward()
        self.workers.add_gradients(self.weights)
        if recipe.gradient_clip is not None:
            clip_gradients(self.weights, recipe.gradient_clip, self.models)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
            optimiser.zero_grad()
        self.step += 1
        if recipe.ema:
            # In the first steps the mean must not remember the start.
            decay = min(recipe.ema, self.step / (self.step + 10))
            torch._foreach_lerp_(self.average, [w.detach() for w in self.weights], 1 - decay)

    def _validate(self) -> list[dict[str, float]]:
        """Judge the networks that have not ended; add a row to the history of each, and return those rows."""
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
            **found,
        }
        self.history[k].append(row)
        # Weights and running errors do not come back from NaN or infinity; a single validation may.
        kept = [*self.objective.state(k).values(), *state.values()]
        whole = all(bool(torch.isfinite(value).all()) for value in kept)
        if not whole or (self._ended(k) and not self._comparable(k)):
            self.diverged[k] = epoch
        return row

    def _comparable(self, k: int) -> list[dict[str, float]]:
        """Return the rows of a history that can be the best.

        Their loss is finite, and can be compared with that of the last one.
        """
        return [
            row
            for row in self.history[k]
            if row["views"] > self.objective.comparable_after * self.recipe.batch_size
            and math.isfinite(row["validation_loss"])
        ]

    def best_epoch(self, k: int) -> int:
        """Return the epoch that a network's best weights are of."""
        return int(min(self._comparable(k), key=lambda row: row["validation_loss"])["epoch"])

    def _status(self) -> str:
        losses = " ".join(f"{self.objective.train_loss(k):.3g}" for k in range(self.models))
        text = f"epoch {-(-self.step // self.epoch_steps)}/{self.recipe.epochs}, loss {losses}"
        if all(self.history):
            last = [list(history[-1].items())[-1] for history in self.history]
            text += f", {last[0][0].replace('_', ' ')} {' '.join(f'{value:.3g}' for _, value in last)}"
        return text


def clip_gradients(weights: Sequence[Tensor], limit: float, models: int = 1) -> None:
    """Shorten the gradient of each of several models, whose weights are stacked, to a norm of `limit`."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    for k in range(models):
        own = gradients if models == 1 else [gradient[k] for gradient in gradients]
        factor = (limit / (torch.nn.utils.get_total_norm(own) + 1e-6)).clamp_max(1.0)
        torch._foreach_mul_(own, factor)
