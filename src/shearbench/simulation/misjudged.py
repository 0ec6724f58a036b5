"""Stamps whose PSF or noise level is told wrongly to the estimators that measure them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shearbench.data.stamps import StampBatch, StampSet
from shearbench.errors import ContractError
from shearbench.simulation.galsim_stamps import draw_psfs
from shearbench.simulation.populations import Population


class MisjudgedStamps(StampSet):
    """The first stamps of a split with the same noise, of which another PSF or noise level is told.

    Parameters
    ----------
    paths : sequence of path-like
        The chunk files, in order.
    count : int
        Number of stamps.
    psf : ndarray, shape (ny, nx) or (k, ny, nx), optional
        The PSFs that are told; those of the stamps by default.
    psf_of : ndarray of int, shape (count,), optional
        Which of the `psf` is told for each stamp; needed if they are several.
    noise : float
        The noise level that is told, over that of the stamps.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        count: int,
        psf: NDArray[np.float32] | None = None,
        psf_of: NDArray[np.int64] | None = None,
        noise: float = 1.0,
    ) -> None:
        super().__init__(paths)
        self.galaxy_id, self.noise_id = self.galaxy_id[:count], self.noise_id[:count]
        self.psf, self.psf_of, self.noise = psf, psf_of, noise

    def batches(
        self, sigma: float, seed: int, size: int = 1024, start: int = 0, stop: int | None = None
    ) -> Iterator[StampBatch]:
        """Yield the stamps with the noise that they have, and the PSF and noise level that are told."""
        for batch in super().batches(sigma, seed, size, start, stop):
            psf = batch.psf if self.psf is None else self.psf
            if self.psf is not None and self.psf_of is not None:
                psf = self.psf[self.psf_of[start : start + len(batch)]]
            yield replace(batch, psf=psf, sigma=self.noise * sigma)
            start += len(batch)


def misjudged(
    stamps: StampSet, catalog: pd.DataFrame, population: Population, told: str, amount: float
) -> MisjudgedStamps:
    """Return the stamps of the first rows of a catalog, with a PSF or a noise level that is told wrongly.

    Parameters
    ----------
    stamps : StampSet
        Of the split ``shear``.
    catalog : pandas.DataFrame
        The first rows of its catalog, in order.
    population : Population
    told : {'psf_size', 'psf_shape', 'noise_low', 'noise_high'}
        ``psf_size``: the PSF is larger by the fraction `amount`, without the pixel unless the PSF holds it.
        ``psf_shape``: `amount` is added to both components of its shape. ``noise_low``, ``noise_high``: the
        noise level is `amount` higher, relative to the true one.
    amount : float

    Raises
    ------
    ContractError
        The rows are not those of the first stamps.
    """
    count = len(catalog)
    if not np.array_equal(catalog["galaxy_id"], stamps.galaxy_id[:count]):
        raise ContractError.of(
            stamps.paths[0], "galaxy_id", "other galaxies", "those of the catalog", "simulate_stamps"
        )
    if told.startswith("noise"):
        return MisjudgedStamps(stamps.paths, count, noise=1 + amount)
    size, shear = (1 + amount, 0.0) if told == "psf_size" else (1.0, amount)
    how = (population, stamps.shape, stamps.pixel_scale, size, (shear, shear))
    if stamps.constant_psf:
        psf = draw_psfs(catalog.head(1), *how)
        return MisjudgedStamps(stamps.paths, count, psf[0])
    psf = draw_psfs(catalog.drop_duplicates("pair_id"), *how)
    return MisjudgedStamps(stamps.paths, count, psf, pd.factorize(catalog["pair_id"])[0])
