"""Measurement of stamps by a trained network."""

from __future__ import annotations

import math
import time

import numpy as np
import torch

from shearbench.data.shapes import Flag, Shapes
from shearbench.data.stamps import RULE, StampBatch, StampSet
from shearbench.errors import ContractError
from shearbench.jobs.torch_settings import pick_device, torch_settings
from shearbench.tasks.shear.model_file import TrainedNetwork

BATCH = {"cpu": 1000, "cuda": 4096}
"""Number of stamps of 48 by 48 pixels measured at once: many for a GPU, few for the cache of a CPU."""


def predict(
    model: TrainedNetwork,
    stamps: StampSet,
    sigma: float,
    seed: int,
    batch: int | None = None,
    threads: int = 1,
    device: torch.device | None = None,
    elsewhere: bool = False,
) -> tuple[Shapes, float]:
    """Measure all stamps of a split at one noise level.

    Parameters
    ----------
    model : TrainedNetwork
    stamps : StampSet
    sigma : float
        Standard deviation of the noise [flux per pixel].
    seed : int
        Seed of the run, which determines the noise (not the seed of the network).
    batch : int, optional
        Number of stamps measured at once; by default as many pixels as in `BATCH`.
    threads : int
        Number of CPU threads.
    device : torch.device, optional
        By default a GPU if one is visible, else the CPU.
    elsewhere : bool
        Allow stamps of another population than the network was trained on. A network that was trained with
        the PSF of each galaxy gets that of each stamp; one that was trained with a single PSF is not told
        another one, but for its forward model.

    Returns
    -------
    shapes : Shapes
        Flags: ``BAD_PIXELS`` if the stamp or its PSF has NaN or infinite pixels; ``OUT_OF_RANGE`` if
        ``|g| >= 1``; ``DIVERGED`` for all stamps if the training diverged.
    seconds : float
        Time of the measurement with copies to the device [s], without reading, noise and a first batch that
        is measured once more to warm up.

    Raises
    ------
    ContractError
        The network was trained on stamps of another size or pixel scale, or of another population and
        `elsewhere` is false.
    """
    _check(model, stamps, elsewhere)
    if model.about["diverged"]:
        return Shapes.failed(len(stamps), Flag.DIVERGED), 0.0
    device = pick_device() if device is None else device
    batch = max(1, BATCH[device.type] * 48**2 // math.prod(stamps.shape)) if batch is None else batch
    parts, seconds = [], 0.0
    with torch_settings(threads, 0, device), torch.inference_mode():
        network = model.network.to(device)
        for k, one in enumerate(stamps.batches(sigma, seed, batch)):
            if k == 0:
                _measure(model, one, device)
            start = time.perf_counter()
            parts.append(_measure(model, one, device))
            seconds += time.perf_counter() - start
        network.to("cpu")
    g, error, flag = (np.concatenate(column) for column in zip(*parts))
    return Shapes(g[:, 0], g[:, 1], error[:, 0], error[:, 1], flag), seconds


def _measure(
    model: TrainedNetwork, batch: StampBatch, device: torch.device
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    images, psf = torch.from_numpy(batch.images).to(device), torch.from_numpy(batch.psf).to(device)
    if model.network.per_galaxy_psf and psf.ndim == 2:
        psf = psf.expand(len(images), -1, -1)
    # A sum is finite if and only if all its terms are.
    good = torch.isfinite(images.sum((1, 2)) + psf.sum((-2, -1)))
    if not good.all():
        # Bad stamps are replaced by zeros, so that the other stamps of the batch have the same result.
        images = images.where(good[:, None, None], 0.0)
        psf = psf.nan_to_num(0.0, 0.0, 0.0)
    network = model.network
    if batch.depth is None:
        answer = network(images, psf, images.new_tensor(batch.sigma))
        error = network.errors(answer, batch.sigma)
    else:
        sigma = batch.sigma * torch.from_numpy(batch.depth).to(device)
        answer = network(images, psf, sigma.to(images.dtype))
        error = network.errors_by_level(answer, sigma)
    error = error.where(good[:, None], torch.nan)
    shapes = answer.shapes.where(good[:, None], torch.nan)
    g, finite = shapes.double().cpu().numpy(), good.cpu().numpy()
    flag = np.where(finite, int(Flag.GOOD), int(Flag.BAD_PIXELS))
    flag[finite & ~(np.hypot(*g.T) < 1)] = int(Flag.OUT_OF_RANGE)
    return g, error.double().cpu().numpy(), flag


def _check(model: TrainedNetwork, stamps: StampSet, elsewhere: bool) -> None:
    # A network trained with one PSF measures the stamps with other PSFs too, as a user of it would: what it
    # does then is the leakage. If it has a forward model, this gets the PSF of each stamp.
    leakage = stamps.split == "leakage" and not model.about["per_galaxy_psf"]
    expected = {
        "population": model.about["population"],
        "shape": tuple(model.about["shape"]),
        "pixel_scale": model.about["pixel_scale"],
        "constant_psf": not model.about["per_galaxy_psf"] and not leakage,
    }
    if elsewhere:
        expected = {field: expected[field] for field in ("shape", "pixel_scale")}
    for field, value in expected.items():
        found = getattr(stamps, field)
        if found != value:
            raise ContractError.of(
                stamps.paths[0], field, found, f"{value}, as the model was trained on", RULE
            )
