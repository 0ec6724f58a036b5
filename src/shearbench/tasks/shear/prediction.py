"""Trained networks as estimators."""

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
"""Stamps of 48 x 48 pixels at once: what keeps a device busy, and a CPU's cache in use."""


def predict(
    model: TrainedNetwork,
    stamps: StampSet,
    sigma: float,
    seed: int,
    batch: int | None = None,
    threads: int = 1,
    device: torch.device | None = None,
) -> tuple[Shapes, float]:
    """Measure all stamps of a split at one noise level.

    Parameters
    ----------
    model : TrainedNetwork
    stamps : StampSet
    sigma : float
        Noise per pixel.
    seed : int
        The run's seed, which names the noise (not the network's).
    batch : int, optional
        Stamps at once; by default as many pixels as `BATCH` has.
    threads : int
        CPU threads.
    device : torch.device, optional
        The GPU that is visible, or the CPU, by default.

    Returns
    -------
    shapes : Shapes
        Stamps with NaN or infinite pixels, in themselves or in their PSF, are flagged ``BAD_PIXELS``, and
        answers with ``|g| >= 1`` ``OUT_OF_RANGE``; all are ``DIVERGED`` where the training did.
    seconds : float
        Time spent measuring, copies to the device included; reading, noise and the first batch's warming
        up are not.

    Raises
    ------
    ContractError
        The stamps are not of the size, scale or population that the network was trained on.
    """
    _check(model, stamps)
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
    # A sum is finite if and only if all its terms are.
    good = torch.isfinite(images.sum((1, 2)) + psf.sum((-2, -1)))
    if not good.all():
        # Zeros in place of what is no number: the others get the same answer as without such neighbours.
        images = images.where(good[:, None, None], 0.0)
        psf = psf.nan_to_num(0.0, 0.0, 0.0)
    network = model.network
    answer = network(images, psf, images.new_tensor(batch.sigma))
    error = network.errors(answer, batch.sigma).where(good[:, None], torch.nan)
    shapes = answer.shapes.where(good[:, None], torch.nan)
    g, finite = shapes.double().cpu().numpy(), good.cpu().numpy()
    flag = np.where(finite, int(Flag.GOOD), int(Flag.BAD_PIXELS))
    flag[finite & ~(np.hypot(*g.T) < 1)] = int(Flag.OUT_OF_RANGE)
    return g, error.double().cpu().numpy(), flag


def _check(model: TrainedNetwork, stamps: StampSet) -> None:
    expected = {
        "population": model.about["population"],
        "shape": tuple(model.about["shape"]),
        "pixel_scale": model.about["pixel_scale"],
        "constant_psf": not model.about["per_galaxy_psf"],
    }
    for field, value in expected.items():
        found = getattr(stamps, field)
        if found != value:
            raise ContractError.of(
                stamps.paths[0], field, found, f"{value}, as the model was trained on", RULE
            )
