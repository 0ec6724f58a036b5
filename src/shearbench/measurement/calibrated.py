"""Measurement of stamps by a network and the committee that corrects its answers."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch

from shearbench.data.shapes import Flag, Shapes
from shearbench.data.stamps import StampBatch
from shearbench.jobs.torch_settings import torch_settings
from shearbench.measurement.ensemble import combine
from shearbench.tasks.shear.calibration import Committee, features, load_calibrated
from shearbench.tasks.shear.network import ShearNetwork

_BLOCK = 64  # stamps in each forward pass


def measure_calibrated(path: str, variant: str, batch: StampBatch) -> Shapes:
    """Return the corrected shapes by a network.

    Parameters
    ----------
    path : str
        Model file of the calibrated network.
    variant : str
        Name of the network that the file must hold.
    batch : StampBatch

    Returns
    -------
    Shapes
        As from `shearbench.measurement.ensemble.combine`, of the members of the committee. The aleatoric part
        is the calibrated error of the corrected shape.

    Raises
    ------
    ContractError
        See `load_calibrated`.
    """
    return measure_with(*_loaded(path, variant), batch)


@lru_cache(maxsize=1)
def _loaded(path: str, variant: str) -> tuple[ShearNetwork, Committee]:
    return load_calibrated(path, variant)


def measure_with(network: ShearNetwork, committee: Committee, batch: StampBatch) -> Shapes:
    """Return the corrected shapes of a batch, on the CPU with one thread; see `measure_calibrated`."""
    if network.per_galaxy_psf and batch.psf.ndim == 2:
        batch = replace(batch, psf=np.broadcast_to(batch.psf, batch.images.shape).copy())
    corrected, errors = [], []
    with torch_settings(1, 0, torch.device("cpu")), torch.inference_mode():
        for start in range(0, len(batch), _BLOCK):
            # The last block is filled up: rounding depends on the size of a block, and results must not
            # depend on the size of the batch.
            part = batch.select(np.minimum(np.arange(start, start + _BLOCK), len(batch) - 1))
            images, psf = torch.from_numpy(part.images), torch.from_numpy(part.psf)
            sigma = images.new_full((len(part),), part.sigma)
            answer = network(images, psf, sigma)
            corrected.append(committee(features(network, answer, sigma)).numpy())
            errors.append(network.errors(answer, part.sigma).double().numpy())
    shapes = np.concatenate(corrected, 1)[:, : len(batch)]
    g1_err, g2_err = np.concatenate(errors)[: len(batch)].T
    # A shape is judged as the mean of all members, so that none leaves the mean where it is large.
    good = np.full(len(batch), int(Flag.GOOD))
    return combine([Shapes(one[:, 0], one[:, 1], g1_err, g2_err, good) for one in shapes])
