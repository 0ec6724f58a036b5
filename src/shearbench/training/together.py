"""Networks of one architecture computed as one: their weights are stacked, and one `vmap` goes over them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from shearbench.training.task import TrainedModule


class Stacked(nn.Module):
    """Modules that differ in their weights alone, as one whose input is divided among them.

    Its parameters and buffers have the modules in their first dimension. The modules' own become views of
    them: to change one is to change the other.

    Parameters
    ----------
    modules : sequence of torch.nn.Module
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.count = len(modules)
        # What to compute, with no weights of its own; in a list, lest it be a submodule.
        self._plan = [copy.deepcopy(modules[0]).to("meta")]
        # A name within a module has dots, which a parameter's own may not have.
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
        """Return the answers to inputs [n, ...]: the first part is the first module's, and so on."""

        def one(weights: dict[str, Tensor], statistics: dict[str, Tensor], *parts: Tensor) -> Any:
            return functional_call(self._plan[0], (weights, statistics), parts)

        weights: dict[str, Tensor] = {
            name.replace("/", "."): weight for name, weight in self.named_parameters()
        }
        statistics = {name.replace("/", "."): statistic for name, statistic in self.named_buffers()}
        parts = (values.unflatten(0, (self.count, -1)) for values in inputs)
        return torch.vmap(one)(weights, statistics, *parts).flatten(0, 1)


def stacked(networks: Sequence[TrainedModule]) -> TrainedModule:
    """Return one network whose weights are those of several, which see a part of the stamps each.

    Parameters
    ----------
    networks : sequence of TrainedModule
        They differ in their `learned` submodules alone. Their weights become views of those of the network
        returned.

    Returns
    -------
    TrainedModule
        A single one is returned as it is.
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
    """Return what an optimiser of stacked weights would keep were there one for each network."""
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
    """Undo `split_state`."""
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
    """Return whether an optimiser has counted this, once for all networks."""
    return name in ("step", "steps") or not isinstance(value, Tensor)
