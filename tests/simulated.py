"""Small splits of simulated galaxies for tests, and accurate GalSim images of galaxies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import galsim
import pandas as pd

from shearbench.data.observing import Observing
from shearbench.data.stamps import StampSet, write_stamps
from shearbench.simulation.catalog import sample_catalog
from shearbench.simulation.galsim_stamps import draw_stamps
from shearbench.simulation.populations import PRESETS, Population
from shearbench.tasks.shear import train as tasks_train
from shearbench.tasks.shear.data import Splits
from shearbench.training.task import Job

SIDE, SCALE = 24, 0.3


def make_split(
    folder: Path,
    split: str,
    galaxies: int,
    population: str = "exp_gauss",
    side: int = SIDE,
    scale: float = SCALE,
    seed: int = 5,
    **changes: Any,
) -> tuple[StampSet, pd.DataFrame]:
    """Write the stamps of a split of a preset population, changed or not; return them with their catalog."""
    options = Population(**{**PRESETS[population], **changes})
    catalog = sample_catalog(options, population, split, galaxies, seed, scale)
    path = folder / f"{split}.h5"
    write_stamps(
        path,
        draw_stamps(catalog, options, (side, side), scale),
        catalog["galaxy_id"].to_numpy(),
        catalog["noise_id"].to_numpy(),
        (side, side),
        not options.constant_psf(split),
        {
            "population": population,
            "split": split,
            "pixel_scale": scale,
            "catalog_digest": catalog.attrs["digest"],
            **Observing.of(catalog.attrs).attributes,
        },
    )
    return StampSet([path]), catalog


def make_splits(
    folder: Path, train: int, validation: int, population: str = "exp_gauss", **changes: Any
) -> tuple[StampSet, StampSet, pd.DataFrame, pd.DataFrame]:
    """Make two splits with these numbers of galaxies; return the stamps and the catalogs."""
    train_stamps, train_catalog = make_split(folder, "train", train, population, **changes)
    validation_stamps, validation_catalog = make_split(
        folder, "validation", validation, population, **changes
    )
    return train_stamps, validation_stamps, train_catalog, validation_catalog


def train(*given, population: Population, name: str, **job):
    """Train on the four parts of the splits, with a variant after them; return the model and its history."""
    *splits, variant = given
    return tasks_train.train(Splits(*splits), variant, population, name, Job(**job))


# GalSim's defaults are good to 2e-7 of the flux: finer ones, so that a difference is the package's own.
PRECISE = galsim.GSParams(
    folding_threshold=1e-5,
    maxk_threshold=1e-7,
    kvalue_accuracy=1e-9,
    integration_relerr=1e-8,
    integration_abserr=1e-10,
    maximum_fft_size=16384,
)


def precise_galaxy(
    profile: str,
    flux: float,
    x: float,
    y: float,
    hlr: float,
    g1: float,
    g2: float,
    n: float | None = None,
) -> galsim.GSObject:
    """Return a sheared and shifted galaxy with these parameters, without a PSF."""
    options = {"half_light_radius": hlr, "flux": flux, "gsparams": PRECISE}
    if profile == "gaussian":
        galaxy = galsim.Gaussian(**options)
    elif profile == "exponential":
        galaxy = galsim.Exponential(**options)
    else:
        galaxy = galsim.Sersic(n, **options)
    return galaxy.shear(g1=g1, g2=g2).shift(x, y)
