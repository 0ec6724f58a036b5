"""The objective of the training of an encoder: InfoNCE between two views of each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from shearbench.jobs.torch_settings import seeded
from shearbench.tasks.contrastive import embedding
from shearbench.tasks.contrastive.network import info_nce
from shearbench.tasks.contrastive.options import ContrastiveRecipe
from shearbench.training.task import TrainedModule
from shearbench.training.workers import Workers

_MEMORY = 0.02  # weight of one step in the running mean of the loss
_ORDER, _STEP, _VALIDATION = 201, 202, 203  # streams of random numbers


class Views(Protocol):
    """Images without labels, of which changed views are made."""

    @property
    def train(self) -> int:
        """Number of training images."""

    @property
    def validation(self) -> int:
        """Number of validation images."""

    def make(self, rows: Tensor, training: bool, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return a view of each of some images, as the arguments of the network; all of n items.

        Parameters
        ----------
        rows : Tensor of int64, shape (n,)
        training : bool
            Whether they are training or validation images.
        generator : torch.Generator
            Source of all random numbers.
        """


class ContrastiveObjective:
    """The training of encoders, see `shearbench.training.task.Objective`.

    Parameters
    ----------
    networks : sequence of TrainedModule
        They map the tensors of `Views.make` to unit vectors [n, d].
    views : Views
    recipe : ContrastiveRecipe
    seeds : sequence of int
        The seed of each network.
    workers : Workers
    """

    comparable_after = 0

    def __init__(
        self,
        networks: Sequence[TrainedModule],
        views: Views,
        recipe: ContrastiveRecipe,
        seeds: Sequence[int],
        workers: Workers,
    ) -> None:
        self.networks, self.views = networks, views
        self.recipe, self.seeds, self.workers = recipe, seeds, workers
        self.device = next(networks[0].parameters()).device
        self.epoch_items = recipe.shown(views.train)
        self.order = torch.zeros(0, 0, dtype=torch.int64)
        self.running = torch.full((len(networks),), float("nan"), device=self.device)

    def start_epoch(self, epoch: int) -> None:
        """Shuffle the images of each training."""
        rounds = -(-self.epoch_items // self.views.train)
        orders = []
        for seed in self.seeds:
            generator = seeded(torch.Generator(), _ORDER, seed, epoch)
            drawn = [torch.randperm(self.views.train, generator=generator) for _ in range(rounds)]
            orders.append(torch.cat(drawn)[: self.epoch_items])
        self.order = torch.stack(orders).to(self.device)

    def draw(self, part: slice, step: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return this process's share of two views of the images of a step: view by view, of each network."""
        drawn = []
        for seed, order in zip(self.seeds, self.order):
            seeded(generator, _STEP, seed, step)
            for _ in range(2):
                view = self.views.make(order[part], True, generator)
                drawn.append([one[self.workers.share] for one in view])
        return tuple(torch.cat(column) for column in zip(*drawn))

    def loss(self, network: Any, batch: tuple[Tensor, ...], step: int) -> Tensor:
        """Return the sum of the losses of all networks, shape ().

        Each process has the embeddings of the whole batch, and the derivative by those that it computed.
        """
        own = network(*batch).unflatten(0, (len(self.networks), 2, -1))
        whole = own
        if self.workers.size > 1:
            whole = own.new_zeros(*own.shape[:2], self.recipe.batch_size, own.shape[3])
            whole[:, :, self.workers.share] = own.detach()
            self.workers.add(whole)
            whole[:, :, self.workers.share] = own
        each = info_nce(whole, self.recipe.temperature)
        total = each.detach()
        self.running = torch.where(
            self.running.isfinite(), self.running + _MEMORY * (total - self.running), total
        )
        return each.sum()

    def train_loss(self, k: int) -> float:
        """Return the running mean of the training loss of the k-th network."""
        return float(self.running[k])

    @torch.no_grad()
    def validate(self, network: TrainedModule) -> dict[str, float]:
        """Return the loss, alignment, uniformity and effective rank of the validation images.

        Their views are the same in each epoch, and the loss is that of batches as in the training.
        """
        network.eval()
        generator = seeded(torch.Generator(self.device), _VALIDATION)
        size = min(self.recipe.batch_size, self.views.validation)
        parts = []
        for rows in torch.arange(self.views.validation, device=self.device).split(size):
            views = [network(*self.views.make(rows, False, generator)) for _ in range(2)]
            parts.append(torch.stack(views))
        losses = [info_nce(part[None], self.recipe.temperature) for part in parts if part.shape[1] == size]
        one, other = torch.cat(parts, 1)
        return {
            "validation_loss": float(torch.cat(losses).mean()),
            "alignment": embedding.alignment(one, other),
            "uniformity": embedding.uniformity(one),
            "effective_rank": embedding.effective_rank(embedding.singular_values(one)),
        }

    def state(self, k: int) -> dict[str, Tensor]:
        """Return the running mean of the loss, for the checkpoint."""
        return {"running": self.running[k].clone()}

    def restore(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Continue from the states of all networks."""
        self.running = torch.stack([state["running"] for state in states])
