"""The cost of a network: weights, operations and seconds of a core per stamp."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from shearbench.data.stamps import StampSet
from shearbench.diagnostics.summary import trace
from shearbench.tasks.shear.model_file import TrainedNetwork
from shearbench.tasks.shear.network import ShearNetwork

COSTS = ("variant", "parameters", "flops", "forward_seconds", "step_seconds")
_TIMED, _ROUNDS = 256, 5  # stamps of a timed batch, and how many times it is timed; the least time counts


def costs(models: Sequence[TrainedNetwork], stamps: StampSet, seed: int) -> list[dict[str, Any]]:
    """Return the size and the cost of networks.

    Parameters
    ----------
    models : sequence of TrainedNetwork
    stamps : StampSet
    seed : int
        The run's seed, which determines the noise.

    Returns
    -------
    list of dict
        `COSTS` of each network: number of weights, floating-point operations per stamp (of a measurement),
        and seconds of one core per stamp, of a measurement and of a training step without the optimiser.
        The networks are timed in turn, several times, so that other work of the machine slows all of them.
    """
    count = min(_TIMED, len(stamps))
    batch = next(iter(stamps.batches(1e-3, seed, count)))
    images, psf = torch.from_numpy(batch.images), torch.from_numpy(batch.psf)
    sigma = images.new_tensor(batch.sigma).expand(count)

    def forward(network: ShearNetwork) -> None:
        with torch.no_grad():
            network.body(network.normalise(images, psf, sigma))

    def step(network: ShearNetwork) -> None:
        network.body(network.normalise(images, psf, sigma)).square().mean().backward()

    def seconds(call: Callable[[ShearNetwork], None], network: ShearNetwork) -> float:
        start = time.process_time()  # without the time in which other processes have the core
        call(network)
        return (time.process_time() - start) / count

    calls = {"forward_seconds": forward, "step_seconds": step}
    rounds = [
        [{name: seconds(call, model.network) for name, call in calls.items()} for model in models]
        for _ in range(_ROUNDS + 1)
    ]
    found = []
    for k, model in enumerate(models):
        network = model.network
        network.zero_grad(set_to_none=True)
        found.append(
            {
                "variant": model.about["variant"],
                "parameters": sum(weight.numel() for weight in network.body.parameters()),
                "flops": trace(network.body, stamps.shape)[1],
                # The first round, which prepares memory, does not count.
                **{name: min(times[k][name] for times in rounds[1:]) for name in calls},
            }
        )
    return found
