"""The cost of a network: weights, operations and seconds per stamp."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from shearbench.data.stamps import StampSet
from shearbench.diagnostics.summary import trace
from shearbench.tasks.shear.model_file import TrainedNetwork

COSTS = ("variant", "parameters", "flops", "forward_seconds", "step_seconds")
_TIMED, _REPEATS = 256, 5  # stamps of a timed batch, and how many times it is timed; the least time counts


def cost(model: TrainedNetwork, stamps: StampSet, seed: int) -> dict[str, Any]:
    """Return the size and the cost of a network.

    Parameters
    ----------
    model : TrainedNetwork
    stamps : StampSet
    seed : int
        The run's seed, which determines the noise.

    Returns
    -------
    dict
        `COSTS`: number of weights, floating-point operations per stamp (of a measurement), and seconds per
        stamp on one core, of a measurement and of a training step without the optimiser.
    """
    network = model.network
    count = min(_TIMED, len(stamps))
    batch = next(iter(stamps.batches(1e-3, seed, count)))
    images, psf = torch.from_numpy(batch.images), torch.from_numpy(batch.psf)
    sigma = images.new_tensor(batch.sigma).expand(count)

    def forward() -> None:
        with torch.no_grad():
            network.body(network.normalise(images, psf, sigma))

    def step() -> None:
        network.body(network.normalise(images, psf, sigma)).square().mean().backward()

    def least(call: Callable[[], None]) -> float:
        times = []
        for _ in range(_REPEATS + 1):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return min(times[1:]) / count

    seconds = {"forward_seconds": least(forward), "step_seconds": least(step)}
    network.zero_grad(set_to_none=True)
    return {
        "variant": model.about["variant"],
        "parameters": sum(weight.numel() for weight in network.body.parameters()),
        "flops": trace(network.body, stamps.shape)[1],
        **seconds,
    }
