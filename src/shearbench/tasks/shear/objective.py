"""The objective of the training on shapes: batches, a loss scaled at each noise level, and validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shearbench.forward_model.changes import STEPS
from shearbench.tasks.shear.data import Batch, Examples, Source, draw_batch, fixed_noise
from shearbench.tasks.shear.network import Answer, ShearNetwork
from shearbench.tasks.shear.observed import draw_masks, observed
from shearbench.training.recipe import Recipe
from shearbench.training.tracking import AT_LEVEL
from shearbench.training.workers import Workers

_LEVEL_BINS = 8
_LEVEL_MEMORY = 0.02  # weight of one step in the running mean square of a bin of noise levels
_BLOCK = 250  # number of validation stamps measured at once
_REFINE_FROM = 0.5  # the forward model is used after this fraction of the steps; the guess is too poor before


def _square(scaled: Tensor, exponent: Tensor) -> Tensor:
    return scaled.square()


def _absolute(scaled: Tensor, exponent: Tensor) -> Tensor:
    return scaled.abs()


def _power(scaled: Tensor, exponent: Tensor) -> Tensor:
    return scaled.abs() ** exponent


def _huber(scaled: Tensor, exponent: Tensor) -> Tensor:
    return torch.nn.functional.huber_loss(scaled, torch.zeros_like(scaled), reduction="none")


class Loss(NamedTuple):
    """A loss function of residuals that are divided by their rms.

    Attributes
    ----------
    size : callable
        A function of the residuals [networks, n, columns] and of the exponents of `Recipe.exponents`
        [networks, n, 1], whose mean is the loss.
    of_means : bool
        Whether the residuals are first averaged over the noise realisations of a galaxy.
    likelihood : bool
        Whether the loss of the shape is the negative log likelihood of a normal distribution, if the network
        has a Gaussian head.
    """

    size: Callable[[Tensor, Tensor], Tensor]
    of_means: bool = False
    likelihood: bool = False


LOSSES = {
    "mse": Loss(_square),
    "mae": Loss(_absolute),
    "huber": Loss(_huber),
    "power": Loss(_power),
    "nll": Loss(_square, likelihood=True),
    "msb": Loss(_square, of_means=True),
}
"""The loss functions, by the values of `Recipe.loss`."""


class ShearObjective:
    """The training of networks on shapes, see `shearbench.training.task.Objective`.

    The residuals of each target are divided by their running rms at the noise level, so that levels with
    larger errors do not have more weight; the gradient is that of the sum of log RMSE over the levels. With a
    forward model, the losses of the guess and of the refined shape are added. The training and validation
    losses in the history are the geometric mean of the RMSE over the levels, divided by the standard
    deviation of the true shapes: a network that always answers zero has a loss of 1.

    Parameters
    ----------
    networks : sequence of ShearNetwork
        Their scaling must be fitted; they must be on the device of the examples.
    source : Source
        Source of the training stamps.
    epoch_stamps : int
        Number of galaxies in an epoch.
    validation : Examples
    recipe : Recipe
    seeds : sequence of int
        The seed of each network.
    workers : Workers
        The processes that share the work. Each has the same networks, computes its share of each batch, and
        validates at some of the noise levels. Sums over a batch are sums over all processes, so that the
        steps are those of one process, except for rounding errors and for batch normalisation, which uses
        the share of each process.
    pixel_scale : float
        Pixel scale [arcsec].
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
        pixel_scale: float = 1.0,
    ) -> None:
        self.pixel_scale = pixel_scale
        self.networks, self.source, self.validation = networks, source, validation
        self.recipe, self.seeds, self.workers = recipe, seeds, workers
        self.epoch_items = epoch_stamps
        self.device = validation.images.device
        network = networks[0]
        self.steps = recipe.epochs * recipe.epoch_steps(epoch_stamps)  # of the whole training
        # Weight of each target in the loss.
        weights = [recipe.target_weights.get(name, 1.0) for name in network.targets]
        self.weights = torch.tensor(weights, device=self.device) if recipe.target_weights else None
        # Running mean square of the residuals, in units of the spread of the true values. The columns are the
        # targets and, last, the final shape, which a forward model may have refined.
        columns = len(network.targets) + 1
        self.mean_square = torch.ones(len(networks), _LEVEL_BINS, columns, device=self.device)
        # Number of stamps of a batch whose refined shapes are in the loss, and the first step with
        # refinement.
        self.refined, self.refine_from = recipe.batch_size, 0
        if network.refinement is not None:
            self.refined = network.refinement.count(recipe.batch_size)
            self.refine_from = min(math.ceil(_REFINE_FROM * self.steps), self.steps - 1)
        self.own_refined = self.refined_by(workers)

    @property
    def comparable_after(self) -> int:
        """Number of steps before the forward model is used, if there is one; losses change there."""
        return self.refine_from

    def refined_by(self, workers: Workers) -> int:
        """Return the number of refined stamps in the share of a process."""
        each = self.recipe.realisations
        galaxies = range(self.recipe.batch_items)[workers.share]
        return sum(min(max(self.refined - galaxy * each, 0), each) for galaxy in galaxies)

    def start_epoch(self, epoch: int) -> None:
        """Prepare the stamps of an epoch."""
        self.source.start(epoch)

    def draw(self, part: slice, step: int, generator: torch.Generator) -> Batch:
        """Return the batch of a step, see `draw_batch`."""
        targets = self.networks[0].targets
        noise = self.recipe.noise_range_at(step / self.steps)
        return draw_batch(
            self.source,
            part,
            self.recipe,
            targets,
            self.seeds,
            step,
            generator,
            self.workers,
            noise,
            self.pixel_scale,
            self.validation.observing,
        )

    def loss(self, network: ShearNetwork, batch: Batch, step: int) -> Tensor:
        """Return the sum of the losses of all networks over this process's share of a batch, shape ().

        `network` is the one that computes all networks, see `shearbench.training.together`.
        """
        for one in (network, *self.networks):
            one.refining = step >= self.refine_from
        images, psf, sigma, parameters, changed = batch
        answer = network(images, psf, sigma, self.own_refined)
        truth = network.standardise(parameters, images, psf, sigma)
        responses = []
        for change in changed:
            if network.drops_out:  # the same units as before, because the loop has seeded them
                torch.manual_seed(torch.initial_seed())
            other = network(change.images, change.psf, sigma, self.own_refined)
            # For a shift by a pixel, or a shape that is typical.
            unit = 1.0 if change.name == "shift" else network.shape_spread
            wrong = (other.shapes - answer.shapes - change.moved) * (unit / STEPS[change.name])
            responses.append((self.recipe.response[change.name], wrong / network.shape_spread))
        return self._loss(network, answer, truth, parameters, sigma, step, responses)

    def _loss(
        self,
        network: ShearNetwork,
        answer: Answer,
        truth: Tensor,
        parameters: Tensor,
        sigma: Tensor,
        step: int,
        responses: Sequence[tuple[float, Tensor]] = (),
    ) -> Tensor:
        """Return the loss of answers.

        `truth` [n, T] is the true targets in the units of the outputs; `responses` are weights and errors of
        responses [n, 2], in units of the spread of the true shapes.
        """
        at = network.targets.index("g1")
        residual = answer.standard - truth
        shape = (answer.shapes - parameters[:, at : at + 2]) / network.shape_spread
        place = _place(sigma, self.recipe.drawn_range)
        bins = torch.arange(_LEVEL_BINS, device=self.device)
        member = ((place * _LEVEL_BINS).long().clamp(0, _LEVEL_BINS - 1)[:, None] == bins).float()
        first, last = self.recipe.exponents
        along = _place(sigma, self.recipe.noise_range).clamp(0, 1)
        exponent = (first + (last - first) * along)[:, None]
        # From here on, the first dimension numbers the networks.
        residual, shape, member, exponent = (
            q.unflatten(0, (len(self.networks), -1)) for q in (residual, shape, member, exponent)
        )
        # Number of stamps whose shapes are in the loss: of this process, and of all processes.
        own, refined = shape.shape[1], self.recipe.batch_size
        if network.refining and network.refinement is not None:
            own, refined = self.own_refined, self.refined
        judged = shape[:, :own]
        with torch.no_grad():
            # Sums over bins are matrix products, because scatter operations are not deterministic on a GPU.
            both = [member.mT @ residual.square(), member[:, :own].mT @ judged.square().mean(2, True)]
            counts = [member.sum(1)[:, :, None], member[:, :own].sum(1)[:, :, None]]
            self.workers.add(*both, *counts)
            found = torch.cat([square / n.clamp_min(1) for square, n in zip(both, counts)], 2)
            seen = torch.cat([counts[0].expand_as(both[0]), counts[1]], 2) > 0
            memory = torch.where(seen, _LEVEL_MEMORY, 0.0)
            if step == self.refine_from:  # earlier errors are not those of refined shapes
                memory[..., -1] = seen[..., -1].float()
            self.mean_square += memory * (found - self.mean_square)
            rms = (member @ self.mean_square).sqrt()
            if self.recipe.loss_scaling == "none":
                rms = torch.ones_like(rms)
        if LOSSES[self.recipe.loss].likelihood and answer.precision is not None:
            absolute = (shape * network.shape_spread).flatten(0, 1)
            loss = _negative_log_likelihood(absolute, answer.precision).sum() / self.recipe.batch_size
        else:
            weights = None if self.weights is None else self.weights[at : at + 2]
            loss = self._size(judged / rms[:, :own, -1:], refined, exponent[:, :own], weights)
        if len(network.targets) > 2:
            scaled = residual / rms[..., :-1]
            loss = loss + self._size(scaled, self.recipe.batch_size, exponent, self.weights)
        for weight, wrong in responses:
            scaled = wrong.unflatten(0, (len(self.networks), -1))[:, :own] / rms[:, :own, -1:]
            loss = loss + weight * self._size(scaled, refined, exponent[:, :own])
        return loss

    def _size(self, scaled: Tensor, count: int, exponent: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the loss of scaled residuals, shape ().

        Parameters
        ----------
        scaled : Tensor, shape (networks, n, columns)
        count : int
            Number of stamps of all processes.
        exponent : Tensor, shape (networks, n, 1)
            Exponents of the loss `power`.
        weights : Tensor, optional, shape (columns,)
            Weights of the columns; 1 by default.
        """
        loss = LOSSES[self.recipe.loss]
        if loss.of_means:
            # The refined stamps may include only some realisations of the last galaxy, which is left out.
            count //= self.recipe.realisations
            whole = scaled.shape[1] // self.recipe.realisations * self.recipe.realisations
            scaled = scaled[:, :whole].unflatten(1, (-1, self.recipe.realisations)).mean(2)
        sizes = loss.size(scaled, exponent)
        if weights is not None:
            sizes = sizes * weights
        return sizes.sum() / (count * scaled.shape[2])

    def train_loss(self, k: int) -> float:
        """Return the geometric mean over noise levels of a network's running RMSE."""
        return float((0.5 * self.mean_square[k, :, -1].log()).mean().exp())

    def validate(self, network: ShearNetwork) -> dict[str, float]:
        """Measure a network at each noise level of validation.

        Returns
        -------
        dict
            ``validation_loss``: geometric mean of the RMSE over the noise levels, divided by the standard
            deviation of the true shapes. `AT_LEVEL` and a noise level: RMSE of a component at this level, if
            there are several. ``validation_rmse``: that at the lowest level.
        """
        levels = self.recipe.validation_levels
        found = torch.zeros(len(levels), dtype=torch.float64)
        for level, sigma in list(enumerate(levels))[self.workers.share]:
            residual = evaluate(network, self.validation, sigma, level, self.recipe.validation_stamps)[0]
            found[level] = float(residual.square().mean().sqrt())
        self.workers.add(found)
        rmse = found.tolist()
        loss = float(torch.tensor(rmse).log().mean().exp()) / float(network.shape_spread)
        by_level = {f"{AT_LEVEL}{sigma:g}": one for sigma, one in zip(levels, rmse)}
        return {
            "validation_loss": loss,
            **(by_level if len(levels) > 1 else {}),
            "validation_rmse": rmse[0],
        }

    def calibrate(self, network: ShearNetwork) -> None:
        """Calibrate the errors of a network, with other noise than that of the validation."""
        sigmas = self.recipe.validation_levels
        pulls, snrs = [], []
        for level, sigma in enumerate(sigmas):
            residual, error, snr = evaluate(network, self.validation, sigma, len(sigmas) + level)
            pulls.append(residual / error)
            snrs.append(snr)
        network.calibrate(sigmas, pulls, snrs)

    def state(self, k: int) -> dict[str, Tensor]:
        """Return the running mean square errors of the k-th network, [bins of noise level, T + 1]."""
        return {"mean_square": self.mean_square[k].clone()}

    def restore(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Continue with the running mean square errors of all networks, as `state` returned them."""
        self.mean_square = torch.stack([state["mean_square"] for state in states])


def _place(sigma: Tensor, ends: tuple[float, float]) -> Tensor:
    """Return the places of noise levels between two levels: 0 at the lowest, 1 at the highest."""
    low, high = ends
    return (sigma / low).log() / max(math.log(high / low), 1e-9)


def _negative_log_likelihood(residual: Tensor, precision: Tensor) -> Tensor:
    """Return |L r|^2 / 2 - log det L for residuals r [n, 2] and L from `Answer.precision` [n, 3]: [n]."""
    first, cross, second = precision.unbind(1)
    whitened = torch.stack([first * residual[:, 0], cross * residual[:, 0] + second * residual[:, 1]], 1)
    return 0.5 * whitened.square().sum(1) - first.log() - second.log()


@torch.inference_mode()
def evaluate(
    network: ShearNetwork, examples: Examples, sigma: float, level: int, limit: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Measure stamps at one noise level, with noise that is the same at each call.

    Parameters
    ----------
    network : ShearNetwork
        It is in evaluation mode afterwards.
    examples : Examples
    sigma : float
        Standard deviation of the noise [flux per pixel].
    level : int
        A number that seeds the noise.
    limit : int, optional
        Measure only this number of stamps, the first ones.

    Returns
    -------
    residuals, errors : Tensor, shape (n, 2)
        Estimate minus truth; and the errors before calibration.
    snr : Tensor, shape (n,)
        `Answer.snr`.
    """
    network.eval()
    generator = torch.Generator(examples.images.device)
    found = []
    stop = min(limit or len(examples), len(examples))
    for block, start in enumerate(range(0, stop, _BLOCK)):
        part = slice(start, min(start + _BLOCK, stop))
        images = examples.images[part]
        noise = fixed_noise(images.shape, level, block, generator)
        masks = draw_masks(examples.observing, images.shape, generator)
        images = observed(images, sigma, noise, examples.observing, masks)
        answer = network(images, examples.psf_of(part), images.new_tensor(sigma))
        found.append((answer.shapes - examples.shapes[part], answer.error, answer.snr))
    residuals, errors, snrs = (torch.cat(column) for column in zip(*found))
    return residuals, errors, snrs
