"""A gallery: stamps of the same few galaxies at each noise level, with a fitted model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shearbench.data.noise import unit_noise
from shearbench.data.stamps import StampBatch, StampSet
from shearbench.errors import ContractError
from shearbench.files.hdf5 import add_dataset, create_hdf5, open_hdf5
from shearbench.files.origin import Origin

RULE = "draw_gallery"
_DATASETS = ("stamp", "model", "residual", "snr")


@dataclass(frozen=True)
class Gallery:
    """Stamps of k galaxies at m noise levels.

    Attributes
    ----------
    population : str
    model_label : str
        Name of the fitted model.
    pixel_scale : float
        Arcsec.
    galaxy_id : ndarray of int64, shape (k,)
    sigma : ndarray of float64, shape (m,)
        Noise per pixel, ascending.
    snr : ndarray of float64, shape (m, k)
        Matched-filter signal-to-noise ratio, ``sqrt(sum I^2) / sigma`` of the noiseless image I.
    stamp, model, residual : ndarray of float32, shape (m, k, ny, nx)
        Noisy stamp, fitted model (NaN where the fit failed), and stamp minus model; flux per pixel.
    """

    population: str
    model_label: str
    pixel_scale: float
    galaxy_id: NDArray[np.int64]
    sigma: NDArray[np.float64]
    snr: NDArray[np.float64]
    stamp: NDArray[np.float32]
    model: NDArray[np.float32]
    residual: NDArray[np.float32]


def make_gallery(
    stamps: StampSet,
    catalog: pd.DataFrame,
    sigmas: Sequence[float],
    seed: int,
    fit: Callable[[StampBatch], NDArray[np.floating]],
    model_label: str,
    galaxies: int = 2,
) -> Gallery:
    """Choose galaxies of a split, add the same noise as for every estimator, and fit a model to them.

    The galaxies are ranked by flux and divided into as many equal groups as are to be chosen. The galaxy in
    the middle of each group is chosen, the brightest first: two galaxies are at the quartiles of the flux.

    Parameters
    ----------
    stamps : StampSet
        The test split.
    catalog : pandas.DataFrame
        Its catalog, with the columns ``galaxy_id`` and ``flux``.
    sigmas : sequence of float
        Noise levels.
    seed : int
        The run's seed, which determines the noise (see `shearbench.data.noise`).
    fit : callable
        Function from a `StampBatch` of n stamps to the fitted images [n, ny, nx]; NaN if a fit failed.
    model_label : str
        Name of the model that `fit` fits, for the figure.
    galaxies : int
        Number of galaxies, or fewer if the split has fewer.

    Returns
    -------
    Gallery

    Raises
    ------
    ContractError
        A galaxy of the stamps is not in the catalog.
    """
    flux = catalog.set_index("galaxy_id")["flux"].reindex(stamps.galaxy_id).to_numpy(float)
    if np.isnan(flux).any():
        missing = stamps.galaxy_id[np.isnan(flux)][0]
        raise ContractError.of(
            stamps.paths[0], "galaxy_id", missing, "a galaxy of the catalog", "simulate_stamps"
        )
    galaxies = min(galaxies, len(stamps))
    shares = 1 - (np.arange(galaxies) + 0.5) / max(galaxies, 1)
    chosen = np.argsort(flux, kind="stable")[np.floor(shares * len(flux)).astype(int)]
    noiseless = np.empty((galaxies, *stamps.shape), np.float32)
    psf = np.empty(stamps.shape if stamps.constant_psf else noiseless.shape, np.float32)
    for k, index in enumerate(chosen.tolist()):
        image, image_psf = stamps.noiseless(index, index + 1)
        noiseless[k] = image[0]
        if stamps.constant_psf:
            psf = image_psf
        else:
            psf[k] = image_psf[0]
    noise = unit_noise(seed, stamps.noise_id[chosen], stamps.shape)
    sigma = np.sort(np.asarray(sigmas, dtype=float))
    stamp = np.stack([noiseless + np.float32(s) * noise for s in sigma])
    model = np.empty_like(stamp)
    for i, s in enumerate(sigma.tolist()):
        batch = StampBatch(
            images=stamp[i].copy(),
            psf=psf,
            sigma=s,
            pixel_scale=stamps.pixel_scale,
            galaxy_id=stamps.galaxy_id[chosen],
            noise_id=stamps.noise_id[chosen],
        )
        model[i] = fit(batch)
    signal = np.sqrt(np.sum(noiseless.astype(float) ** 2, axis=(1, 2)))
    return Gallery(
        population=stamps.population,
        model_label=model_label,
        pixel_scale=stamps.pixel_scale,
        galaxy_id=stamps.galaxy_id[chosen],
        sigma=sigma,
        snr=signal[None, :] / sigma[:, None],
        stamp=stamp,
        model=model,
        residual=stamp - model,
    )


def write_gallery(
    path: str | os.PathLike[str], galleries: Iterable[Gallery], origin: Origin | None = None
) -> None:
    """Write ``metrics/gallery.h5``; an interrupted write leaves no partial file.

    One group for each population (attributes ``model``, ``pixel_scale``; dataset ``galaxy_id``), in it one
    for each noise level (attribute ``sigma``; datasets ``stamp``, ``model``, ``residual`` [k, ny, nx],
    ``snr`` [k]).

    Parameters
    ----------
    path : path-like
    galleries : iterable of Gallery
        One for each population.
    origin : Origin, optional
        Origin to write into the file.
    """
    with create_hdf5(path, origin) as file:
        for gallery in galleries:
            group = file.create_group(gallery.population)
            group.attrs["model"] = gallery.model_label
            group.attrs["pixel_scale"] = gallery.pixel_scale
            add_dataset(group, "galaxy_id", gallery.galaxy_id)
            for i, sigma in enumerate(gallery.sigma.tolist()):
                level = group.create_group(f"{sigma:g}")
                level.attrs["sigma"] = sigma
                for name in _DATASETS:
                    add_dataset(level, name, getattr(gallery, name)[i])


def read_gallery(path: str | os.PathLike[str], population: str, expected: Origin | None = None) -> Gallery:
    """Read one population of ``metrics/gallery.h5``.

    Parameters
    ----------
    path : path-like
    population : str
    expected : Origin, optional
        Expected origin of the file.

    Returns
    -------
    Gallery

    Raises
    ------
    ContractError
        The file is damaged or of another origin, or lacks the population, an attribute or a dataset.
    """
    with open_hdf5(path, "an HDF5 gallery", RULE, expected) as file:
        if population not in file:
            raise ContractError.of(
                path, f"group '{population}'", f"only {sorted(file)}", "the population", RULE
            )
        group = file[population]
        try:
            levels = sorted(
                (group[name] for name in group if name != "galaxy_id"), key=lambda level: level.attrs["sigma"]
            )
            if not levels:
                raise KeyError("no noise level")
            stacked = {name: np.stack([level[name][...] for level in levels]) for name in _DATASETS}
            return Gallery(
                population=population,
                model_label=str(group.attrs["model"]),
                pixel_scale=float(group.attrs["pixel_scale"]),
                galaxy_id=group["galaxy_id"][:],
                sigma=np.array([level.attrs["sigma"] for level in levels], dtype=float),
                **stacked,
            )
        except (KeyError, ValueError) as error:
            raise ContractError.of(
                path,
                f"group '{population}'",
                f"{error}",
                f"{', '.join(_DATASETS)} of one shape per level",
                RULE,
            ) from error
