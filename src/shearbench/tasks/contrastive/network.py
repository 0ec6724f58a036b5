"""What all encoders share: the projection, and the start of another network from an encoder's weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def projection(features: int, hidden: int, outputs: int) -> nn.Module:
    """Return the projection g, which maps features [n, features] to [n, outputs]."""
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def info_nce(views: Tensor, temperature: float) -> Tensor:
    """Return the InfoNCE loss of each network.

    Parameters
    ----------
    views : Tensor, shape (networks, 2, n, d)
        Unit vectors: the embeddings of two views of each image.
    temperature : float

    Returns
    -------
    Tensor, shape (networks,)
        Mean over all views of -log(share of the other view of the image among all other views) [nats].
    """
    both = views.flatten(1, 2)
    count = both.shape[1]
    similarity = both @ both.mT / temperature
    itself = torch.eye(count, dtype=torch.bool, device=views.device)
    similarity = similarity.masked_fill(itself, -torch.inf)
    positive = (views[:, 0] * views[:, 1]).sum(-1) / temperature
    return similarity.logsumexp(2).mean(1) - positive.mean(1)


@torch.no_grad()
def start_from(network: nn.Module, weights: Mapping[str, Tensor]) -> str | None:
    """Give a network the weights of an encoder of the same architecture, except those of its last layer.

    Parameters
    ----------
    network : torch.nn.Module
        The layers of an architecture; its last layer computes the output and keeps its weights.
    weights : mapping of str to Tensor
        The state of the encoder's layers.

    Returns
    -------
    str or None
        Why the weights do not fit, or None if the network has them now.
    """
    own = network.state_dict()
    last = list(dict(network.named_parameters()))[-1].rpartition(".")[0]
    inner = [name for name in own if not name.startswith(f"{last}.")]
    for name in [*inner, *weights]:
        if name not in own:
            return f"it has weights {name}, and the network has none"
        if name not in weights:
            return f"the network has weights {name}, and it has none"
        if name in inner and own[name].shape != weights[name].shape:
            shapes = [" x ".join(map(str, one.shape)) for one in (weights[name], own[name])]
            return f"its weights {name} are {shapes[0]}, and those of the network {shapes[1]}"
    network.load_state_dict({name: weights[name] if name in inner else value for name, value in own.items()})
    return None
