"""The training loop: resumable at any step, the same weights every time."""

from __future__ import annotations

import time
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from shearbench.shear_network import ShearNetwork
from shearbench.training.checkpoint import Checkpoint
from shearbench.training.data import Examples, draw_batch, epoch_order, fixed_noise
from shearbench.training.optimisers import make_optimisers, rate_at
from shearbench.training.progress import ProgressLine
from shearbench.training.recipe import Recipe
from shearbench.training.settings import Terminated, termination

_LEVEL_BINS = 8
_LEVEL_MEMORY = 0.02  # how much of a bin's mean square one step replaces
_BLOCK = 250  # validation stamps at once


class Training:
    """One training: its network, optimisers, and all that a checkpoint has to keep.

    The loss at a noise level is divided by the running mean square error at that level, which makes the
    sum over levels that of log RMSE: no level weighs more because its errors are larger. The training and
    validation loss reported are the geometric mean over levels of the RMSE, over the spread of true shapes:
    1 is as good as predicting zero.

    Parameters
    ----------
    network : ShearNetwork
        With its scaling fitted, on the device of the examples.
    examples, validation : Examples
    recipe : Recipe
    seed : int
    """

    def __init__(
        self, network: ShearNetwork, examples: Examples, validation: Examples, recipe: Recipe, seed: int
    ) -> None:
        self.network, self.examples, self.validation = network, examples, validation
        self.recipe, self.seed = recipe, seed
        self.device = examples.images.device
        self.generator = torch.Generator(self.device)
        self.weights = [weight for weight in network.parameters() if weight.requires_grad]
        self.optimisers = make_optimisers(network, recipe)
        self.average = [weight.detach().clone() for weight in self.weights] if recipe.ema else []
        self.mean_square = network.shape_spread.square().repeat(_LEVEL_BINS)
        self.epoch_stamps = recipe.epoch_stamps or len(examples)
        self.epoch_steps = self.epoch_stamps // recipe.batch_size
        self.total_stamps = recipe.epochs * self.epoch_steps * recipe.batch_size
        self.step = 0
        self.seconds = 0.0
        self.stale = 0
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}

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
        recipe, steps = self.recipe, self.recipe.epochs * self.epoch_steps
        with termination() as terminated:
            while self.step < steps and (recipe.patience is None or self.stale < recipe.patience):
                start = time.monotonic() - self.seconds
                epoch, done = divmod(self.step, self.epoch_steps)
                order = epoch_order(len(self.examples), self.epoch_stamps, self.seed, epoch).to(self.device)
                for k in range(done, self.epoch_steps):
                    if terminated.is_set():
                        self.seconds = time.monotonic() - start
                        checkpoint.save(self.state())
                        raise Terminated
                    self._step(order[k * recipe.batch_size : (k + 1) * recipe.batch_size], steps)
                    progress.step(self.step * recipe.batch_size, self._status)
                self._validate()
                self.seconds = time.monotonic() - start
                self.history[-1]["seconds"] = self.seconds
                checkpoint.save(self.state())
                progress.line(self.step * recipe.batch_size, self._status())
        self.network.load_state_dict(self.best)
        return pd.DataFrame(self.history)

    def _step(self, index: Tensor, steps: int) -> None:
        recipe = self.recipe
        rate = rate_at(self.step, steps, recipe)
        images, psf, sigma, shapes = draw_batch(
            self.examples, index, recipe, self.seed, self.step, self.generator
        )
        self.network.train()
        residual = self.network(images, psf, sigma)[0] - shapes
        loss = self._loss(residual, sigma)
        loss.backward()
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

    def _loss(self, residual: Tensor, sigma: Tensor) -> Tensor:
        low, high = self.recipe.noise_range
        place = (sigma / low).log() / max(torch.tensor(high / low).log().item(), 1e-9)
        member = torch.nn.functional.one_hot(
            (place * _LEVEL_BINS).long().clamp(0, _LEVEL_BINS - 1), _LEVEL_BINS
        ).float()
        with torch.no_grad():
            # A product with the membership, because a scattered sum is not deterministic on a GPU.
            count = member.sum(0)
            found = (residual.square().mean(1) @ member) / count.clamp_min(1)
            self.mean_square += _LEVEL_MEMORY * (count > 0) * (found - self.mean_square)
            rms = (member @ self.mean_square).sqrt()
        scaled = residual / rms[:, None]
        if self.recipe.loss == "mae":
            return scaled.abs().mean()
        if self.recipe.loss == "huber":
            return torch.nn.functional.huber_loss(scaled, torch.zeros_like(scaled))
        return scaled.square().mean()

    def _validate(self) -> None:
        current = [weight.detach().clone() for weight in self.weights] if self.recipe.ema else []
        if current:
            torch._foreach_copy_([w.detach() for w in self.weights], self.average)
        limit = self.recipe.validation_stamps
        levels = self.recipe.validation_levels
        rmse = [
            float(evaluate(self.network, self.validation, sigma, level, limit)[0].square().mean().sqrt())
            for level, sigma in enumerate(levels)
        ]
        spread = float(self.network.shape_spread)
        loss = float(torch.tensor(rmse).log().mean().exp()) / spread
        self.stale += 1
        if not self.history or loss < min(row["validation_loss"] for row in self.history):
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

    def _train_loss(self) -> float:
        return float((0.5 * self.mean_square.log()).mean().exp() / self.network.shape_spread)

    def _status(self) -> str:
        text = (
            f"epoch {-(-self.step // self.epoch_steps)}/{self.recipe.epochs}, loss {self._train_loss():.3g}"
        )
        if self.history:
            text += f", validation rmse {self.history[-1]['validation_rmse']:.3g}"
        return text


@torch.inference_mode()
def evaluate(
    network: ShearNetwork, examples: Examples, sigma: float, level: int, limit: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return residuals [n, 2] and observed signal-to-noise [n] of stamps with the fixed noise of a level.

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
    """
    network.eval()
    generator = torch.Generator(examples.images.device)
    residuals, snrs = [], []
    stop = min(limit or len(examples), len(examples))
    for block, start in enumerate(range(0, stop, _BLOCK)):
        part = slice(start, min(start + _BLOCK, stop))
        images = examples.images[part]
        images = images + sigma * fixed_noise(images.shape, level, block, generator)
        shapes, snr = network(images, examples.psf_of(part), images.new_tensor(sigma))
        residuals.append(shapes - examples.shapes[part])
        snrs.append(snr)
    return torch.cat(residuals), torch.cat(snrs)
