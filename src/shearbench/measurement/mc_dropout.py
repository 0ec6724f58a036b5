"""Monte Carlo dropout of a trained network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from shearbench.data.shapes import Shapes
from shearbench.data.stamps import StampBatch
from shearbench.measurement.ensemble import combine
from shearbench.measurement.trained_network import NetworkMeasurer, load_network


def measure_thinned(path: str, variant: str, batch: StampBatch, passes: int) -> Shapes:
    """Return the mean shapes by a network with units left out at random, and both parts of the error.

    Parameters
    ----------
    path : str
        Model file of the network.
    variant : str
        Name of the network that the file must hold.
    batch : StampBatch
    passes : int
        Number of thinned networks, which are the same for all stamps.

    Returns
    -------
    Shapes
        As from `shearbench.measurement.ensemble.combine`. The aleatoric part is the network's own calibrated
        error.

    Raises
    ------
    ContractError
        The file cannot be read, or holds another variant.
    """
    network = load_network(path, variant).network
    if network.per_galaxy_psf and batch.psf.ndim == 2:
        batch = replace(batch, psf=np.broadcast_to(batch.psf, batch.images.shape).copy())
    members = []
    for k in range(passes):
        with thinned(network, k):
            members.append(NetworkMeasurer(network, errors=True).measure(batch))
    return combine(members)


@contextmanager
def thinned(network: nn.Module, number: int) -> Iterator[None]:
    """Leave units of a network out in its dropout layers while the block lasts.

    Parameters
    ----------
    network : Module
        In evaluation mode.
    number : int
        Number of the thinned network: it determines the units. They are the same for all stamps and for each
        use of a layer, so that the result does not depend on how stamps are divided into batches.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.modules.dropout._DropoutNd)]
    with ExitStack() as stack:
        for place, layer in enumerate(layers):
            stack.callback(layer.register_forward_hook(_masking(layer, [number, place])).remove)
        yield


def _masking(layer: nn.modules.dropout._DropoutNd, seed: list[int]) -> Callable[..., Tensor]:
    """Return a hook that leaves out units of a layer's output, or whole channels where the layer does."""
    by_channel = isinstance(layer, (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d))

    def mask(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        shape = output.shape[1:]
        drawn = shape[:1] if by_channel else shape
        kept = np.random.default_rng(seed).random(drawn) >= layer.p
        weights = torch.from_numpy(kept / (1 - layer.p)).to(output)
        return output * (weights.reshape(-1, *[1] * (len(shape) - 1)) if by_channel else weights)

    return mask
