"""Cases for the calibration of a network: galaxies in several orientations under random shears."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shearbench.data.observing import Observing
from shearbench.simulation.catalog import in_pairs, observing_of, sample_catalog, shear_shape
from shearbench.simulation.populations import SPLITS, Population

ROTATIONS = 4
"""Orientations of each galaxy, 45 degrees apart, so that the mean of their shapes is the shear."""
SHEARS = 4
"""Shears of each galaxy: s, -s, i s and -i s, with s = s1 + i s2."""
# The first random stream of the galaxies, beyond those of a training split of any size.
_FIRST_BLOCK = 0x63616C6962
_NOISE = len(SPLITS) + 1  # noise has numbers that no split has


@dataclass(frozen=True)
class Cases:
    """Galaxies of a population that no split has, each under four shears.

    Attributes
    ----------
    catalog : pandas.DataFrame
        A row for each noiseless stamp, in the order of a [galaxies, `ROTATIONS`, `SHEARS`] array.
    sigma : ndarray of float64, shape (galaxies,)
        Noise per pixel.
    noise_id : ndarray of int64, shape (galaxies, ROTATIONS, realisations)
        Numbers of the noise; the four shears have the same noise, and so has each stamp with both signs.
    observing : Observing
        How the pixels are observed.
    """

    catalog: pd.DataFrame
    sigma: NDArray[np.float64]
    noise_id: NDArray[np.int64]
    observing: Observing

    def rows(self, galaxies: slice) -> pd.DataFrame:
        """Return the rows of the catalog of some galaxies."""
        each = ROTATIONS * SHEARS
        return self.catalog.iloc[galaxies.start * each : galaxies.stop * each]

    @property
    def shear(self) -> NDArray[np.float64]:
        """The true shears g1, g2, shape (galaxies, SHEARS, 2)."""
        columns = self.catalog[["shear1", "shear2"]].to_numpy(np.float64)
        return columns.reshape(-1, ROTATIONS, SHEARS, 2)[:, 0]


def sample_cases(
    population: Population,
    name: str,
    galaxies: int,
    realisations: int,
    noise: tuple[float, float],
    shear: float,
    seed: int,
    pixel_scale: float,
) -> Cases:
    """Draw cases: galaxies from random streams of the training split that no training uses.

    Of a catalogue of galaxies, they are among those of the training split, so that none is in the validation
    or in a split that is measured.

    Parameters
    ----------
    population : Population
    name : str
        Name of the population; part of the seed.
    galaxies : int
    realisations : int
        Noise fields of each orientation of a galaxy.
    noise : (float, float)
        Lowest and highest noise level [flux per pixel]; each galaxy has a random one, uniform in the
        logarithm.
    shear : float
        Largest reduced shear. Shears are uniform in a disc of this radius.
    seed : int
        The run's seed.
    pixel_scale : float
        Arcsec.

    Returns
    -------
    Cases

    Raises
    ------
    ConfigError
        See `sample_catalog`.
    """
    table = sample_catalog(population, name, "train", galaxies, seed, pixel_scale, first_block=_FIRST_BLOCK)
    paired, signs = in_pairs(table, ROTATIONS)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), _NOISE])
    applied = shear * np.sqrt(rng.random(galaxies)) * np.exp(2j * np.pi * rng.random(galaxies))
    low, high = noise
    sigma = low * (high / low) ** rng.random(galaxies)
    turned = np.repeat(applied, len(paired) // galaxies) * (signs[0] + 1j * signs[1])
    paired["shear1"], paired["shear2"] = turned.real, turned.imag
    paired["g1"], paired["g2"] = shear_shape(paired["e1"], paired["e2"], paired["shear1"], paired["shear2"])
    noise_id = (_NOISE << 40) + np.arange(galaxies * ROTATIONS * realisations, dtype=np.int64)
    return Cases(
        paired.iloc[::2].reset_index(drop=True),  # rows that differ in the sign of the noise are adjacent
        sigma,
        noise_id.reshape(galaxies, ROTATIONS, realisations),
        observing_of(population),
    )
