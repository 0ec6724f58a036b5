"""The change of a network's answer when a galaxy is shifted by a fraction of a pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from shearbench.bounds.cramer_rao import marginal_variance
from shearbench.bounds.fisher import fisher, jacobians
from shearbench.diagnostics.galaxies import Split
from shearbench.tasks.shear.model_file import TrainedNetwork

SHIFT_COLUMNS = [
    "population",
    "variant",
    "seed",
    "noise",
    "shift",
    "galaxies",
    "offset_g1",
    "offset_g2",
    "slope_g1",
    "slope_g2",
    "change",
    "change_over_crb",
]
SHIFTS = (0.125, 0.25, 0.375, 0.5)
"""Shifts along a row of pixels [pixels]."""


@dataclass(frozen=True)
class Shifted:
    """Galaxies without noise, at their places and shifted.

    Attributes
    ----------
    images : dict of float to Tensor of float32, shape (n, ny, nx)
        By the shift, also for a shift of 0.
    psf : Tensor of float32, shape (ny, nx) or (n, ny, nx)
    truth : ndarray of float64, shape (n, 2)
        g1, g2.
    bound : float
        The rms Cramer-Rao bound of g1 and g2 for a noise of 1.
    """

    images: dict[float, Tensor]
    psf: Tensor
    truth: NDArray[np.float64]
    bound: float

    @classmethod
    def of(cls, split: Split, count: int) -> Shifted:
        """Return the first galaxies of a split."""
        stamps, catalog = split.stamps, split.catalog.iloc[:count]
        psf = stamps.noiseless(0, len(catalog))[1]
        images = {}
        for shift in (0.0, *SHIFTS):
            moved = catalog.assign(dx=catalog["dx"] + shift * stamps.pixel_scale)
            moved.attrs = catalog.attrs
            drawn, _, _ = jacobians(moved, stamps.pixel_scale, stamps.shape, psf)
            images[shift] = torch.from_numpy(drawn).float()
        matrices, names = fisher(catalog, stamps.pixel_scale, stamps.shape, psf_images=psf)
        at = [names.index(name) for name in ("g1", "g2")]
        bound = float(np.sqrt(np.nanmean(marginal_variance(matrices)[:, at])))
        return cls(images, torch.from_numpy(psf), catalog[["g1", "g2"]].to_numpy(np.float64), bound)


@torch.no_grad()
def table_of_shifts(model: TrainedNetwork, galaxies: Shifted, sigma: float) -> pd.DataFrame:
    """Measure how the answer changes when galaxies without noise are shifted.

    Parameters
    ----------
    model : TrainedNetwork
    galaxies : Shifted
    sigma : float
        The noise level that the network is told [flux per pixel].

    Returns
    -------
    pandas.DataFrame
        A row for each of the `SHIFTS`, with the columns `SHIFT_COLUMNS`. The change of a component of the
        shape is fitted by ``offset + slope * true shape`` over the galaxies. ``change``: rms of the change;
        ``change_over_crb``: the same over the rms Cramer-Rao bound at this noise.
    """

    def answers(shift: float) -> NDArray[np.float64]:
        answer = model.network(galaxies.images[shift], galaxies.psf, torch.tensor(sigma))
        return answer.shapes.double().numpy()

    truth = galaxies.truth
    still, rows = answers(0.0), []
    for shift in SHIFTS:
        change = answers(shift) - still
        slope, offset = zip(*(np.polyfit(truth[:, k], change[:, k], 1) for k in range(2)), strict=True)
        rms = float(np.sqrt(np.mean(change**2)))
        rows.append(
            {
                **{name: model.about[name] for name in ("population", "variant", "seed")},
                "noise": sigma,
                "shift": shift,
                "galaxies": len(truth),
                **{f"offset_{name}": value for name, value in zip(("g1", "g2"), offset, strict=True)},
                **{f"slope_{name}": value for name, value in zip(("g1", "g2"), slope, strict=True)},
                "change": rms,
                "change_over_crb": rms / (sigma * galaxies.bound),
            }
        )
    return pd.DataFrame(rows, columns=SHIFT_COLUMNS)
