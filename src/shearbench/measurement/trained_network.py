"""A trained network that measures the sheared stamps of metacalibration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

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
            for _, part in _blocks(batch):
                images, psf = torch.from_numpy(part.images), torch.from_numpy(part.psf)
                answer = self.network(images, psf, images.new_tensor(part.sigma))
                answers.append(answer.shapes.double().numpy())
                error = self.network.errors(answer, part.sigma) if self.errors else answer.shapes * torch.nan
                errors.append(error.double().numpy())
        return _shapes(np.concatenate(answers)[: len(batch)], np.concatenate(errors)[: len(batch)])

    def respond(self, batch: StampBatch, changes: NDArray[np.float32]) -> tuple[Shapes, NDArray[np.float64]]:
        """Estimate the shape of every stamp of a batch, and the derivatives of the shapes.

        Parameters
        ----------
        batch : StampBatch
        changes : ndarray, shape (n, k, ny, nx)
            Derivatives of each stamp by k quantities.

        Returns
        -------
        shapes : Shapes
            Errors are NaN.
        derivatives : ndarray, shape (n, 2, k)
            Of g1 and g2, by these quantities. Those of a network with a forward model are wrong: its steps
            are not differentiated.
        """
        answers, derivatives = [], []
        with torch_settings(1, 0, torch.device("cpu")):
            for rows, part in _blocks(batch):
                images, psf = torch.from_numpy(part.images).requires_grad_(), torch.from_numpy(part.psf)
                shapes = self.network(images, psf, images.new_tensor(part.sigma)).shapes
                # An answer depends on its own stamp alone, so the derivatives of a sum are those of each.
                by_pixel = [
                    torch.autograd.grad(shapes[:, i].sum(), images, retain_graph=i == 0)[0] for i in range(2)
                ]
                change = torch.from_numpy(changes[rows]).flatten(2)
                derivatives.append((torch.stack(by_pixel, 1).flatten(2) @ change.mT).double().numpy())
                answers.append(shapes.detach().double().numpy())
        g = np.concatenate(answers)[: len(batch)]
        return _shapes(g, np.full_like(g, np.nan)), np.concatenate(derivatives)[: len(batch)]


def _blocks(batch: StampBatch) -> Iterator[tuple[NDArray[np.int64], StampBatch]]:
    """Yield the rows and the stamps of each forward pass.

    The last block is filled up with copies of the last stamp: rounding depends on the size of a block, and
    results must not depend on the size of the batch.
    """
    for start in range(0, len(batch), _BLOCK):
        rows = np.minimum(np.arange(start, start + _BLOCK), len(batch) - 1)
        yield rows, batch.select(rows)


def _shapes(g: NDArray[np.float64], error: NDArray[np.float64]) -> Shapes:
    """Return the shapes and errors [n, 2] of a network as results, flagged where no shape is."""
    (g1, g2), (g1_err, g2_err) = g.T, error.T
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
