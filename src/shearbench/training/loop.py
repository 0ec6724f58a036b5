"""The training loop: resumable at any step, the same weights every time."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from shearbench.shear_network import Answer, ShearNetwork
from shearbench.training.arithmetic import arithmetic, multiplication
from shearbench.training.checkpoint import Checkpoint
from shearbench.training.data import Examples, Source, draw_batch, fixed_noise
from shearbench.training.optimisers import make_optimisers, rate_at
from shearbench.training.progress import ProgressLine
from shearbench.training.recipe import Recipe
from shearbench.training.settings import Terminated, termination
from shearbench.training.together import join_states, split_state, stacked
from shearbench.training.workers import Workers

_LEVEL_BINS = 8
_LEVEL_MEMORY = 0.02  # how much of a bin's mean square one step replaces
_BLOCK = 250  # validation stamps at once
_REFINE_FROM = 0.5  # part of the steps after which a forward model refines: before, the guess is too far off


class Training:
    """One training, or several in step: networks, optimisers, and all that a checkpoint has to keep.

    The loss of each target at a noise level is divided by its running mean square error at that level, which
    makes the sum over levels that of log RMSE: no level weighs more because its errors are larger. With a
    forward model, the loss of the guess and that of the refined shape are added. The training and
    validation loss reported are the geometric mean over levels of the RMSE, over the spread of true shapes:
    1 is as good as predicting zero.

    Several networks of one architecture take their steps together, computed as one (see
    `shearbench.training.together`): each the steps that it would take alone, but for rounding.

    Parameters
    ----------
    networks : sequence of ShearNetwork
        With their scaling fitted, on the device of the examples.
    source : Source
        Of the training stamps.
    epoch_stamps : int
        How many galaxies an epoch shows.
    validation : Examples
    recipe : Recipe
    seeds : sequence of int
        One for each network.
    workers : Workers, optional
        The processes that share the work. Each has the same networks, sees its share of every batch, and
        measures some of the validation's noise levels. Sums over a batch are sums over the processes, so
        that they take the steps of one process, but for rounding, and for layers that normalise by the
        batch, which see the own share.
    """

    def __init__(
        self,
        networks: Sequence[ShearNetwork],
        source: Source,
        epoch_stamps: int,
        validation: Examples,
        recipe: Recipe,
        seeds: Sequence[int],
        workers: Workers | None = None,
    ) -> None:
        self.networks, self.source, self.validation = networks, source, validation
        self.recipe, self.seeds, self.workers = recipe, seeds, workers or Workers()
        self.models = len(networks)
        self.network = network = stacked(networks)
        self.device = validation.images.device
        self.generator = torch.Generator(self.device)
        self.weights = [weight for weight in network.parameters() if weight.requires_grad]
        self.drops_out = network.drops_out
        self.optimisers = make_optimisers(network, recipe, int(self.models > 1))
        self.average = [weight.detach().clone() for weight in self.weights] if recipe.ema else []
        # In units of the spread; the last column is that of the answer's shape, refined or not.
        columns = len(network.targets) + 1
        self.mean_square = torch.ones(self.models, _LEVEL_BINS, columns, device=self.device)
        self.galaxies = recipe.batch_size // recipe.realisations
        self.epoch_steps = epoch_stamps // self.galaxies
        self.total_stamps = recipe.epochs * self.epoch_steps * recipe.batch_size
        # Of a batch, so many stamps are judged by their refined shapes.
        self.refined, self.refine_from = recipe.batch_size, 0
        if network.refinement is not None:
            self.refined = network.refinement.count(recipe.batch_size)
            steps = recipe.epochs * self.epoch_steps
            self.refine_from = min(math.ceil(_REFINE_FROM * steps), steps - 1)
        self.own_refined = self.refined_by(self.workers)
        self.step = 0
        self.seconds = 0.0
        # Of each network.
        self.stale = [0] * self.models
        self.history: list[list[dict[str, float]]] = [[] for _ in networks]
        self.best: list[dict[str, Tensor]] = [{} for _ in networks]
        # The epoch after which a network's numbers were no longer finite; it takes no further part.
        self.diverged: list[int | None] = [None] * self.models

    def refined_by(self, workers: Workers) -> int:
        """Return how many of these stamps are in a process's share."""
        each = self.recipe.realisations
        galaxies = range(self.galaxies)[workers.share]
        return sum(min(max(self.refined - galaxy * each, 0), each) for galaxy in galaxies)

    def states(self) -> list[dict[str, Any]]:
        """Return everything that the training of each network goes on from, alone or with others."""
        optimisers = [split_state(optimiser.state_dict(), self.models) for optimiser in self.optimisers]
        averages = [average if self.models > 1 else average[None] for average in self.average]
        return [
            {
                "network": {name: value.clone() for name, value in network.state_dict().items()},
                "optimisers": [states[k] for states in optimisers],
                "average": [average[k].clone() for average in averages],
                "mean_square": self.mean_square[k].clone(),
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
        self.mean_square = torch.stack([state["mean_square"] for state in states])
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
        body = self.network.get_submodule("body.network")
        with termination() as terminated, arithmetic(body, recipe, self.device):
            while not all(map(self._ended, range(self.models))):
                start = time.monotonic() - self.seconds
                epoch, done = divmod(self.step, self.epoch_steps)
                self.source.start(epoch if recipe.fresh_noise else 0)
                for k in range(done, self.epoch_steps):
                    if self.workers.any(terminated.is_set()):
                        self.seconds = time.monotonic() - start
                        self._save(checkpoints)
                        if self.workers.first:
                            progress.note("stopped; the next attempt goes on from here")
                        raise Terminated(terminated.signal)
                    self._step(slice(k * self.galaxies, (k + 1) * self.galaxies), steps)
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
            network.refining = True
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

    def _step(self, part: slice, steps: int) -> None:
        recipe, network = self.recipe, self.network
        rate = rate_at(self.step, steps, recipe)
        draw = self.step if recipe.fresh_noise else self.step % self.epoch_steps
        images, psf, sigma, parameters = draw_batch(
            self.source, part, recipe, network.targets, self.seeds, draw, self.generator, self.workers
        )
        if self.drops_out:
            # Dropout draws from torch's own generators: that too follows from (seed, step) alone.
            torch.manual_seed(self.generator.initial_seed() ^ (1 + self.workers.rank))
        network.train()
        for one in (network, *self.networks):
            one.refining = self.step >= self.refine_from
        answer = network(images, psf, sigma, self.own_refined)
        loss = self._loss(answer, network.standardise(parameters, images, psf, sigma), parameters, sigma)
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

    def _loss(self, answer: Answer, truth: Tensor, parameters: Tensor, sigma: Tensor) -> Tensor:
        """Return the sum of the losses of all networks, of each the own part."""
        at = self.network.targets.index("g1")
        residual = answer.standard - truth
        shape = (answer.shapes - parameters[:, at : at + 2]) / self.network.shape_spread
        low, high = self.recipe.noise_range
        place = (sigma / low).log() / max(math.log(high / low), 1e-9)
        bins = torch.arange(_LEVEL_BINS, device=self.device)
        member = ((place * _LEVEL_BINS).long().clamp(0, _LEVEL_BINS - 1)[:, None] == bins).float()
        # From here on each network's are in a dimension of its own.
        residual, shape, member = (q.unflatten(0, (self.models, -1)) for q in (residual, shape, member))
        # Those of this process, of all.
        own, refined = shape.shape[1], self.recipe.batch_size
        if self.network.refining and self.network.refinement is not None:
            own, refined = self.own_refined, self.refined
        judged = shape[:, :own]
        with torch.no_grad():
            # A product with the membership, because a scattered sum is not deterministic on a GPU.
            both = [member.mT @ residual.square(), member[:, :own].mT @ judged.square().mean(2, True)]
            counts = [member.sum(1)[:, :, None], member[:, :own].sum(1)[:, :, None]]
            self.workers.add(*both, *counts)
            found = torch.cat([square / n.clamp_min(1) for square, n in zip(both, counts)], 2)
            seen = torch.cat([counts[0].expand_as(both[0]), counts[1]], 2) > 0
            memory = torch.where(seen, _LEVEL_MEMORY, 0.0)
            if self.step == self.refine_from:  # what was before says nothing of refined answers
                memory[..., -1] = seen[..., -1].float()
            self.mean_square += memory * (found - self.mean_square)
            rms = (member @ self.mean_square).sqrt()
            if self.recipe.loss_scaling == "none":
                rms = torch.ones_like(rms)
        if self.recipe.loss == "nll" and answer.precision is not None:
            absolute = (shape * self.network.shape_spread).flatten(0, 1)
            loss = _negative_log_likelihood(absolute, answer.precision).sum() / self.recipe.batch_size
        else:
            loss = self._size(judged / rms[:, :own, -1:], refined)
        if len(self.network.targets) > 2:
            loss = loss + self._size(residual / rms[..., :-1], self.recipe.batch_size)
        return loss

    def _size(self, scaled: Tensor, count: int) -> Tensor:
        """Return the loss of residuals [models, n, columns] over their rms, of `count` in all processes."""
        if self.recipe.loss == "mae":
            sizes = scaled.abs()
        elif self.recipe.loss == "huber":
            sizes = torch.nn.functional.huber_loss(scaled, torch.zeros_like(scaled), reduction="none")
        elif self.recipe.loss == "msb":
            # Those that a forward model refines may end within a galaxy's realisations.
            count //= self.recipe.realisations
            whole = scaled.shape[1] // self.recipe.realisations * self.recipe.realisations
            sizes = scaled[:, :whole].unflatten(1, (-1, self.recipe.realisations)).mean(2).square()
        else:
            sizes = scaled.square()
        return sizes.sum() / (count * scaled.shape[2])

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
        network, levels = self.networks[k], self.recipe.validation_levels
        found = torch.zeros(len(levels), dtype=torch.float64)
        for level, sigma in list(enumerate(levels))[self.workers.share]:
            residual = evaluate(network, self.validation, sigma, level, self.recipe.validation_stamps)[0]
            found[level] = float(residual.square().mean().sqrt())
        self.workers.add(found)
        rmse = found.tolist()
        loss = float(torch.tensor(rmse).log().mean().exp()) / float(network.shape_spread)
        like = [row["validation_loss"] for row in self._comparable(k)]
        self.stale[k] = self.stale[k] + 1 if self.step > self.refine_from else 0
        state, epoch = network.state_dict(), self.step // self.epoch_steps
        if math.isfinite(loss) and (not like or loss < min(like)):
            self.stale[k] = 0
            self.best[k] = {name: value.detach().clone() for name, value in state.items()}
        row = {
            "epoch": epoch,
            "views": self.views,
            "seconds": self.seconds,
            "learning_rate": self.optimisers[0].param_groups[0]["lr"],
            "train_loss": self._train_loss(k),
            "validation_loss": loss,
            "validation_rmse": rmse[0],
        }
        self.history[k].append(row)
        # Weights and running errors do not come back from NaN or infinity; a single validation may.
        kept = [self.mean_square[k], *(value for value in state.values() if value.is_floating_point())]
        whole = all(bool(torch.isfinite(value).all()) for value in kept)
        if not whole or (self._ended(k) and not self._comparable(k)):
            self.diverged[k] = epoch
        return row

    def _comparable(self, k: int) -> list[dict[str, float]]:
        """Return the rows of a history that can be the best.

        Their loss is finite, and a forward model that is to refine the answers did so.
        """
        return [
            row
            for row in self.history[k]
            if row["views"] > self.refine_from * self.recipe.batch_size
            and math.isfinite(row["validation_loss"])
        ]

    def best_epoch(self, k: int) -> int:
        """Return the epoch that a network's best weights are of."""
        return int(min(self._comparable(k), key=lambda row: row["validation_loss"])["epoch"])

    def _train_loss(self, k: int) -> float:
        return float((0.5 * self.mean_square[k, :, -1].log()).mean().exp())

    def _status(self) -> str:
        losses = " ".join(f"{self._train_loss(k):.3g}" for k in range(self.models))
        text = f"epoch {-(-self.step // self.epoch_steps)}/{self.recipe.epochs}, loss {losses}"
        if all(self.history):
            rmse = " ".join(f"{history[-1]['validation_rmse']:.3g}" for history in self.history)
            text += f", validation rmse {rmse}"
        return text


def clip_gradients(weights: Sequence[Tensor], limit: float, models: int = 1) -> None:
    """Shorten the gradient of each of several models, whose weights are stacked, to a norm of `limit`."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    for k in range(models):
        own = gradients if models == 1 else [gradient[k] for gradient in gradients]
        factor = (limit / (torch.nn.utils.get_total_norm(own) + 1e-6)).clamp_max(1.0)
        torch._foreach_mul_(own, factor)


def _negative_log_likelihood(residual: Tensor, precision: Tensor) -> Tensor:
    """Return |L r|^2 / 2 - log det L of each stamp."""
    first, cross, second = precision.unbind(1)
    whitened = torch.stack([first * residual[:, 0], cross * residual[:, 0] + second * residual[:, 1]], 1)
    return 0.5 * whitened.square().sum(1) - first.log() - second.log()


@torch.inference_mode()
def evaluate(
    network: ShearNetwork, examples: Examples, sigma: float, level: int, limit: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Measure stamps with the fixed noise of a level.

    Parameters
    ----------
    network : ShearNetwork
        Left in evaluation mode.
    examples : Examples
    sigma : float
        Noise per pixel.
    level : int
        Names the noise fields.
    limit : int, optional
        Only the first so many stamps.

    Returns
    -------
    residuals, errors : Tensor, shape (n, 2)
        Estimate minus truth; and the errors as the network has them, uncalibrated.
    snr : Tensor, shape (n,)
        The observed signal-to-noise.
    """
    network.eval()
    generator = torch.Generator(examples.images.device)
    found = []
    stop = min(limit or len(examples), len(examples))
    for block, start in enumerate(range(0, stop, _BLOCK)):
        part = slice(start, min(start + _BLOCK, stop))
        images = examples.images[part]
        images = images + sigma * fixed_noise(images.shape, level, block, generator)
        answer = network(images, examples.psf_of(part), images.new_tensor(sigma))
        found.append((answer.shapes - examples.shapes[part], answer.error, answer.snr))
    residuals, errors, snrs = (torch.cat(column) for column in zip(*found))
    return residuals, errors, snrs
