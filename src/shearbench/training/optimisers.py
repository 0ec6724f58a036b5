"""Optimisers: AdamW, and Muon or SOAP for weight matrices.

Weights of several networks may be stacked (`shearbench.training.together`): `stacked` is then 1, the number
of dimensions before those of a weight, and each network takes the step it would take alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from shearbench.training.recipe import Recipe

# Newton-Schulz quintic of Jordan et al. 2024, "Muon": drives singular values from (0, 1] to about 1.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_STEPS = 5


def orthogonalise(matrix: Tensor) -> Tensor:
    """Replace the singular values of matrices [..., rows, columns] by numbers near 1 (0.7 to 1.2).

    Newton-Schulz iteration X <- a X + (b XX' + c (XX')^2) X (Jordan et al. 2024).
    """
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-30)
    a, b, c = _QUINTIC
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024), for weights of two or more dimensions.

    A convolution's kernel counts as a matrix [outgoing, everything else]. An update has the root mean square
    0.2 of a typical AdamW update (Liu et al. 2025, arXiv:2502.16982), so both take the same learning rate.

    Parameters
    ----------
    parameters : iterable of torch.nn.Parameter
    lr : float
    weight_decay : float
    momentum : float
        Of Nesterov's kind.
    stacked : {0, 1}
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        stacked: int = 0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.stacked = stacked

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take a step."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                ahead = weight.grad.lerp(state["momentum"], group["momentum"])
                update = orthogonalise(ahead.flatten(1 + self.stacked))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                length = 0.2 * math.sqrt(max(update.shape[-2:])) * group["lr"]
                weight.add_(update.reshape(weight.shape), alpha=-length)


class Soap(torch.optim.Optimizer):
    """Adam in the eigenbasis of Shampoo's preconditioner, for weights of two or more dimensions.

    Vyas et al. 2024, arXiv:2409.11321, algorithm 3. A convolution's kernel counts as a matrix [outgoing,
    everything else]; a side longer than `largest` keeps its own basis.

    Parameters
    ----------
    parameters : iterable of torch.nn.Parameter
    lr : float
    weight_decay : float
    memory : float
        Part of each running mean that a step keeps: of the gradient, its square, and the preconditioner.
    every : int
        Steps from one new eigenbasis to the next.
    largest : int
    stacked : {0, 1}
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        memory: float = 0.95,
        every: int = 10,
        largest: int = 1024,
        stacked: int = 0,
    ) -> None:
        self.stacked = stacked
        defaults = {"lr": lr, "weight_decay": weight_decay, "memory": memory}
        super().__init__(parameters, {**defaults, "every": every, "largest": largest})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take a step; the first only measures the preconditioner."""
        if closure is not None:
            raise ValueError("SOAP takes no closure")
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step(weight, weight.grad.flatten(1 + self.stacked), self.state[weight], group)

    def _step(self, weight: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        forget = 1 - group["memory"]
        sides = [k for k in (0, 1) if gradient.shape[k - 2] <= group["largest"]]
        grams = {k: gradient @ gradient.mT if k == 0 else gradient.mT @ gradient for k in sides}
        if not state:
            state.update(steps=0, mean=torch.zeros_like(gradient), square=torch.zeros_like(gradient))
            for k, gram in grams.items():
                # A gradient that is not finite shows in the loss; here it must not end other networks too.
                basis = torch.linalg.eigh(gram.nan_to_num(0.0, 0.0, 0.0))[1]
                state[f"gram{k}"], state[f"basis{k}"] = gram, basis.contiguous()
            return
        state["steps"] += 1
        state["mean"].lerp_(gradient, forget)
        state["square"].lerp_(self._rotated(gradient, state).square(), forget)
        unbiased = 1 - group["memory"] ** state["steps"]
        update = self._rotated(state["mean"], state) / unbiased
        update = update / ((state["square"] / unbiased).sqrt() + 1e-8)
        for k in sides:
            update = state["basis0"] @ update if k == 0 else update @ state["basis1"].mT
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(update.reshape(weight.shape), alpha=-group["lr"])
        for k, gram in grams.items():
            state[f"gram{k}"].lerp_(gram, forget)
        # In the first steps the preconditioner changes fast.
        if state["steps"] % group["every"] == 0 or state["steps"] in (1, 3, 6):
            for k in sides:
                self._renew(k, state)

    @staticmethod
    def _rotated(matrix: Tensor, state: dict[str, Any]) -> Tensor:
        """Return a matrix in the eigenbasis."""
        if "basis0" in state:
            matrix = state["basis0"].mT @ matrix
        return matrix @ state["basis1"] if "basis1" in state else matrix

    @staticmethod
    def _renew(side: int, state: dict[str, Any]) -> None:
        """Take a power step towards the eigenbasis of one side, largest eigenvalue first."""
        gram, basis = state[f"gram{side}"], state[f"basis{side}"]
        order = (basis * (gram @ basis)).sum(-2).argsort(descending=True, stable=True)
        columns = order.unsqueeze(-2)
        state["square"] = state["square"].take_along_dim(columns if side else columns.mT, side - 2)
        state[f"basis{side}"] = torch.linalg.qr(gram @ basis.take_along_dim(columns, -1))[0].contiguous()


def make_optimisers(
    network: nn.Module, recipe: Recipe, stacked: int = 0, proper: str = ""
) -> list[torch.optim.Optimizer]:
    """Return the optimisers of all weights of a network.

    Muon gets the weights of two or more dimensions of the network proper but those of its last layer, SOAP
    all of two or more dimensions; biases and gains are AdamW's in any case.

    Parameters
    ----------
    network : torch.nn.Module
    recipe : Recipe
    stacked : {0, 1}
    proper : str
        Name of the submodule that is the network proper; by default all of it.
    """
    named = [(name, weight) for name, weight in network.named_parameters() if weight.ndim >= 2 + stacked]
    # Weights beside the network proper are as few as those of a last layer.
    inner = [weight for name, weight in named if name.startswith(proper)][:-1]
    matrices = [weight for _, weight in named]
    rest = [p for p in network.parameters() if p.ndim < 2 + stacked]
    rate, decay = recipe.learning_rate, recipe.weight_decay

    def adamw(weights: list[nn.Parameter]) -> torch.optim.Optimizer:
        groups = [{"params": weights, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
        return torch.optim.AdamW([group for group in groups if group["params"]], lr=rate, fused=True)

    if recipe.optimiser == "adamw":
        return [adamw(matrices)]
    if recipe.optimiser == "soap":
        return [Soap(matrices, rate, decay, stacked=stacked), adamw([])]
    outer = [weight for weight in matrices if all(weight is not one for one in inner)]
    return [Muon(inner, rate, decay, stacked=stacked), adamw(outer)]


def rate_at(step: int, steps: int, recipe: Recipe) -> float:
    """Return the learning rate of a step: a linear rise, then half a cosine down to the final rate."""
    rise = recipe.warmup * steps
    if step < rise:
        return recipe.learning_rate * (step + 1) / (rise + 1)
    fall = 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1.0, steps - rise)))
    return recipe.learning_rate * (recipe.final_rate + (1 - recipe.final_rate) * fall)
