"""Optimisers (those of torch, and Muon or SOAP for weight matrices) and schedules of the learning rate.

The weights of several networks can be stacked (`shearbench.training.together`). Then `stacked` is 1, the
number of dimensions that precede those of a weight, and each network takes the same step as alone.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from shearbench.training.recipe import Recipe

# Coefficients of the Newton-Schulz iteration of Jordan et al. 2024, "Muon: An optimizer for hidden layers in
# neural networks" (kellerjordan.github.io/posts/muon): it moves singular values in (0, 1] to about 1.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_STEPS = 5

_DROPS = (0.5, 0.75)  # fractions of the steps after which the schedule `step` divides the learning rate by 10
_CYCLE_RISE = 0.3  # fraction of the steps in which the learning rate of the schedule `one_cycle` rises


# When these functions are first called, torch imports its compiler, which takes two CPU seconds, to keep it
# away from them. Here they are marked as if that were done: the compiler never sees an optimiser.
for _name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
    _plain = inspect.unwrap(getattr(torch.optim.Optimizer, _name))
    setattr(_plain, "__dynamo_disable", _plain)


def orthogonalise(matrix: Tensor) -> Tensor:
    """Replace the singular values of matrices [..., rows, columns] by numbers near 1 (0.7 to 1.2).

    Newton-Schulz iteration X <- a X + (b XX' + c (XX')^2) X (Jordan et al. 2024, see above).
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
    """Steps along the orthogonalised momentum (Jordan et al. 2024), for weights of two or more dimensions.

    The kernel of a convolution counts as a matrix [output channels, all other dimensions]. The rms of an
    update, for a learning rate of 1, is 0.2, as is typical of AdamW (Liu et al. 2025, arXiv:2502.16982), so
    that the same learning rates suit both.

    `torch.optim.Muon` (torch 2.13) with ``adjust_lr_fn="match_rms_adamw"`` takes the same steps to 0.4%, its
    rounding to bfloat16; a test compares them. It is not used, because it takes matrices only, neither
    kernels of convolutions nor stacked weights, always computes in bfloat16, and without hardware for
    bfloat16 is slow: on one core of such a CPU a step takes 278 ms for 256 by 256 weights (here 10 ms) and
    3.8 ms for 64 by 64 (here 0.7 ms).

    Parameters
    ----------
    parameters : iterable of torch.nn.Parameter
    lr : float
        Learning rate.
    weight_decay : float
        In each step, the weights are multiplied by ``1 - lr * weight_decay``.
    momentum : float
        Fraction of the momentum that a step keeps; it is applied in the form of Nesterov.
    stacked : {0, 1}
        Number of dimensions that precede those of a weight.
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

    Vyas et al. 2024, arXiv:2409.11321, algorithm 3. The kernel of a convolution counts as a matrix [output
    channels, all other dimensions]. A side longer than `largest` is not rotated to an eigenbasis.

    The SOAP of pytorch-optimizer 4.1 reduces the loss of a badly conditioned linear problem as fast, equal to
    0.3% after 10 to 120 steps, at the same cost (256 by 256 weights: 9.1 ms a step, here 8.7 ms, on a core).
    It is not used: it also rotates along the dimension that numbers stacked networks, so that each network
    takes other steps than alone (weights differ by 60% after 5 steps); it gives a kernel of a convolution
    four bases instead of two; and its state has lists, which `shearbench.training.together` cannot divide.

    Parameters
    ----------
    parameters : iterable of torch.nn.Parameter
    lr : float
        Learning rate.
    weight_decay : float
        In each step, the weights are multiplied by ``1 - lr * weight_decay``.
    memory : float
        Fraction that a step keeps of each running mean: of the gradient, of its square, and of the
        preconditioner.
    every : int
        Number of steps between two updates of the eigenbasis.
    largest : int
        Longest side that is rotated [units or channels].
    stacked : {0, 1}
        Number of dimensions that precede those of a weight.
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
        """Take a step. The first one only initialises the preconditioner and leaves the weights unchanged."""
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
                # For infinite or NaN values `eigh` raises an error, which would end the training of all
                # stacked networks. Such values are found in the loss instead.
                basis = torch.linalg.eigh(gram.nan_to_num(0.0, 0.0, 0.0))[1]
                state[f"gram{k}"], state[f"basis{k}"] = gram, basis.contiguous()
            return
        state["steps"] += 1
        # Both means are kept in the eigenbasis, so that only the gradient has to be rotated in each step.
        rotated = self._rotated(gradient, state)
        state["mean"].lerp_(rotated, forget)
        state["square"].lerp_(rotated.square(), forget)
        unbiased = 1 - group["memory"] ** state["steps"]
        update = state["mean"] / unbiased / ((state["square"] / unbiased).sqrt() + 1e-8)
        for k in sides:
            update = state["basis0"] @ update if k == 0 else update @ state["basis1"].mT
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(update.reshape(weight.shape), alpha=-group["lr"])
        for k, gram in grams.items():
            state[f"gram{k}"].lerp_(gram, forget)
        # In the first steps the preconditioner changes quickly.
        if state["steps"] % group["every"] == 0 or state["steps"] in (1, 3, 6):
            for k in sides:
                self._renew(k, state)

    @staticmethod
    def _rotated(matrix: Tensor, state: dict[str, Any]) -> Tensor:
        """Return a matrix rotated to the eigenbasis."""
        if "basis0" in state:
            matrix = state["basis0"].mT @ matrix
        return matrix @ state["basis1"] if "basis1" in state else matrix

    @staticmethod
    def _renew(side: int, state: dict[str, Any]) -> None:
        """Improve the eigenbasis of one side by one step of power iteration, largest eigenvalue first."""
        gram, basis = state[f"gram{side}"], state[f"basis{side}"]
        order = (basis * (gram @ basis)).sum(-2).argsort(descending=True, stable=True)
        columns = order.unsqueeze(-2)
        state["square"] = state["square"].take_along_dim(columns if side else columns.mT, side - 2)
        new = torch.linalg.qr(gram @ basis.take_along_dim(columns, -1))[0].contiguous()
        turn = basis.mT @ new
        state["mean"] = state["mean"] @ turn if side else turn.mT @ state["mean"]
        state[f"basis{side}"] = new


def make_optimisers(
    network: nn.Module, recipe: Recipe, stacked: int = 0, proper: str = "", parts: int = 1
) -> list[torch.optim.Optimizer]:
    """Return the optimisers of all weights of a network.

    Muon optimises the weights of two or more dimensions of the submodule `proper`, except those of its last
    layer. SOAP optimises all weights of two or more dimensions. AdamW optimises the rest, such as biases. The
    optimisers of torch optimise all weights; those of less than two dimensions do not decay.

    Parameters
    ----------
    network : torch.nn.Module
    recipe : Recipe
        Its ``optimiser``, ``learning_rate`` and ``weight_decay`` are used.
    stacked : {0, 1}
        Number of dimensions that precede those of a weight.
    proper : str
        Name of the submodule with the layers of the architecture; by default, the whole network.
    parts : int
        Number of networks of the same layers that this submodule consists of; each has a last layer.

    Returns
    -------
    list of torch.optim.Optimizer
    """
    named = [(name, weight) for name, weight in network.named_parameters() if weight.ndim >= 2 + stacked]
    # Weights outside the submodule `proper` belong to small networks, for which Muon is of no use.
    inner = [weight for name, weight in named if name.startswith(proper)]
    inner = [weight for k, weight in enumerate(inner, 1) if k % (len(inner) // parts)]
    matrices = [weight for _, weight in named]
    rest = [p for p in network.parameters() if p.ndim < 2 + stacked]
    rate, decay = recipe.learning_rate, recipe.weight_decay

    def groups(weights: list[nn.Parameter]) -> list[dict[str, Any]]:
        both = [{"params": weights, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
        return [group for group in both if group["params"]]

    def adamw(weights: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups(weights), lr=rate, fused=True)

    if recipe.optimiser == "sgd":
        return [torch.optim.SGD(groups(matrices), lr=rate, momentum=0.9, nesterov=True, fused=True)]
    if recipe.optimiser == "adam":
        return [torch.optim.Adam(groups(matrices), lr=rate, fused=True)]
    if recipe.optimiser == "adamw":
        return [adamw(matrices)]
    if recipe.optimiser == "soap":
        return [Soap(matrices, rate, decay, stacked=stacked), adamw([])]
    outer = [weight for weight in matrices if all(weight is not one for one in inner)]
    return [Muon(inner, rate, decay, stacked=stacked), adamw(outer)]


def take_step(optimiser: torch.optim.Optimizer) -> None:
    """Take a step, as ``optimiser.step()`` does; the wrappers of that import torch's compiler."""
    with torch.no_grad():
        inspect.unwrap(type(optimiser).step)(optimiser)


def rate_at(step: int, steps: int, recipe: Recipe) -> float:
    """Return the learning rate of a step: after a linear rise, that of the schedule.

    It is a function of the step alone, so that a training can be resumed at any step.

    Parameters
    ----------
    step : int
        Number of the step, from 0.
    steps : int
        Number of steps of the whole training.
    recipe : Recipe
        Its ``learning_rate``, ``schedule``, ``warmup`` and ``final_rate`` are used.
    """
    if recipe.schedule == "one_cycle":
        # Smith and Topin 2017, arXiv:1708.07120, with the numbers of torch.optim.lr_scheduler.OneCycleLR; the
        # momentum is constant.
        peak = _CYCLE_RISE * steps - 1
        first, last = 1 / 25, 1 / 25e4
        if step <= peak:
            return recipe.learning_rate * _along_cosine(first, 1.0, step / max(peak, 1.0))
        return recipe.learning_rate * _along_cosine(1.0, last, (step - peak) / max(steps - 1 - peak, 1.0))
    rise = recipe.warmup * steps
    if step < rise:
        return recipe.learning_rate * (step + 1) / (rise + 1)
    if recipe.schedule == "constant":
        return recipe.learning_rate
    if recipe.schedule == "step":
        return recipe.learning_rate * 0.1 ** sum(step >= part * steps for part in _DROPS)
    fall = 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1.0, steps - rise)))
    return recipe.learning_rate * (recipe.final_rate + (1 - recipe.final_rate) * fall)


def _along_cosine(start: float, stop: float, place: float) -> float:
    return stop + 0.5 * (start - stop) * (1 + math.cos(math.pi * place))
