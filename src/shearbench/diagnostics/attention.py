"""Where trained networks look: attention maps, and the Fisher information on the shear in each pixel.

Modules with attention are found by the names of their methods, see `shearbench.networks.modules.attention`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import galsim
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional

from shearbench.data.noise import unit_noise
from shearbench.data.stamps import StampBatch, StampSet
from shearbench.diagnostics.cost import costs
from shearbench.evaluation.attention import COST_COLUMNS, RANK_COLUMNS, AttentionMaps
from shearbench.evaluation.statistics import RESAMPLES, bootstrap_means
from shearbench.simulation.galsim_stamps import drawing_method, galaxy_object, psf_object
from shearbench.simulation.populations import Population
from shearbench.tasks.shear.model_file import TrainedNetwork
from shearbench.tasks.shear.network import ShearNetwork

GALAXIES = 100
"""Number of test galaxies over which rank correlations are averaged."""
_STEP = 0.01  # of a shear, a position [arcsec] or the logarithm of a size, for differences of images
_ELLIPTICAL = (0.35, 0.2)  # g1, g2 of the elliptical galaxy
_ACCURATE = galsim.GSParams(folding_threshold=1e-3, maximum_fft_size=16384)


def recorded(
    network: ShearNetwork, method: str, images: Tensor, psf: Tensor, sigma: float
) -> dict[str, Tensor]:
    """Call a method of all modules of a network that have it, with the input that the module gets.

    Parameters
    ----------
    network : ShearNetwork
        In evaluation mode.
    method : str
        Its name, such as ``attention_map``.
    images : Tensor, shape (n, ny, nx)
    psf : Tensor, shape (ny, nx) or (n, ny, nx)
    sigma : float
        Noise per pixel.

    Returns
    -------
    dict of str to Tensor
        Results by the path of the module, in the order in which the stamps go through them.
    """
    found: dict[str, Tensor] = {}

    def recording(path: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
            found[path] = getattr(module, method)(*inputs)

        return hook

    handles = [
        module.register_forward_pre_hook(recording(path))
        for path, module in network.body.named_modules()
        if hasattr(module, method)
    ]
    try:
        with torch.no_grad():
            network.body(network.normalise(images, psf, images.new_tensor(sigma).expand(len(images))))
    finally:
        for handle in handles:
            handle.remove()
    return found


def attention_maps(network: ShearNetwork, images: Tensor, psf: Tensor, sigma: float) -> dict[str, Tensor]:
    """Return the weights of pixels or patches [n, rows, columns] of each layer with attention to them."""
    found = recorded(network, "attention_map", images, psf, sigma)
    return {path: _as_image(weights, images.shape) for path, weights in found.items()}


def _as_image(weights: Tensor, shape: Sequence[int]) -> Tensor:
    """Return weights of tokens as an image with the same ratio of the sides as the stamp."""
    if weights.ndim == 3:
        return weights
    rows = round((weights.shape[1] * shape[1] / shape[2]) ** 0.5)
    return weights.unflatten(1, (rows, -1))


def information_map(
    galaxy: galsim.GSObject,
    psf: galsim.GSObject,
    shape: tuple[int, int],
    pixel_scale: float,
    method: str = "auto",
) -> NDArray[np.float64]:
    """Return how much each pixel contributes to the Fisher information on the shear, for unit noise.

    It is the sum over g1 and g2 of the squared derivative of the pixel. From the derivative, its projection
    on the derivatives by flux, position and size is subtracted, because these are not known either. The sum
    over the pixels is the sum of the inverse variances of g1 and g2 at the Cramer-Rao bound, each with the
    other one known.

    Parameters
    ----------
    galaxy, psf : galsim.GSObject
    shape : (int, int)
        Rows and columns of the stamp.
    pixel_scale : float
        Arcsec.
    method : str
        How GalSim draws: ``no_pixel`` for a PSF that includes the pixel.

    Returns
    -------
    ndarray, shape (ny, nx)
    """

    def draw(changed: galsim.GSObject) -> NDArray[np.float64]:
        scene = galsim.Convolve(changed, psf, gsparams=_ACCURATE)
        return scene.drawImage(nx=shape[1], ny=shape[0], scale=pixel_scale, method=method, dtype=float).array

    def derivative(changed: Callable[[float], galsim.GSObject]) -> NDArray[np.float64]:
        return ((draw(changed(_STEP)) - draw(changed(-_STEP))) / (2 * _STEP)).ravel()

    unknown = np.stack(
        [
            draw(galaxy).ravel(),  # the derivative by the logarithm of the flux
            derivative(lambda h: galaxy.shift(h, 0)),
            derivative(lambda h: galaxy.shift(0, h)),
            derivative(lambda h: galaxy.dilate(float(np.exp(h)))),
        ],
        1,
    )
    shears = np.stack([derivative(lambda h: galaxy.shear(g1=h)), derivative(lambda h: galaxy.shear(g2=h))], 1)
    rest = shears - unknown @ np.linalg.lstsq(unknown, shears, rcond=None)[0]
    return np.square(rest).sum(1).reshape(shape)


def spiral(flux: float, hlr: float, arms: int = 2, knots: int = 16, share: float = 0.4) -> galsim.GSObject:
    """Return a face-on disc with spiral arms.

    Parameters
    ----------
    flux : float
    hlr : float
        Half-light radius of the disc [arcsec].
    arms, knots : int
        Number of arms, and of round Gaussians in each.
    share : float
        Fraction of the light that is in the arms.
    """
    parts = [galsim.Exponential(half_light_radius=hlr, flux=(1 - share) * flux)]
    for arm in range(arms):
        for along in np.linspace(0, 1, knots):
            # A logarithmic spiral with a pitch angle of 17 degrees.
            angle = 2 * np.pi * arm / arms + 1.4 * np.pi * along
            radius = 0.5 * hlr * np.exp(np.tan(np.deg2rad(17)) * 1.4 * np.pi * along)
            knot = galsim.Gaussian(sigma=0.18 * hlr, flux=share * flux / (arms * knots))
            parts.append(knot.shift(radius * np.cos(angle), radius * np.sin(angle)))
    return galsim.Sum(parts)


def rank_correlations(
    maps: NDArray[np.floating[Any]], others: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Return Spearman's rank correlation of each map with another one of more pixels.

    Parameters
    ----------
    maps : ndarray, shape (n, rows, columns)
    others : ndarray, shape (n, ny, nx)
        Averaged over the pixels of each pixel of `maps`.

    Returns
    -------
    ndarray, shape (n,)
        NaN if all weights of a map are equal.
    """
    coarse = functional.adaptive_avg_pool2d(torch.from_numpy(np.asarray(others))[:, None], maps.shape[1:])
    pairs = zip(maps.reshape(len(maps), -1), coarse.flatten(1).numpy())
    return np.array([spearmanr(*pair).statistic if np.ptp(pair[0]) else np.nan for pair in pairs])


def measure_attention(
    study: str,
    models: Mapping[str, Sequence[TrainedNetwork]],
    stamps: StampSet,
    catalog: pd.DataFrame,
    population: Population,
    sigmas: Sequence[float],
    seed: int,
    resamples: int = RESAMPLES,
) -> tuple[pd.DataFrame, pd.DataFrame, AttentionMaps]:
    """Compare the attention of a study's networks with the information in the pixels, and measure their cost.

    Parameters
    ----------
    study : str
        Its name.
    models : mapping of str to sequence of TrainedNetwork
        For each value of the study, its networks, a seed each. Those that diverged are left out.
    stamps : StampSet
        The test split, of which the first `GALAXIES` galaxies are taken.
    catalog : pandas.DataFrame
        Its catalog.
    population : Population
    sigmas : sequence of float
        Noise levels.
    seed : int
        The run's seed, which determines the noise.
    resamples : int
        Number of bootstrap resamples of the galaxies.

    Returns
    -------
    ranks : pandas.DataFrame
        A row for each layer with attention to pixels or patches, network and noise level. The columns
        ``information``, ``light`` and ``other`` are the means over galaxies of the rank correlation of the
        weights with the information in the pixels, with the noiseless stamp, and with the information in the
        pixels of another galaxy; ``_err``: their bootstrap errors. ``n_galaxies`` is the number of galaxies
        to which a layer does not give equal weights everywhere. Columns are `RANK_COLUMNS`.
    costs : pandas.DataFrame
        A row for each value, also those without attention: number of weights, floating-point operations
        per stamp (of a measurement), and seconds per stamp on one core, of a measurement and of a training
        step without the optimiser. Columns are `COST_COLUMNS`.
    maps : AttentionMaps
    """
    good = {
        value: [model for model in trained if not model.about["diverged"]]
        for value, trained in models.items()
    }
    count = min(GALAXIES, len(stamps))
    rows = catalog.set_index("galaxy_id").loc[stamps.galaxy_id[:count]].reset_index()
    light = np.concatenate([stamps.noiseless(k, k + 1)[0] for k in range(count)]).astype(float)
    method = drawing_method(population.psf)
    information = np.stack(
        [
            information_map(
                galaxy_object(row, population),
                psf_object(row, population.psf),
                stamps.shape,
                stamps.pixel_scale,
                method,
            )
            for row in rows.itertuples(index=False)
        ]
    )
    compared = {"information": information, "light": light, "other": np.roll(information, 1, 0)}
    ranks = []
    for value, trained in good.items():
        for model in trained:
            for sigma in sorted(sigmas):
                batch = _first(stamps, sigma, seed, count)
                found = attention_maps(model.network, *_tensors(batch), sigma)
                for layer, weights in found.items():
                    row = {
                        "study": study,
                        "value": value,
                        "variant": model.about["variant"],
                        "seed": model.about["seed"],
                        "layer": layer,
                        "noise": sigma,
                    }
                    weighed = weights.double().numpy()
                    each = np.stack([rank_correlations(weighed, one) for one in compared.values()], 1)
                    each = each[np.isfinite(each).all(1)]
                    row["n_galaxies"] = len(each)
                    means, errors = _mean(each, resamples)
                    for name, mean, error in zip(compared, means, errors):
                        row |= {name: mean, f"{name}_err": error}
                    ranks.append(row)
    first = {value: trained[0] for value, trained in good.items() if trained}
    timed = [
        {"study": study, "value": value, **found}
        for value, found in zip(first, costs(list(first.values()), stamps, seed), strict=True)
    ]
    maps = _maps(good, stamps, rows, population, sigmas, seed)
    return pd.DataFrame(ranks, columns=RANK_COLUMNS), pd.DataFrame(timed, columns=COST_COLUMNS), maps


def _mean(each: NDArray[np.float64], resamples: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean over galaxies and its bootstrap error, for each column; NaN without galaxies."""
    if len(each) == 0:
        return np.full(each.shape[1], np.nan), np.full(each.shape[1], np.nan)
    return each.mean(0), bootstrap_means(each, resamples).std(0, ddof=1)


def _first(stamps: StampSet, sigma: float, seed: int, count: int) -> StampBatch:
    """Return the first stamps with their noise."""
    return next(iter(stamps.batches(sigma, seed, count)))


def _tensors(batch: StampBatch) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(batch.images), torch.from_numpy(batch.psf)


def example_stamps(
    stamps: StampSet, rows: pd.DataFrame, population: Population, sigmas: Sequence[float], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Draw the galaxies of `EXAMPLES`, with the PSF of the first galaxy and the median flux and size.

    Parameters
    ----------
    stamps : StampSet
    rows : pandas.DataFrame
        The catalog of its galaxies.
    population : Population
    sigmas : sequence of float
        Noise levels; the last galaxy has the largest one, the others have the smallest.
    seed : int
        The run's seed, which determines the noise.

    Returns
    -------
    stamp : ndarray, shape (k, ny, nx)
    information : ndarray, shape (k, ny, nx)
        See `information_map`.
    sigma : ndarray, shape (k,)
        Noise of each galaxy.
    """
    method = drawing_method(population.psf)
    first = next(rows.itertuples(index=False))
    psf = psf_object(first, population.psf)
    flux, hlr = float(rows["flux"].median()), float(rows["hlr"].median())
    g1, g2 = _ELLIPTICAL
    disc = galsim.Exponential(half_light_radius=hlr, flux=flux)
    elliptical = disc.shear(g1=g1, g2=g2)
    galaxies = [disc, elliptical, spiral(flux, 1.2 * hlr), elliptical]
    sigma = np.array([min(sigmas)] * 3 + [max(sigmas)])
    noiseless = np.stack(
        [
            galsim.Convolve(galaxy, psf)
            .drawImage(
                nx=stamps.shape[1], ny=stamps.shape[0], scale=stamps.pixel_scale, method=method, dtype=float
            )
            .array
            for galaxy in galaxies
        ]
    )
    noise = unit_noise(seed, stamps.noise_id[: len(galaxies)], stamps.shape)
    stamp = noiseless + sigma[:, None, None] * noise
    information = np.stack(
        [information_map(galaxy, psf, stamps.shape, stamps.pixel_scale, method) for galaxy in galaxies]
    )
    return np.asarray(stamp, float), information, sigma


def _maps(
    models: Mapping[str, Sequence[TrainedNetwork]],
    stamps: StampSet,
    rows: pd.DataFrame,
    population: Population,
    sigmas: Sequence[float],
    seed: int,
) -> AttentionMaps:
    """Return the attention to the galaxies of `EXAMPLES`, which have the PSF of the first galaxy."""
    stamp, information, sigma = example_stamps(stamps, rows, population, sigmas, seed)
    kernel = torch.from_numpy(np.asarray(stamps.noiseless(0, 1)[1]))
    kernel = kernel if kernel.ndim == 2 else kernel[0]
    maps: dict[str, NDArray[np.float64]] = {}
    codes: dict[str, NDArray[np.float64]] = {}
    scores: dict[str, NDArray[np.float64]] = {}
    for value, trained in models.items():
        layers = []
        for model in trained:
            each = [
                attention_maps(
                    model.network,
                    torch.from_numpy(stamp[k : k + 1].astype(np.float32)),
                    kernel if stamps.constant_psf else kernel[None],
                    float(sigma[k]),
                )
                for k in range(len(stamp))
            ]
            for layer in each[0]:
                weights = torch.cat([one[layer] for one in each])[:, None].double()
                weights = functional.interpolate(weights, stamps.shape, mode="nearest")[:, 0]
                layers.append(weights / weights.mean((1, 2), keepdim=True))
        if layers:
            maps[value] = torch.stack(layers).mean(0).numpy()
        if trained:
            network = trained[0].network
            level = float(min(sigmas))
            batch = _first(stamps, level, seed, min(GALAXIES, len(stamps)))
            given = recorded(network, "attention_scores", *_tensors(batch), level)
            if given:
                scores[value] = next(iter(given.values())).mean(0).double().numpy()
            told = [one for one in network.body.modules() if hasattr(one, "position_code")]
            if told:
                code = torch.as_tensor(told[0].position_code).detach().double().numpy()
                gram = code @ code.T
                codes[value] = gram / gram.diagonal().mean()
    mean = information.mean((1, 2), keepdims=True)
    return AttentionMaps(
        stamps.pixel_scale, sigma, stamp.astype(np.float64), information / mean, maps, codes, scores
    )
