"""Networks of one architecture computed at once: their weights are stacked, `torch.vmap` maps over them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from shearbench.training.task import TrainedModule


class Stacked(nn.Module):
    """One module that computes several modules which differ in their weights only.

    The first dimension of its parameters and buffers numbers the modules. The parameters and buffers of the
    modules become views of them, so that a change of one changes the other. The input is divided among the
    modules.

    Parameters
    ----------
    modules : sequence of torch.nn.Module
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.count = len(modules)
        # The operations, without weights. It is in a list so that torch does not register it as a submodule.
        self._plan = [copy.deepcopy(modules[0]).to("meta")]
        # Names of parameters inside modules contain dots, which torch does not allow in a parameter's name.
        for name, _ in modules[0].named_parameters():
            weights = [module.get_parameter(name) for module in modules]
            whole = nn.Parameter(torch.stack([weight.detach() for weight in weights]))
            for weight, part in zip(weights, whole.detach()):
                weight.data = part
            self.register_parameter(name.replace(".", "/"), whole)
        for name, _ in modules[0].named_buffers():
            owner, _, last = name.rpartition(".")
            statistics = torch.stack([module.get_buffer(name) for module in modules])
            for module, part in zip(modules, statistics):
                setattr(module.get_submodule(owner), last, part)
            self.register_buffer(name.replace(".", "/"), statistics)

    def train(self, mode: bool = True) -> Stacked:
        """Set training or evaluation mode."""
        self._plan[0].train(mode)
        return super().train(mode)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the outputs for inputs [n, ...]: the first n / count are for the first module, and so on."""

        def one(weights: dict[str, Tensor], statistics: dict[str, Tensor], *parts: Tensor) -> Any:
            return functional_call(self._plan[0], (weights, statistics), parts)

        weights: dict[str, Tensor] = {
            name.replace("/", "."): weight for name, weight in self.named_parameters()
        }
        statistics = {name.replace("/", "."): statistic for name, statistic in self.named_buffers()}
        parts = (values.unflatten(0, (self.count, -1)) for values in inputs)
        return torch.vmap(one)(weights, statistics, *parts).flatten(0, 1)


def stacked(networks: Sequence[TrainedModule]) -> TrainedModule:
    """Return one network that computes several networks, each on its part of the stamps.

    Parameters
    ----------
    networks : sequence of TrainedModule
        They may differ in their `learned` submodules only. Their weights become views of the weights of the
        network that is returned.

    Returns
    -------
    TrainedModule
        If there is only one network, it is returned unchanged.
    """
    if len(networks) == 1:
        return networks[0]
    whole = copy.deepcopy(networks[0])
    whole.models = len(networks)
    for name in whole.learned:
        parts = [network.get_submodule(name) for network in networks]
        whole.set_submodule(name, Stacked(parts))
    return whole


def split_state(state: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Divide the state of an optimiser of stacked weights into states for each of the `count` networks."""
    if count == 1:
        return [state]

    def part(name: str, value: Any, k: int) -> Any:
        return value if _shared(name, value) else value[k].clone()

    return [
        {
            **state,
            "state": {
                weight: {name: part(name, value, k) for name, value in kept.items()}
                for weight, kept in state["state"].items()
            },
        }
        for k in range(count)
    ]


def join_states(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join the states of optimisers of single networks into that of stacked weights: undo `split_state`."""
    first = states[0]
    if len(states) == 1:
        return first
    joined = {
        weight: {
            name: value
            if _shared(name, value)
            else torch.stack([state["state"][weight][name] for state in states])
            for name, value in kept.items()
        }
        for weight, kept in first["state"].items()
    }
    return {**first, "state": joined}


def _shared(name: str, value: Any) -> bool:
    """Return whether an entry of an optimiser's state is common to all networks, as a number of steps is."""
    return name in ("step", "steps") or not isinstance(value, Tensor)
