"""Train the small network with one of the frameworks, and measure shapes with it."""

from __future__ import annotations

import importlib
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import psutil
from numpy.typing import NDArray

from shearbench.data.shapes import Flag, Shapes
from shearbench.data.stamps import StampSet
from shearbench.files.hdf5 import add_dataset, create_hdf5, open_hdf5
from shearbench.files.origin import Origin
from shearbench.frameworks.base import Sizes, SmallNetwork, Weights, xavier
from shearbench.frameworks.batches import Batches, Checksum, Scaling
from shearbench.frameworks.logs import leave_stderr_open
from shearbench.frameworks.options import NETWORKS, NetworkName

BATCH = 256
"""Stamps that are measured at once."""


def make_network(name: NetworkName, sizes: Sizes, weights: Weights) -> SmallNetwork:
    """Return a network of `shearbench.frameworks.options.NETWORKS` with these weights; it uses one thread.

    The threads of NumPy and PyTorch follow from the environment of the job, those of XLA do not.
    """
    about = NETWORKS[name]
    one = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {one}".strip()
    module = importlib.import_module(about.module)
    leave_stderr_open()
    return getattr(module, about.class_name)(sizes, weights, about.precision)


def train(name: NetworkName, sizes: Sizes, batches: Batches) -> tuple[SmallNetwork, pd.DataFrame]:
    """Train a network.

    Parameters
    ----------
    name : str
        Of `NETWORKS`.
    sizes : Sizes
    batches : Batches

    Returns
    -------
    network : SmallNetwork
        The trained network.
    history : pandas.DataFrame
        One row per epoch: ``epoch``; ``loss``, the mean over its steps of the mean squared error in units of
        the shapes' standard deviation; ``views``, stamps since the start; and, the same in all rows,
        ``train_seconds``, the CPU time of all steps without the compilation; ``compile_seconds``, the CPU
        time from the import of the framework to the end of the first step, less that of a later step;
        ``memory_mb``, the growth of the process's memory in the training; ``parameters``, the number of
        weights; ``batches``, a checksum of the batches.
    """
    before = psutil.Process().memory_info().rss
    start = time.process_time()
    network = make_network(name, sizes, xavier(sizes, batches.seed))
    first = time.process_time() - start
    times: list[float] = []
    rows: list[dict[str, Any]] = []
    seen = Checksum()
    for epoch in range(batches.epochs):
        losses = []
        for images, targets, rate in batches.epoch(epoch):
            seen.add(images, targets, rate)
            start = time.process_time()
            losses.append(network.step(images, targets, rate))
            times.append(time.process_time() - start)
        rows.append({"epoch": epoch + 1, "loss": float(np.mean(losses)), "views": len(times) * batches.size})
        print(f"epoch {epoch + 1}: loss {rows[-1]['loss']:.4g}")
    usual = float(np.median(times))
    history = pd.DataFrame(rows).assign(
        train_seconds=sum(times[1:]) + usual,
        compile_seconds=max(first + times[0] - usual, 0.0),
        memory_mb=max(_peak_memory() - before, 0) / 1e6,
        parameters=sum(value.size for value in network.weights().values()),
        batches=str(seen),
    )
    return network, history


def _peak_memory() -> int:
    """Return the largest memory that this process has had [bytes]."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def measure(
    outputs: Callable[[NDArray[np.float32]], NDArray[np.floating]], stamps: StampSet, sigma: float, seed: int
) -> tuple[Shapes, float]:
    """Measure the shapes of all stamps of a split.

    Parameters
    ----------
    outputs : callable
        Function from stamps (n, ny, nx) with noise to shapes (n, 2).
    stamps : StampSet
    sigma : float
        Noise per pixel.
    seed : int
        The run's seed, for the noise.

    Returns
    -------
    shapes : Shapes
        Without errors. A shape that is not finite or has |g| >= 1 is flagged.
    seconds : float
        CPU time of `outputs`, without a first batch that is measured once more to warm up.
    """
    found, seconds = [], 0.0
    for number, batch in enumerate(stamps.batches(sigma, seed, BATCH)):
        n = len(batch)
        # A last batch of another size would be compiled anew.
        images = np.concatenate([batch.images, np.zeros((BATCH - n, *stamps.shape), np.float32)])
        if number == 0:
            outputs(images)
        start = time.process_time()
        found.append(np.asarray(outputs(images), np.float64)[:n])
        seconds += time.process_time() - start
    g = np.concatenate(found)
    flag = np.where(np.hypot(*g.T) < 1, int(Flag.GOOD), int(Flag.OUT_OF_RANGE))
    unknown = np.full(len(g), np.nan)
    return Shapes(g[:, 0], g[:, 1], unknown, unknown.copy(), flag), seconds


def outputs_of(
    forward: Callable[[NDArray[np.float32]], NDArray[np.floating]], scaling: Scaling
) -> Callable[[NDArray[np.float32]], NDArray[np.floating]]:
    """Return the function from stamps to shapes that a network's `forward` and a scaling give."""
    return lambda images: forward(scaling.images(images)) * scaling.shape


def write_network(
    path: str | os.PathLike[str], network: SmallNetwork, scaling: Scaling, origin: Origin | None = None
) -> None:
    """Write the weights of a network and its scaling to an HDF5 file."""
    with create_hdf5(path, origin) as file:
        for name, value in network.weights().items():
            add_dataset(file, f"weights/{name}", value)
        add_dataset(file, "mean", scaling.mean)
        add_dataset(file, "deviations", np.array([scaling.deviation, scaling.shape]))


def read_network(path: str | os.PathLike[str], expected: Origin | None = None) -> tuple[Weights, Scaling]:
    """Read a file of `write_network`.

    Raises
    ------
    ContractError
        The file is damaged, or has another origin than `expected`.
    """
    with open_hdf5(path, "weights of a network", "train_framework", expected) as file:
        weights = {name: data[...] for name, data in file["weights"].items()}
        deviation, shape = (float(value) for value in file["deviations"][...])
        return weights, Scaling(file["mean"][...], deviation, shape)
