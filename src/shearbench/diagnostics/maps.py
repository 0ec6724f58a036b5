"""Images of the inside of a network: filters, features, attention, and its weights of the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from shearbench.data.stamps import StampSet
from shearbench.diagnostics.attention import attention_maps, example_stamps, rank_correlations
from shearbench.diagnostics.galaxies import Galaxies, Split
from shearbench.diagnostics.stages import Stage, activations, exact_copy, find_stages
from shearbench.evaluation.inside_maps import InsideMaps
from shearbench.simulation.populations import Population
from shearbench.tasks.shear.model_file import TrainedNetwork
from shearbench.tasks.shear.network import ShearNetwork

OVERLAP_COLUMNS = [
    "population",
    "variant",
    "seed",
    "noise",
    "galaxies",
    "overlap_g1",
    "overlap_g1_err",
    "overlap_g2",
    "overlap_g2_err",
    "attention",
    "attention_err",
]

_FILTERS, _CHANNELS = 8, 3
_LOCAL = 0.1  # derivatives below this fraction of the largest are not shown at the edges
_EXCITED = 3  # stages for which exciting images are sought
_ASCENT, _CHANGE = 30, 0.1  # steps, and norm of the change of a stamp over that of the stamp


def measure_maps(
    model: TrainedNetwork,
    split: Split,
    galaxies: Galaxies,
    population: Population,
    sigmas: Sequence[float],
    seed: int,
) -> tuple[InsideMaps, pd.DataFrame]:
    """Compute the maps of a network, and compare its weights of pixels with the optimal ones.

    Parameters
    ----------
    model : TrainedNetwork
    split : Split
        The test split.
    galaxies : Galaxies
        Galaxies over which the overlaps are averaged; the maps of weights are those of the first one.
    population : Population
    sigmas : sequence of float
        Noise levels.
    seed : int
        Seed of the run, which determines the noise.

    Returns
    -------
    maps : InsideMaps
    overlap : pandas.DataFrame
        A row for each noise level, with the columns `OVERLAP_COLUMNS`. ``overlap_g1``, ``overlap_g2``: the
        cosine between the derivative of the network's answer by the pixels and the weights of the best
        unbiased estimate (mean over the galaxies, and its error): 1 if they are proportional.
        ``attention``: rank correlation of the attention with the squared weights, mean over layers; missing
        in a network without attention.
    """
    stamps, network = split.stamps, exact_copy(model.network)
    names = galaxies.names
    shape = [names.index("g1"), names.index("g2")]
    flat = galaxies.slopes.flatten(2)
    present = [k for k in range(len(names)) if bool(flat[:, k].any())]
    inverse = torch.linalg.inv(flat[:, present] @ flat[:, present].mT)
    at = [present.index(k) for k in shape]
    optimal = (inverse @ flat[:, present])[:, at].unflatten(2, stamps.shape)
    rows, gradients = [], []
    for sigma in sigmas:
        gradient = answer_gradients(network, galaxies, sigma)
        cosine = functional.cosine_similarity(gradient.flatten(2), optimal.flatten(2), dim=2)
        attention = _attention_ranks(model.network, galaxies, optimal, sigma)
        row: dict[str, Any] = {name: model.about[name] for name in ("population", "variant", "seed")}
        row |= {"noise": sigma, "galaxies": len(galaxies)}
        for name, each in (
            ("overlap_g1", cosine[:, 0].numpy()),
            ("overlap_g2", cosine[:, 1].numpy()),
            ("attention", attention),
        ):
            row[name], row[f"{name}_err"] = _mean_and_error(each)
        rows.append(row)
        gradients.append(gradient[0].numpy())
    rows_of = split.catalog.set_index("galaxy_id").loc[stamps.galaxy_id].reset_index()
    examples, _, noise = example_stamps(stamps, rows_of, population, sigmas, seed)
    arrays = {
        "stamps": examples,
        "sigma": noise,
        "noise": np.asarray(sigmas, float),
        "optimal": optimal[0].numpy(),
        "gradient": np.stack(gradients),
    }
    images, kernel = _inputs(stamps, examples)
    stages = find_stages(model.network, images, kernel, torch.tensor(noise))
    chosen = _channels(network, stages, images, kernel, torch.from_numpy(noise))
    maps = InsideMaps(
        stamps.population,
        model.about["variant"],
        stamps.pixel_scale,
        arrays,
        first_filters(network, stages[0], images[:1], kernel[:1], float(noise[0])),
        {name: features[:, channels] for name, (features, channels) in chosen.items()},
        exciting_images(network, stages, chosen, images[:1], kernel[:1], float(noise[0])),
        _attention(model.network, images, kernel, noise),
    )
    return maps, pd.DataFrame(rows, columns=OVERLAP_COLUMNS)


def _mean_and_error(each: NDArray[np.float64]) -> tuple[float | None, float | None]:
    each = each[np.isfinite(each)]
    if not len(each):
        return None, None
    return float(each.mean()), float(each.std(ddof=1) / len(each) ** 0.5) if len(each) > 1 else None


def answer_gradients(network: ShearNetwork, galaxies: Galaxies, sigma: float) -> Tensor:
    """Return the derivatives of the network's g1 and g2 by the pixels of noiseless stamps, [n, 2, ny, nx]."""
    images = galaxies.images.clone().requires_grad_()
    answer = network(images, galaxies.psf, images.new_tensor(sigma)).shapes
    parts = [torch.autograd.grad(answer[:, k].sum(), images, retain_graph=True)[0] for k in range(2)]
    return torch.stack(parts, 1)


def _attention_ranks(
    network: ShearNetwork, galaxies: Galaxies, optimal: Tensor, sigma: float
) -> NDArray[np.float64]:
    maps = attention_maps(network, galaxies.images.float(), galaxies.psf.float(), sigma)
    if not maps:
        return np.zeros(0)
    weights = optimal.square().sum(1).numpy()
    each = [rank_correlations(one.double().numpy(), weights) for one in maps.values()]
    return np.mean(each, axis=0)


def _inputs(stamps: StampSet, images: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """Return stamps as float32, with the PSF of the first galaxy for each."""
    psf = torch.from_numpy(stamps.noiseless(0, 1)[1]).reshape(1, *stamps.shape)
    return torch.from_numpy(images).float(), psf.expand(len(images), -1, -1)


def _image_of(stage: Stage, numbers: Tensor) -> Tensor | None:
    """Return the numbers of a stage [n, M] as images [n, channels, h, w], or None if they are none."""
    shape = stage.shape
    if len(shape) == 3:
        return numbers.unflatten(1, shape)
    side = round(shape[0] ** 0.5)
    if len(shape) == 2 and side**2 == shape[0]:  # tokens
        return numbers.unflatten(1, shape).mT.unflatten(2, (side, side))
    return None


def _numbers(network: ShearNetwork, stage: Stage, images: Tensor, psf: Tensor, sigma: Tensor) -> Tensor:
    psf = psf if network.per_galaxy_psf else psf[0]
    return activations(network, [stage], images, psf.to(images), sigma)[0][:, : stage.numbers]


def _channels(
    network: ShearNetwork, stages: Sequence[Stage], images: Tensor, psf: Tensor, sigma: Tensor
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Return all channels of each stage that is an image, and which vary most over the pixels."""
    found = {}
    for stage in stages:
        with torch.no_grad():
            maps = _image_of(stage, _numbers(network, stage, images.double(), psf, sigma))
        if maps is not None and maps.shape[-1] > 1:
            order = maps.flatten(2).std(2).mean(0).argsort(descending=True)
            found[stage.layer] = maps.numpy(), order[:_CHANNELS].sort().values.numpy()
    return found


def first_filters(
    network: ShearNetwork, stage: Stage, images: Tensor, psf: Tensor, sigma: float
) -> NDArray[np.float64]:
    """Return the derivatives of the numbers in the middle of a stage by the pixels, [c, h, w].

    The images are cut to the pixels on which the numbers depend most. Of the channels, those with the largest
    derivatives are taken.
    """
    given = images.double().requires_grad_()
    numbers = _numbers(network, stage, given, psf, given.new_tensor(sigma))
    maps = _image_of(stage, numbers)
    middle = numbers if maps is None else maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2]
    rows = torch.stack([torch.autograd.grad(value, given, retain_graph=True)[0][0] for value in middle[0]])
    if maps is None:
        # Without the common part, by which the amplitude of the mean galaxy is subtracted.
        mean, flat = network.mean.flatten(), rows.flatten(1)
        rows = (flat - (flat @ mean)[:, None] * mean / mean.square().sum()).view_as(rows)
    order = rows.flatten(1).norm(dim=1).argsort(descending=True)[:_FILTERS].sort().values
    rows = rows[order]
    # By the amplitude, each number depends a little on all pixels.
    support = (rows.abs() > _LOCAL * rows.abs().amax((1, 2), keepdim=True)).any(0)
    (y0, y1), (x0, x1) = (
        (int(found[0]), int(found[-1]) + 1)
        for found in (support.any(axis).nonzero().flatten() for axis in (1, 0))
    )
    return rows[:, y0:y1, x0:x1].detach().numpy()


def exciting_images(
    network: ShearNetwork,
    stages: Sequence[Stage],
    chosen: dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]],
    images: Tensor,
    psf: Tensor,
    sigma: float,
) -> dict[str, NDArray[np.float64]]:
    """Return the changes of a stamp, of given norm, that raise the middle of some channels most.

    They are found by steps along the gradient, for a few stages between the first and the last image.
    """
    shown = [stage for stage in stages if stage.layer in chosen][1:]
    places = np.unique(np.linspace(0, len(shown) - 1, min(_EXCITED, len(shown))).round().astype(int))
    found = {}
    for stage in (shown[place] for place in places.tolist()):
        channels = chosen[stage.layer][1]
        start = images.double().expand(len(channels), -1, -1)
        size = _CHANGE * start.flatten(1).norm(dim=1)[:, None, None]
        # Not from zero, where a unit may be dead.
        generator = torch.Generator().manual_seed(1)
        change = size * _unit(torch.randn(start.shape, generator=generator, dtype=start.dtype))
        for _ in range(_ASCENT):
            given = (start + change).requires_grad_()
            kernel = psf.expand(len(channels), -1, -1)
            maps = _image_of(stage, _numbers(network, stage, given, kernel, given.new_tensor(sigma)))
            assert maps is not None
            middle = maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2]
            wanted = middle[torch.arange(len(channels)), torch.from_numpy(channels)].sum()
            (slope,) = torch.autograd.grad(wanted, given)
            change = change + 0.3 * size * _unit(slope)
            change = size * _unit(change)
        found[stage.layer] = change.numpy()
    return found


def _unit(images: Tensor) -> Tensor:
    norm = images.flatten(1).norm(dim=1)[:, None, None]
    return images / norm.clamp_min(torch.finfo(images.dtype).tiny)


def _attention(
    network: ShearNetwork, images: Tensor, psf: Tensor, sigma: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    psf = psf if network.per_galaxy_psf else psf[0]
    each = [
        attention_maps(network, images[k : k + 1], psf[k : k + 1] if psf.ndim == 3 else psf, float(sigma[k]))
        for k in range(len(images))
    ]
    found = {}
    for layer in each[0]:
        weights = torch.cat([one[layer] for one in each])[:, None].double()
        weights = functional.interpolate(weights, tuple(images.shape[1:]), mode="nearest")[:, 0]
        found[layer] = (weights / weights.mean((1, 2), keepdim=True)).numpy()
    return found
