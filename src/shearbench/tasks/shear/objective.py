"""What a network of shapes is trained by: its batches, its loss per noise level, and its validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shearbench.tasks.shear.data import Examples, Source, draw_batch, fixed_noise
from shearbench.tasks.shear.network import Answer, ShearNetwork
from shearbench.training.recipe import Recipe
from shearbench.training.workers import Workers

_LEVEL_BINS = 8
_LEVEL_MEMORY = 0.02  # the part of a bin's mean square that one step replaces
_BLOCK = 250  # validation stamps at once
_REFINE_FROM = 0.5  # part of the steps after which a forward model refines: before, the guess is too far off


def _huber(scaled: Tensor) -> Tensor:
    return torch.nn.functional.huber_loss(scaled, torch.zeros_like(scaled), reduction="none")


class Loss(NamedTuple):
    """A loss of residuals that are divided by their rms.

    Attributes
    ----------
    size : callable
        Of each residual; the loss is its mean.
    of_means : bool
        Whether residuals are averaged over the realisations of a galaxy first.
    likelihood : bool
        Whether the shape is judged by the likelihood of a normal distribution instead, where the network
        answers with one.
    """

    size: Callable[[Tensor], Tensor]
    of_means: bool = False
    likelihood: bool = False


LOSSES = {
    "mse": Loss(Tensor.square),
    "mae": Loss(Tensor.abs),
    "huber": Loss(_huber),
    "nll": Loss(Tensor.square, likelihood=True),
    "msb": Loss(Tensor.square, of_means=True),
}
"""Those of `Recipe.loss`."""


class Batch(NamedTuple):
    """The stamps of a training step.

    Attributes
    ----------
    images : Tensor, shape (n, ny, nx)
    psf : Tensor, shape (ny, nx) or (n, ny, nx)
    sigma : Tensor, shape (n,)
        Noise per pixel.
    parameters : Tensor, shape (n, T)
        The true targets.
    """

    images: Tensor
    psf: Tensor
    sigma: Tensor
    parameters: Tensor


class ShearObjective:
    """Networks of shapes in training, see `shearbench.training.task.Objective`.

    The loss of each target at a noise level is divided by its running mean square error at that level, which
    makes the sum over levels that of log RMSE: no level weighs more because its errors are larger. With a
    forward model, the loss of the guess and that of the refined shape are added. The training and
    validation loss reported are the geometric mean over levels of the RMSE, over the spread of true shapes:
    1 is as good as predicting zero.

    Parameters
    ----------
    networks : sequence of ShearNetwork
        With their scaling fitted, on the device of the examples.
    source : Source
        Of the training stamps.
    epoch_stamps : int
        Galaxies that an epoch shows.
    validation : Examples
    recipe : Recipe
    seeds : sequence of int
        One for each network.
    workers : Workers
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
        workers: Workers,
    ) -> None:
        self.networks, self.source, self.validation = networks, source, validation
        self.recipe, self.seeds, self.workers = recipe, seeds, workers
        self.epoch_items = epoch_stamps
        self.device = validation.images.device
        network = networks[0]
        # In units of the spread; the last column is that of the answer's shape, refined or not.
        columns = len(network.targets) + 1
        self.mean_square = torch.ones(len(networks), _LEVEL_BINS, columns, device=self.device)
        # Of a batch, so many stamps are judged by their refined shapes, and only from some step on.
        self.refined, self.refine_from = recipe.batch_size, 0
        if network.refinement is not None:
            self.refined = network.refinement.count(recipe.batch_size)
            steps = recipe.epochs * recipe.epoch_steps(epoch_stamps)
            self.refine_from = min(math.ceil(_REFINE_FROM * steps), steps - 1)
        self.own_refined = self.refined_by(workers)

    @property
    def comparable_after(self) -> int:
        """Steps after which a forward model refines, if there is one: losses before are of other answers."""
        return self.refine_from

    def refined_by(self, workers: Workers) -> int:
        """Return how many of the stamps to be refined are in a process's share."""
        each = self.recipe.realisations
        galaxies = range(self.recipe.batch_items)[workers.share]
        return sum(min(max(self.refined - galaxy * each, 0), each) for galaxy in galaxies)

    def start_epoch(self, epoch: int) -> None:
        """Prepare the stamps of an epoch."""
        self.source.start(epoch)

    def draw(self, part: slice, step: int, generator: torch.Generator) -> Batch:
        """Return the batch of a step, see `draw_batch`."""
        targets = self.networks[0].targets
        drawn = draw_batch(self.source, part, self.recipe, targets, self.seeds, step, generator, self.workers)
        return Batch(*drawn)

    def loss(self, network: ShearNetwork, batch: Batch, step: int) -> Tensor:
        """Return the sum of the losses of all networks, of each the own part; `network` holds all of them."""
        for one in (network, *self.networks):
            one.refining = step >= self.refine_from
        images, psf, sigma, parameters = batch
        answer = network(images, psf, sigma, self.own_refined)
        truth = network.standardise(parameters, images, psf, sigma)
        return self._loss(network, answer, truth, parameters, sigma, step)

    def _loss(
        self,
        network: ShearNetwork,
        answer: Answer,
        truth: Tensor,
        parameters: Tensor,
        sigma: Tensor,
        step: int,
    ) -> Tensor:
        """Return the loss of answers, whose true targets are `truth` as the network is to answer them."""
        at = network.targets.index("g1")
        residual = answer.standard - truth
        shape = (answer.shapes - parameters[:, at : at + 2]) / network.shape_spread
        low, high = self.recipe.noise_range
        place = (sigma / low).log() / max(math.log(high / low), 1e-9)
        bins = torch.arange(_LEVEL_BINS, device=self.device)
        member = ((place * _LEVEL_BINS).long().clamp(0, _LEVEL_BINS - 1)[:, None] == bins).float()
        # From here on each network's are in a dimension of its own.
        residual, shape, member = (
            q.unflatten(0, (len(self.networks), -1)) for q in (residual, shape, member)
        )
        # Those of this process, of all.
        own, refined = shape.shape[1], self.recipe.batch_size
        if network.refining and network.refinement is not None:
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
            if step == self.refine_from:  # what was before says nothing of refined answers
                memory[..., -1] = seen[..., -1].float()
            self.mean_square += memory * (found - self.mean_square)
            rms = (member @ self.mean_square).sqrt()
            if self.recipe.loss_scaling == "none":
                rms = torch.ones_like(rms)
        if LOSSES[self.recipe.loss].likelihood and answer.precision is not None:
            absolute = (shape * network.shape_spread).flatten(0, 1)
            loss = _negative_log_likelihood(absolute, answer.precision).sum() / self.recipe.batch_size
        else:
            loss = self._size(judged / rms[:, :own, -1:], refined)
        if len(network.targets) > 2:
            loss = loss + self._size(residual / rms[..., :-1], self.recipe.batch_size)
        return loss

    def _size(self, scaled: Tensor, count: int) -> Tensor:
        """Return the loss of residuals [models, n, columns] over their rms, of `count` in all processes."""
        loss = LOSSES[self.recipe.loss]
        if loss.of_means:
            # Those that a forward model refines may end within a galaxy's realisations.
            count //= self.recipe.realisations
            whole = scaled.shape[1] // self.recipe.realisations * self.recipe.realisations
            scaled = scaled[:, :whole].unflatten(1, (-1, self.recipe.realisations)).mean(2)
        return loss.size(scaled).sum() / (count * scaled.shape[2])

    def train_loss(self, k: int) -> float:
        """Return the geometric mean over noise levels of a network's running RMSE."""
        return float((0.5 * self.mean_square[k, :, -1].log()).mean().exp())

    def validate(self, network: ShearNetwork) -> dict[str, float]:
        """Measure a network at each noise level of validation.

        Returns
        -------
        dict
            ``validation_loss``, the geometric mean over levels of the RMSE, over that of predicting zero; and
            ``validation_rmse``, per component, at the lowest level.
        """
        levels = self.recipe.validation_levels
        found = torch.zeros(len(levels), dtype=torch.float64)
        for level, sigma in list(enumerate(levels))[self.workers.share]:
            residual = evaluate(network, self.validation, sigma, level, self.recipe.validation_stamps)[0]
            found[level] = float(residual.square().mean().sqrt())
        self.workers.add(found)
        rmse = found.tolist()
        loss = float(torch.tensor(rmse).log().mean().exp()) / float(network.shape_spread)
        return {"validation_loss": loss, "validation_rmse": rmse[0]}

    def calibrate(self, network: ShearNetwork) -> None:
        """Measure the errors, with other noise than that by which the best epoch was chosen."""
        sigmas = self.recipe.validation_levels
        pulls, snrs = [], []
        for level, sigma in enumerate(sigmas):
            residual, error, snr = evaluate(network, self.validation, sigma, len(sigmas) + level)
            pulls.append(residual / error)
            snrs.append(snr)
        network.calibrate(sigmas, pulls, snrs)

    def state(self, k: int) -> dict[str, Tensor]:
        """Return the running mean square errors of a network, [levels, targets and shape]."""
        return {"mean_square": self.mean_square[k].clone()}

    def restore(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Take up the running mean square errors of all networks."""
        self.mean_square = torch.stack([state["mean_square"] for state in states])


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
