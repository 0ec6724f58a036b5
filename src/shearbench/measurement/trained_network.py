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
    """A network that measures batches on the CPU, with one thread.

    Attributes
    ----------
    network : ShearNetwork
    errors : bool
        Whether the calibrated errors of the network are returned. They hold for white noise.
    """

    network: ShearNetwork
    errors: bool = False

    def measure(self, batch: StampBatch) -> Shapes:
        """Estimate the shape of every stamp of a batch.

        Returns
        -------
        Shapes
            Errors are NaN without `errors`, as for sheared stamps, whose noise is correlated.
        """
        answers, errors = [], []
        with torch_settings(1, 0, torch.device("cpu")), torch.inference_mode():
            for start in range(0, len(batch), _BLOCK):
                # The last block is filled up with copies of the last stamp: rounding depends on the size of a
                # block, and results must not depend on the size of the batch.
                part = batch.select(np.minimum(np.arange(start, start + _BLOCK), len(batch) - 1))
                images, psf = torch.from_numpy(part.images), torch.from_numpy(part.psf)
                answer = self.network(images, psf, images.new_tensor(part.sigma))
                answers.append(answer.shapes.double().numpy())
                error = self.network.errors(answer, part.sigma) if self.errors else answer.shapes * torch.nan
                errors.append(error.double().numpy())
        g1, g2 = np.concatenate(answers)[: len(batch)].T
        g1_err, g2_err = np.concatenate(errors)[: len(batch)].T
        flag = np.where(np.hypot(g1, g2) < 1, int(Flag.GOOD), int(Flag.OUT_OF_RANGE))
        return Shapes(g1, g2, g1_err, g2_err, flag)


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
