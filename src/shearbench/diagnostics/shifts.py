"""The change of a network's answer when a galaxy is shifted by a fraction of a pixel."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

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


def table_of_shifts(model: TrainedNetwork, split: Split, count: int, sigma: float) -> pd.DataFrame:
    """Measure how the answer changes when galaxies without noise are shifted.

    Parameters
    ----------
    model : TrainedNetwork
    split : Split
    count : int
        Largest number of galaxies, the first ones of the split.
    sigma : float
        The noise level that the network is told [flux per pixel].

    Returns
    -------
    pandas.DataFrame
        A row for each of the `SHIFTS`, with the columns `SHIFT_COLUMNS`. The change of a component of the
        shape is fitted by ``offset + slope * true shape`` over the galaxies. ``change``: rms of the change;
        ``change_over_crb``: the same over the rms Cramer-Rao bound at this noise.
    """
    stamps, catalog = split.stamps, split.catalog.iloc[:count]
    psf = stamps.noiseless(0, len(catalog))[1]

    def answers(shift: float) -> NDArray[np.float64]:
        moved = catalog.assign(dx=catalog["dx"] + shift * stamps.pixel_scale)
        moved.attrs = catalog.attrs
        images, _, _ = jacobians(moved, stamps.pixel_scale, stamps.shape, psf)
        with torch.no_grad():
            answer = model.network(
                torch.from_numpy(images).float(), torch.from_numpy(psf), torch.tensor(sigma)
            )
        return answer.shapes.double().numpy()

    matrices, names = fisher(catalog, stamps.pixel_scale, stamps.shape, psf_images=psf)
    at = [names.index(name) for name in ("g1", "g2")]
    bound = sigma * np.sqrt(np.nanmean(marginal_variance(matrices)[:, at]))
    truth = catalog[["g1", "g2"]].to_numpy(np.float64)
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
                "galaxies": len(catalog),
                **{f"offset_{name}": value for name, value in zip(("g1", "g2"), offset, strict=True)},
                **{f"slope_{name}": value for name, value in zip(("g1", "g2"), slope, strict=True)},
                "change": rms,
                "change_over_crb": rms / bound,
            }
        )
    return pd.DataFrame(rows, columns=SHIFT_COLUMNS)
