"""The activation of a trained network: function, derivative, and response to the edges of a galaxy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.ndimage import sobel
from torch import Tensor, nn

from shearbench.diagnostics.flow import elementwise, recorded
from shearbench.diagnostics.galaxies import Split
from shearbench.tasks.shear.model_file import TrainedNetwork

CURVE_COLUMNS = ["variant", "seed", "part", "x", "given", "response", "slope"]
_LARGEST, _POINTS, _STAMPS = 4.0, 161, 4
_EDGE = 2.0  # largest value of the edge-filtered galaxy


def table_of_curves(model: TrainedNetwork, split: Split) -> pd.DataFrame:
    """Return the function and the derivative of the first activation of a network.

    Parameters
    ----------
    model : TrainedNetwork
    split : Split

    Returns
    -------
    pandas.DataFrame
        Rows with ``given``, the input of the activation, ``response`` and ``slope``, its output and its
        derivative. ``part`` is ``curve`` for inputs from -4 to 4 (``x`` is the input), and ``row`` for the
        row of pixels with the largest value of the first galaxy of the split, without noise, after Sobel's
        filter for edges along the row, scaled to a largest value of 2 (``x`` is the distance from the centre
        [pixels]). No rows if the network has no activation. Columns: `CURVE_COLUMNS`.
    """
    network = model.network
    images, psf = (torch.from_numpy(part) for part in split.stamps.noiseless(0, _STAMPS))
    sigma = torch.zeros(len(images))
    with torch.no_grad():
        _, calls = recorded(network, lambda: network.body(network.normalise(images, psf, sigma)))
    for call in calls:
        if elementwise(call.module, call.given, call.made):
            parts = {"curve": _grid(), "row": _edges(images[0].double().numpy())}
            tables = [
                pd.DataFrame(
                    {"part": part, "x": x, "given": given, **_applied(call.module, given, call.given)}
                )
                for part, (x, given) in parts.items()
            ]
            about = {name: model.about[name] for name in ("variant", "seed")}
            return pd.concat(tables, ignore_index=True).assign(**about)[CURVE_COLUMNS]
    return pd.DataFrame(columns=CURVE_COLUMNS)


def _grid() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    grid = np.linspace(-_LARGEST, _LARGEST, _POINTS)
    return grid, grid


def _edges(stamp: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the places [pixels] and the values of a row of the edge-filtered stamp."""
    edges = sobel(stamp, axis=1)
    row = edges[np.unravel_index(np.abs(edges).argmax(), edges.shape)[0]]
    places = np.arange(len(row), dtype=np.float64) - (len(row) - 1) / 2
    return places, _EDGE * row / np.abs(row).max()


def _applied(module: nn.Module, values: NDArray[np.float64], like: Tensor) -> dict[str, NDArray[np.float32]]:
    """Return the response and the slope of the first unit of an activation.

    Parameters
    ----------
    module : torch.nn.Module
    values : ndarray, shape (k,)
    like : Tensor, shape (n, ...)
        An input of the activation.
    """
    given = torch.from_numpy(values).to(like).view(-1, *[1] * (like.ndim - 1))
    given = given.repeat(1, *like.shape[1:]).requires_grad_()
    made = module(given)
    (slope,) = torch.autograd.grad(made.sum(), given)
    return {
        "response": made.detach().flatten(1)[:, 0].numpy(),
        "slope": slope.flatten(1)[:, 0].numpy(),
    }
