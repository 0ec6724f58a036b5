"""A trained network that measures the sheared stamps of metacalibration."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from shearbench.data.shapes import Flag, Shapes
from shearbench.data.stamps import StampBatch
from shearbench.jobs.torch_settings import torch_settings
from shearbench.tasks.shear.model_file import load_model
from shearbench.tasks.shear.network import ShearNetwork

_BLOCK = 64  # stamps in each forward pass


@dataclass(frozen=True)
class NetworkMeasurer:
    """A network that measures batches on the CPU, with one thread."""

    network: ShearNetwork

    def measure(self, batch: StampBatch) -> Shapes:
        """Estimate the shape of every stamp of a batch.

        Returns
        -------
        Shapes
            Errors are NaN: the network's errors hold for white noise, and that of sheared stamps is
            correlated.
        """
        answers = []
        with torch_settings(1, 0, torch.device("cpu")), torch.inference_mode():
            for start in range(0, len(batch), _BLOCK):
                # The last block is filled up with copies of the last stamp: rounding depends on the size of a
                # block, and results must not depend on the size of the batch.
                part = batch.select(np.minimum(np.arange(start, start + _BLOCK), len(batch) - 1))
                images, psf = torch.from_numpy(part.images), torch.from_numpy(part.psf)
                answer = self.network(images, psf, images.new_tensor(part.sigma))
                answers.append(answer.shapes.double().numpy())
        g1, g2 = np.concatenate(answers)[: len(batch)].T
        nothing = np.full(len(batch), np.nan)
        flag = np.where(np.hypot(g1, g2) < 1, int(Flag.GOOD), int(Flag.OUT_OF_RANGE))
        return Shapes(g1, g2, nothing, nothing.copy(), flag)


@lru_cache(maxsize=1)
def load_network(path: str, variant: str) -> NetworkMeasurer:
    """Return the network of a model file.

    Parameters
    ----------
    path : str
    variant : str
        Name of the network variant that the file must hold.

    Raises
    ------
    ContractError
        The file cannot be read, or holds another variant.
    """
    return NetworkMeasurer(load_model(path, variant).network)
