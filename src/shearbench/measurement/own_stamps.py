"""Measurement of a user's stamps by estimators and trained networks, and of the properties of galaxies."""

from __future__ import annotations

import logging
import math

import galsim
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from shearbench.data.estimates import shapes_table
from shearbench.data.noise import unit_noise
from shearbench.data.own_stamps import OTHER_GEOMETRY, UNUSABLE, OwnStamps
from shearbench.data.shapes import Flag, Shapes
from shearbench.data.stamps import StampBatch, StampSet
from shearbench.errors import ShearbenchError
from shearbench.jobs.torch_settings import pick_device, torch_settings
from shearbench.measurement.running import Measurer, measure_batch
from shearbench.tasks.shear.model_file import TrainedNetwork
from shearbench.tasks.shear.network import ShearNetwork
from shearbench.training.recipe import Recipe

log = logging.getLogger(__name__)
PROPERTIES = ("snr", "flux", "size", "psf_fwhm", "psf_g1", "psf_g2")
"""Measured properties of a stamp, see `properties_of`."""
MOST_SIMULATED = 2000
"""Simulated galaxies with which those of a user are compared."""
_BLOCK = 256  # stamps that a network measures at once
_FWHM = 2 * math.sqrt(2 * math.log(2))  # of a Gaussian, in units of its sigma


def measure_own(
    estimator: Measurer, stamps: OwnStamps, geometry: tuple[int, float] | None = None, resize: bool = False
) -> pd.DataFrame:
    """Measure a user's stamps with an estimator.

    Parameters
    ----------
    estimator : Measurer
    stamps : OwnStamps
    geometry : (int, float), optional
        Rows of a stamp and pixel scale [arcsec] that the estimator needs, because it uses a network.
    resize : bool
        Whether stamps of another size are cut or padded to that of `geometry`.

    Returns
    -------
    pandas.DataFrame
        A row for each stamp of the file: ``g1, g2, g1_err, g2_err, flag`` and the estimator's further
        columns. A stamp that cannot be used has the flag `UNUSABLE`, one of another geometry the flag
        `OTHER_GEOMETRY`; the others have those of `Flag`.

    Raises
    ------
    ShearbenchError
        The estimator cannot run on this machine.
    """
    unavailable = getattr(estimator, "unavailable", lambda: None)()
    if unavailable:
        raise ShearbenchError(unavailable)
    rows, flag = _rows_for(stamps, geometry, resize)
    side = geometry[0] if geometry else None
    size = getattr(estimator, "batch_size", lambda: None)() or 512
    parts, places = [], []
    for some, batch in stamps.batches(rows, size, side):
        part = measure_batch(estimator, batch, 0)
        if part.cause:
            log.warning("%s raised on %d stamps; the first: %s", estimator.kind, part.raised, part.cause)
        parts.append(part.table)
        places.append(some)
    return _table(parts, places, flag)


def predict_own(
    model: TrainedNetwork,
    stamps: OwnStamps,
    resize: bool = False,
    threads: int = 1,
    device: torch.device | None = None,
) -> pd.DataFrame:
    """Measure a user's stamps with a trained network.

    Parameters
    ----------
    model : TrainedNetwork
    stamps : OwnStamps
    resize : bool
        Whether stamps of another size than the network's are cut or padded to it.
    threads : int
        Number of CPU threads.
    device : torch.device, optional
        By default a GPU if one is visible, else the CPU.

    Returns
    -------
    pandas.DataFrame
        As `measure_own`, with a column ``s2n``: the signal-to-noise ratio in the aperture of the mean galaxy
        of the training.
    """
    rows, flag = _rows_for(stamps, geometry_of(model), resize)
    if model.about["diverged"]:
        flag[rows] = int(Flag.DIVERGED)
        return _table([], [], flag)
    parts, places = [], []
    for some, batch in stamps.batches(rows, _BLOCK, model.about["shape"][0], equal_noise=False):
        shapes = measure_arrays(model, batch.images, batch.psf, stamps.sigma[some], threads, device)
        parts.append(shapes_table(shapes, len(some)))
        places.append(some)
    return _table(parts, places, flag)


def measure_arrays(
    model: TrainedNetwork,
    images: NDArray[np.float32],
    psf: NDArray[np.float32],
    sigma: NDArray[np.float64],
    threads: int = 1,
    device: torch.device | None = None,
) -> Shapes:
    """Measure stamps with a trained network.

    Parameters
    ----------
    model : TrainedNetwork
    images : ndarray of float32, shape (n, ny, nx)
        Finite, and of the size that the network was trained on.
    psf : ndarray of float32, shape (ny, nx) or (n, ny, nx)
        Of unit flux and of the size of the stamps.
    sigma : ndarray of float64, shape (n,)
        Noise per pixel of each stamp.
    threads : int
        Number of CPU threads.
    device : torch.device, optional
        By default a GPU if one is visible, else the CPU.

    Returns
    -------
    Shapes
        With ``s2n``: the signal-to-noise ratio in the aperture of the mean galaxy of the training.
    """
    device = pick_device() if device is None else device
    with torch_settings(threads, 0, device), torch.inference_mode():
        network = model.network.to(device)
        parts = [
            _measure_block(network, images[rows], psf if psf.ndim == 2 else psf[rows], sigma[rows], device)
            for rows in (slice(start, start + _BLOCK) for start in range(0, len(images), _BLOCK))
        ]
        network.to("cpu")
    g, errors, s2n = (np.concatenate(column) for column in zip(*parts))
    found = np.where(np.hypot(*g.T) < 1, int(Flag.GOOD), int(Flag.OUT_OF_RANGE))
    return Shapes(g[:, 0], g[:, 1], errors[:, 0], errors[:, 1], found, {"s2n": s2n})


def _measure_block(
    network: ShearNetwork,
    images: NDArray[np.float32],
    psf: NDArray[np.float32],
    sigma: NDArray[np.float64],
    device: torch.device,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return shapes [n, 2], errors [n, 2] and signal-to-noise ratios [n] of some stamps."""
    if network.per_galaxy_psf and psf.ndim == 2:
        psf = np.broadcast_to(psf, images.shape)
    stamps = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    psfs = torch.from_numpy(np.ascontiguousarray(psf)).to(device)
    refinement = network.refinement
    mixture = refinement.mixture if refinement else None
    if refinement is not None and mixture is not None and not refinement.draws(psfs):
        # Mixtures are for Gaussian PSFs; the other forward model of the network is for any PSF.
        refinement.mixture = None
    answer = network(stamps, psfs, torch.as_tensor(sigma, dtype=stamps.dtype, device=device))
    error = network.errors_by_level(answer, torch.as_tensor(sigma, device=device))
    if refinement is not None:
        refinement.mixture = mixture
    shapes, errors, s2n = (one.double().cpu().numpy() for one in (answer.shapes, error, answer.snr))
    return shapes, errors, s2n


def geometry_of(model: TrainedNetwork) -> tuple[int, float]:
    """Return the rows of the stamps that a network was trained on, and their pixel scale [arcsec]."""
    return int(model.about["shape"][0]), float(model.about["pixel_scale"])


def _rows_for(
    stamps: OwnStamps, geometry: tuple[int, float] | None, resize: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the stamps to measure, and the flags of all stamps so far."""
    flag = np.where(stamps.cause == 0, 0, UNUSABLE)
    if geometry:
        flag[(flag == 0) & ~stamps.fits(*geometry, resize)] = OTHER_GEOMETRY
    return np.flatnonzero(flag == 0), flag


def _table(
    parts: list[pd.DataFrame], places: list[NDArray[np.int64]], flag: NDArray[np.int64]
) -> pd.DataFrame:
    """Return the measurements of batches as one table with a row for each stamp of the file."""
    nothing = Shapes.failed(len(flag), Flag.GOOD)
    nothing.flag = flag
    table = shapes_table(nothing, len(flag))
    if not parts:
        return table
    measured = pd.concat(parts, ignore_index=True)
    measured.index = pd.Index(np.concatenate(places))
    own = measured["flag"]
    table = measured.reindex(range(len(flag)))
    # Columns of whole numbers get NaN in the rows without a measurement.
    table["flag"] = flag
    table.loc[own.index, "flag"] = own
    return table


def properties_of(batch: StampBatch, sigma: NDArray[np.float64]) -> pd.DataFrame:
    """Measure the properties that all galaxies are compared by, from adaptive moments (GalSim's HSM).

    Parameters
    ----------
    batch : StampBatch
    sigma : ndarray of float64, shape (n,)
        Noise per pixel of each stamp.

    Returns
    -------
    pandas.DataFrame
        Columns `PROPERTIES`: signal-to-noise ratio of the flux in the matched elliptical Gaussian, that flux,
        the sigma of that Gaussian [arcsec], FWHM [arcsec] and shape of the Gaussian matched to the PSF. NaN
        where no moments are found.
    """
    n = len(batch)
    table = pd.DataFrame(np.full((n, len(PROPERTIES)), np.nan), columns=list(PROPERTIES))
    psf = _moments(batch.psf_of(0)) if batch.constant_psf else None
    rows = []
    for k in range(n):
        flux, width, _, _ = _moments(batch.images[k])
        _, psf_width, psf_g1, psf_g2 = psf or _moments(batch.psf_of(k))
        snr = flux / (sigma[k] * math.sqrt(4 * math.pi) * width) if width > 0 else math.nan
        scale = batch.pixel_scale
        rows.append((snr, flux, width * scale, _FWHM * psf_width * scale, psf_g1, psf_g2))
    if n:
        table.loc[:, :] = np.array(rows)
    return table


def _moments(image: NDArray[np.float32]) -> tuple[float, float, float, float]:
    """Return flux, sigma [pixels], g1, g2 of the Gaussian matched to an image; NaN if there is none."""
    found = galsim.hsm.FindAdaptiveMom(galsim.Image(np.ascontiguousarray(image)), strict=False)
    if found.error_message or not found.moments_sigma > 0 or not found.moments_amp > 0:
        return (math.nan,) * 4
    return found.moments_amp, found.moments_sigma, found.observed_shape.g1, found.observed_shape.g2


def own_properties(stamps: OwnStamps) -> pd.DataFrame:
    """Return the properties of a user's galaxies, a row for each stamp of the file.

    Returns
    -------
    pandas.DataFrame
        Columns ``id``, ``row`` (in the file), ``side`` [pixels], ``stamp_flag`` (`Cause` bits), ``sigma``
        and `PROPERTIES`.
    """
    table = pd.DataFrame(
        {
            "id": stamps.ids,
            "row": np.arange(len(stamps)),
            "side": stamps.sides[:, 0],
            "stamp_flag": stamps.cause,
            "sigma": stamps.sigma,
            **dict.fromkeys(PROPERTIES, np.nan),
        }
    )
    for some, batch in stamps.batches(np.flatnonzero(stamps.cause == 0), equal_noise=False):
        table.loc[some, list(PROPERTIES)] = properties_of(batch, stamps.sigma[some]).to_numpy()
    return table


def simulated_properties(stamps: StampSet, noise: tuple[float, float], seed: int) -> pd.DataFrame:
    """Return the properties of simulated galaxies, with noise as networks are trained with.

    Parameters
    ----------
    stamps : StampSet
        A split of the population; its first `MOST_SIMULATED` stamps are used.
    noise : (float, float)
        Lowest and highest noise level; each stamp has one between these, uniform in the logarithm.
    seed : int
        Seed of the run.

    Returns
    -------
    pandas.DataFrame
        Columns ``sigma`` and `PROPERTIES`; galaxies without moments are left out.
    """
    n = min(len(stamps), MOST_SIMULATED)
    low, high = np.log(noise)
    sigma = np.exp(np.random.default_rng(seed).uniform(low, high, n))
    parts = []
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        images, psf = stamps.noiseless(start, stop)
        level, noise_id = sigma[start:stop], stamps.noise_id[start:stop]
        images = images + level[:, None, None].astype(np.float32) * unit_noise(seed, noise_id, stamps.shape)
        batch = StampBatch(images, psf, 1.0, stamps.pixel_scale, stamps.galaxy_id[start:stop], noise_id)
        parts.append(properties_of(batch, level))
    table = pd.concat(parts, ignore_index=True)
    table.insert(0, "sigma", sigma)
    return table.dropna(ignore_index=True)


def noise_range(model: TrainedNetwork) -> tuple[float, float]:
    """Return the lowest and the highest noise level that a network was trained with."""
    return Recipe(**model.about["training"]).noise_range
