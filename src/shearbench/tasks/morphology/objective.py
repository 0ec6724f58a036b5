"""The objective of the training on classes: batches, a weighted cross-entropy, and validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shearbench.jobs.torch_settings import seeded
from shearbench.tasks.morphology.augmentation import augment
from shearbench.tasks.morphology.network import ClassNetwork
from shearbench.tasks.morphology.options import ClassRecipe
from shearbench.training.workers import Workers

_BLOCK = 256  # number of validation images classified at once
_MEMORY = 0.02  # weight of one step in the running mean of the loss
_ORDER, _STEP = 101, 102  # streams of random numbers


class Images(NamedTuple):
    """Images and their classes on a device: [n, bands, ny, nx] of the file's type, and [n]."""

    images: Tensor
    labels: Tensor


class ClassObjective:
    """The training of networks on classes, see `shearbench.training.task.Objective`.

    Parameters
    ----------
    networks : sequence of ClassNetwork
        Their normalisation must be fitted.
    train, validation : Images
    weights : Tensor, shape (classes,)
        Weight of each class in the loss of the training.
    recipe : ClassRecipe
    seeds : sequence of int
        The seed of each network.
    workers : Workers
    """

    comparable_after = 0

    def __init__(
        self,
        networks: Sequence[ClassNetwork],
        train: Images,
        validation: Images,
        weights: Tensor,
        recipe: ClassRecipe,
        seeds: Sequence[int],
        workers: Workers,
    ) -> None:
        self.networks, self.train, self.validation = networks, train, validation
        self.recipe, self.seeds, self.workers = recipe, seeds, workers
        self.device = train.labels.device
        self.weights = weights
        self.one_hot = torch.eye(len(weights), device=self.device)
        self.epoch_items = recipe.shown(len(train.labels))
        self.order = torch.zeros(0, 0, dtype=torch.int64)
        self.running = torch.full((len(networks),), float("nan"), device=self.device)

    def start_epoch(self, epoch: int) -> None:
        """Shuffle the images of each training."""
        count, orders = len(self.train.labels), []
        for seed in self.seeds:
            generator = seeded(torch.Generator(), _ORDER, seed, epoch)
            rounds = [
                torch.randperm(count, generator=generator) for _ in range(-(-self.epoch_items // count))
            ]
            orders.append(torch.cat(rounds)[: self.epoch_items])
        self.order = torch.stack(orders).to(self.device)

    def draw(self, part: slice, step: int, generator: torch.Generator) -> Images:
        """Return this process's share of the augmented images of a step, and the share of each class."""
        images, truth, names = [], [], self.recipe.augmentation
        for seed, order in zip(self.seeds, self.order):
            rows = order[part]
            numbers = torch.rand(
                len(names),
                len(rows),
                3,
                generator=seeded(generator, _STEP, seed, step),
                device=self.device,
            )
            drawn, shares = augment(
                self.train.images[rows].float(), self.one_hot[self.train.labels[rows]], names, numbers
            )
            images.append(drawn[self.workers.share])
            truth.append(shares[self.workers.share])
        return Images(torch.cat(images), torch.cat(truth))

    def loss(self, network: Any, batch: Images, step: int) -> Tensor:
        """Return the sum of the losses of all networks over this process's share of a batch, shape ()."""
        each = torch.nn.functional.cross_entropy(
            network(batch.images),
            batch.labels,
            self.weights,
            label_smoothing=self.recipe.label_smoothing,
            reduction="none",
        )
        mean = each.unflatten(0, (len(self.networks), -1)).sum(1) / self.recipe.batch_size
        total = mean.detach().clone()
        self.workers.add(total)
        self.running = torch.where(
            self.running.isfinite(), self.running + _MEMORY * (total - self.running), total
        )
        return mean.sum()

    def train_loss(self, k: int) -> float:
        """Return the running mean of the training loss of the k-th network."""
        return float(self.running[k])

    def validate(self, network: ClassNetwork) -> dict[str, float]:
        """Return the mean cross-entropy of the validation images, and the fraction classified correctly.

        Each class has the weight that it has in the training loss.
        """
        logits = torch.cat(logits_of(network, self.validation.images))
        labels = self.validation.labels
        loss = torch.nn.functional.cross_entropy(logits, labels, self.weights)
        return {
            "validation_loss": float(loss),
            "validation_accuracy": float((logits.argmax(1) == labels).float().mean()),
        }

    def state(self, k: int) -> dict[str, Tensor]:
        """Return the running mean of the loss, for the checkpoint."""
        return {"running": self.running[k].clone()}

    def restore(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Continue from the states of all networks."""
        self.running = torch.stack([state["running"] for state in states])


@torch.no_grad()
def logits_of(network: ClassNetwork, images: Tensor) -> list[Tensor]:
    """Return the logits of images [n, bands, ny, nx] of any type, block by block, in evaluation mode."""
    network.eval()
    return [network(block.float()) for block in images.split(_BLOCK)]
