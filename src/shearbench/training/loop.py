"""The training loop: resumable at any step, the same weights every time."""

from __future__ import annotations

import math
import time
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
from shearbench.training.workers import Workers

_LEVEL_BINS = 8
_LEVEL_MEMORY = 0.02  # how much of a bin's mean square one step replaces
_BLOCK = 250  # validation stamps at once
_REFINE_FROM = 0.5  # part of the steps after which a forward model refines: before, the guess is too far off


class Training:
    """One training: its network, optimisers, and all that a checkpoint has to keep.

    The loss of each target at a noise level is divided by its running mean square error at that level, which
    makes the sum over levels that of log RMSE: no level weighs more because its errors are larger. With a
    forward model, the loss of the guess and that of the refined shape are added. The training and
    validation loss reported are the geometric mean over levels of the RMSE, over the spread of true shapes:
    1 is as good as predicting zero.

    Parameters
    ----------
    network : ShearNetwork
        With its scaling fitted, on the device of the examples.
    source : Source
        Of the training stamps.
    epoch_stamps : int
        How many galaxies an epoch shows.
    validation : Examples
    recipe : Recipe
    seed : int
    workers : Workers, optional
        The processes that share the work. Each has the same network, sees its share of every batch, and
        measures some of the validation's noise levels. Sums over a batch are sums over the processes, so
        that they take the steps of one process, but for rounding, and for layers that normalise by the
        batch, which see the own share.
    """

    def __init__(
        self,
        network: ShearNetwork,
        source: Source,
        epoch_stamps: int,
        validation: Examples,
        recipe: Recipe,
        seed: int,
        workers: Workers | None = None,
    ) -> None:
        self.network, self.source, self.validation = network, source, validation
        self.recipe, self.seed, self.workers = recipe, seed, workers or Workers()
        self.device = validation.images.device
        self.generator = torch.Generator(self.device)
        self.weights = [weight for weight in network.parameters() if weight.requires_grad]
        self.drops_out = any(isinstance(layer, torch.nn.Dropout) for layer in network.modules())
        self.optimisers = make_optimisers(network, recipe)
        self.average = [weight.detach().clone() for weight in self.weights] if recipe.ema else []
        # In units of the spread; the last column is that of the answer's shape, refined or not.
        self.mean_square = torch.ones(_LEVEL_BINS, len(network.targets) + 1, device=self.device)
        self.galaxies = recipe.batch_size // recipe.realisations
        self.epoch_steps = epoch_stamps // self.galaxies
        self.total_stamps = recipe.epochs * self.epoch_steps * recipe.batch_size
        # Of a batch, so many stamps are judged by their refined shapes.
        self.refined, self.refine_from = recipe.batch_size, 0
        if network.refinement is not None:
            self.refined = network.refinement.count(recipe.batch_size)
            self.refine_from = math.ceil(_REFINE_FROM * recipe.epochs * self.epoch_steps)
        self.own_refined = self.refined_by(self.workers)
        self.step = 0
        self.seconds = 0.0
        self.stale = 0
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}

    def refined_by(self, workers: Workers) -> int:
        """Return how many of these stamps are in a process's share."""
        each = self.recipe.realisations
        galaxies = range(self.galaxies)[workers.share]
        return sum(min(max(self.refined - galaxy * each, 0), each) for galaxy in galaxies)

    def state(self) -> dict[str, Any]:
        """Return everything that training goes on from."""
        return {
            "network": self.network.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "average": self.average,
            "mean_square": self.mean_square,
            "step": self.step,
            "seconds": self.seconds,
            "stale": self.stale,
            "history": self.history,
            "best": self.best,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.network.load_state_dict(state["network"])
        for optimiser, kept in zip(self.optimisers, state["optimisers"]):
            optimiser.load_state_dict(kept)
        self.average, self.mean_square = state["average"], state["mean_square"]
        self.step, self.seconds, self.stale = state["step"], state["seconds"], state["stale"]
        self.history, self.best = state["history"], state["best"]

    def run(self, checkpoint: Checkpoint, progress: ProgressLine) -> pd.DataFrame:
        """Train to the end, leave the best weights in the network, and return the history.

        Raises
        ------
        Terminated
            SIGTERM came; the state is saved.
        """
        state = checkpoint.load(self.device)
        if state is not None:
            self.restore(state)
        self.workers.check_same(self.step, "checkpoint (steps)")
        recipe, steps = self.recipe, self.recipe.epochs * self.epoch_steps
        body = self.network.get_submodule("body.network")
        with termination() as terminated, arithmetic(body, recipe, self.device):
            while self.step < steps and (recipe.patience is None or self.stale < recipe.patience):
                start = time.monotonic() - self.seconds
                epoch, done = divmod(self.step, self.epoch_steps)
                self.source.start(epoch if recipe.fresh_noise else 0)
                for k in range(done, self.epoch_steps):
                    if self.workers.any(terminated.is_set()):
                        self.seconds = time.monotonic() - start
                        self._save(checkpoint)
                        raise Terminated
                    self._step(slice(k * self.galaxies, (k + 1) * self.galaxies), steps)
                    if self.workers.first:
                        progress.step(self.step * recipe.batch_size, self._status)
                self._validate()
                self.seconds = time.monotonic() - start
                self.history[-1]["seconds"] = self.seconds
                self._save(checkpoint)
                if self.workers.first:
                    progress.line(self.step * recipe.batch_size, self._status())
        self.network.refining = True
        self.network.load_state_dict(self.best)
        return pd.DataFrame(self.history)

    def _save(self, checkpoint: Checkpoint) -> None:
        """Save the state; nobody goes on, or leaves, before that is done."""
        self.workers.average_statistics(self.network)
        if self.workers.first:
            checkpoint.save(self.state())
        self.workers.wait()

    def _step(self, part: slice, steps: int) -> None:
        recipe, network = self.recipe, self.network
        rate = rate_at(self.step, steps, recipe)
        draw = self.step if recipe.fresh_noise else self.step % self.epoch_steps
        images, psf, sigma, parameters = draw_batch(
            self.source, part, recipe, network.targets, self.seed, draw, self.generator, self.workers
        )
        if self.drops_out:
            # Dropout draws from torch's own generators: that too follows from (seed, step) alone.
            torch.manual_seed(self.generator.initial_seed() ^ (1 + self.workers.rank))
        network.train()
        network.refining = self.step >= self.refine_from
        answer = network(images, psf, sigma, self.own_refined)
        loss = self._loss(answer, network.standardise(parameters, images, psf, sigma), parameters, sigma)
        with multiplication(recipe.precision):
            loss.backward()
        self.workers.add_gradients(self.weights)
        if recipe.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.weights, recipe.gradient_clip)
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
        at = self.network.targets.index("g1")
        residual = answer.standard - truth
        shape = (answer.shapes - parameters[:, at : at + 2]) / self.network.shape_spread
        low, high = self.recipe.noise_range
        place = (sigma / low).log() / max(math.log(high / low), 1e-9)
        bins = torch.arange(_LEVEL_BINS, device=self.device)
        member = ((place * _LEVEL_BINS).long().clamp(0, _LEVEL_BINS - 1)[:, None] == bins).float()
        # Those of this process, of all.
        own, refined = len(shape), self.recipe.batch_size
        if self.network.refining and self.network.refinement is not None:
            own, refined = self.own_refined, self.refined
        with torch.no_grad():
            # A product with the membership, because a scattered sum is not deterministic on a GPU.
            both = [member.mT @ residual.square(), member[:own].mT @ shape[:own].square().mean(1, True)]
            counts = [member.sum(0)[:, None], member[:own].sum(0)[:, None]]
            self.workers.add(*both, *counts)
            found = torch.cat([square / n.clamp_min(1) for square, n in zip(both, counts)], 1)
            seen = torch.cat([counts[0].expand_as(both[0]), counts[1]], 1) > 0
            memory = torch.where(seen, _LEVEL_MEMORY, 0.0)
            if self.step == self.refine_from:  # what was before says nothing of refined answers
                memory[:, -1] = seen[:, -1].float()
            self.mean_square += memory * (found - self.mean_square)
            rms = (member @ self.mean_square).sqrt()
            if self.recipe.loss_scaling == "none":
                rms = torch.ones_like(rms)
        if self.recipe.loss == "nll" and answer.precision is not None:
            loss = _negative_log_likelihood(shape * self.network.shape_spread, answer.precision)
            loss = loss.sum() / self.recipe.batch_size
        else:
            loss = self._size(shape[:own] / rms[:own, -1:], refined)
        if len(self.network.targets) > 2:
            loss = loss + self._size(residual / rms[:, :-1], self.recipe.batch_size)
        return loss

    def _size(self, scaled: Tensor, count: int) -> Tensor:
        """Return the own part of the loss of residuals over their rms, of `count` stamps in all processes."""
        if self.recipe.loss == "mae":
            sizes = scaled.abs()
        elif self.recipe.loss == "huber":
            sizes = torch.nn.functional.huber_loss(scaled, torch.zeros_like(scaled), reduction="none")
        elif self.recipe.loss == "msb":
            # Those that a forward model refines may end within a galaxy's realisations.
            count //= self.recipe.realisations
            whole = len(scaled) // self.recipe.realisations * self.recipe.realisations
            sizes = scaled[:whole].unflatten(0, (-1, self.recipe.realisations)).mean(1).square()
        else:
            sizes = scaled.square()
        return sizes.sum() / (count * scaled.shape[1])

    def _validate(self) -> None:
        current = [weight.detach().clone() for weight in self.weights] if self.recipe.ema else []
        if current:
            torch._foreach_copy_([w.detach() for w in self.weights], self.average)
        limit = self.recipe.validation_stamps
        levels = self.recipe.validation_levels
        self.workers.average_statistics(self.network)
        found = torch.zeros(len(levels), dtype=torch.float64)
        for level, sigma in list(enumerate(levels))[self.workers.share]:
            residual = evaluate(self.network, self.validation, sigma, level, limit)[0]
            found[level] = float(residual.square().mean().sqrt())
        self.workers.add(found)
        rmse = found.tolist()
        spread = float(self.network.shape_spread)
        loss = float(torch.tensor(rmse).log().mean().exp()) / spread
        like = [row["validation_loss"] for row in self._comparable()]
        self.stale = self.stale + 1 if self.step > self.refine_from else 0
        if not like or loss < min(like):
            self.stale = 0
            self.best = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        if current:
            torch._foreach_copy_([w.detach() for w in self.weights], current)
        self.history.append(
            {
                "epoch": self.step // self.epoch_steps,
                "views": self.step * self.recipe.batch_size,
                "seconds": self.seconds,
                "learning_rate": self.optimisers[0].param_groups[0]["lr"],
                "train_loss": self._train_loss(),
                "validation_loss": loss,
                "validation_rmse": rmse[0],
            }
        )

    def _comparable(self) -> list[dict[str, float]]:
        """Return the history's rows since a forward model refines answers: those before are of no use."""
        return [row for row in self.history if row["views"] > self.refine_from * self.recipe.batch_size]

    @property
    def best_epoch(self) -> int:
        """The epoch that the best weights are of."""
        return int(min(self._comparable(), key=lambda row: row["validation_loss"])["epoch"])

    def _train_loss(self) -> float:
        return float((0.5 * self.mean_square[:, -1].log()).mean().exp())

    def _status(self) -> str:
        text = (
            f"epoch {-(-self.step // self.epoch_steps)}/{self.recipe.epochs}, loss {self._train_loss():.3g}"
        )
        if self.history:
            text += f", validation rmse {self.history[-1]['validation_rmse']:.3g}"
        return text


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
