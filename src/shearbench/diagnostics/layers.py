"""The table of the stages of a trained network: information held, and errors of what is read from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from shearbench.diagnostics.galaxies import Galaxies, Noisy, Split
from shearbench.diagnostics.information import (
    NARROW,
    PRECISIONS,
    from_realisations,
    held,
    share_of,
)
from shearbench.diagnostics.probes import Parts, probe
from shearbench.diagnostics.stages import Stage, activations, exact_copy, find_stages
from shearbench.tasks.shear.model_file import TrainedNetwork
from shearbench.tasks.shear.network import ShearNetwork

LAYER_COLUMNS = [
    "population",
    "variant",
    "seed",
    "noise",
    "precision",
    "place",
    "layer",
    "kind",
    "shape",
    "numbers",
    "galaxies",
    "information",
    "information_err",
    "converged",
    "information_noisy",
    "probed",
    *(f"{how}_{name}" for how in ("linear", "kernel") for name in ("shape", "flux", "size", "position")),
]
PIXELS = Stage("pixels", "stamp", "pixels", (), False)
"""The stamp itself, as the first stage."""

_ENOUGH = 0.99  # share above which the stages before are not computed: they hold no less
_BATCH = 250  # stamps computed at once


def table_of_layers(
    model: TrainedNetwork,
    galaxies: Galaxies,
    splits: Mapping[str, Split],
    sigmas: Sequence[float],
    probed: int,
    seed: int,
) -> pd.DataFrame:
    """Measure what each stage of a trained network holds, and what can be read from it.

    Parameters
    ----------
    model : TrainedNetwork
    galaxies : Galaxies
        For the information.
    splits : mapping of str to Split
        ``train``, ``validation`` and ``test``: the probes are fitted, chosen and judged on them.
    sigmas : sequence of float
        Noise levels.
    probed : int
        Largest number of galaxies to fit the probes; half as many choose, and as many judge them.
    seed : int
        Seed of the run, which determines the noise.

    Returns
    -------
    pandas.DataFrame
        A row for each noise level, precision and stage, with the columns `LAYER_COLUMNS`:

        - ``place``: 0 for the pixels, then the order of the stages; ``layer``, ``kind``, ``shape`` and
          ``numbers``: see `shearbench.diagnostics.stages.Stage`;
        - ``precision``: the type to which the numbers of the stage are rounded, or ``exact``;
        - ``information``: the share of the information about the shape, mean over ``galaxies`` galaxies, with
          its error; a lower bound if not ``converged``;
        - ``information_noisy``: the share that a linear function of the numbers can use, from realisations of
          the noise; where it is smaller, the numbers are no linear function of the noise;
        - ``linear_*``, ``kernel_*``: RMSE of the two probes over the Cramer-Rao bound, fitted with ``probed``
          galaxies.

        Values that were not computed are missing. After rounding, and from realisations, information is
        computed for stages of less than `NARROW` numbers.
    """
    network = model.network
    exact = exact_copy(network)
    about = {name: model.about[name] for name in ("population", "variant", "seed")}
    counts = {"train": probed, "validation": probed // 2, "test": probed // 2}
    images, psf = (torch.from_numpy(part) for part in splits["test"].stamps.noiseless(0, 4))
    rows = []
    for sigma in sigmas:
        stages = find_stages(network, images, psf, torch.tensor(sigma))
        found = informations(exact, stages, galaxies, sigma)
        data = {name: Noisy.of(split, counts[name], sigma, seed, network) for name, split in splits.items()}
        read = readable(network, stages, data, sigma)
        for place, stage in enumerate([PIXELS, *stages]):
            shape = splits["test"].stamps.shape if stage is PIXELS else stage.shape
            rows += [
                {
                    **about,
                    "noise": sigma,
                    "precision": precision,
                    "place": place,
                    "layer": stage.layer,
                    "kind": stage.kind,
                    "shape": "x".join(map(str, shape)),
                    "numbers": torch.Size(shape).numel(),
                    **found.get((stage.layer, precision), {}),
                    **read.get((stage.layer, precision), {}),
                }
                for precision in PRECISIONS
                if (stage.layer, precision) in found
            ]
    return pd.DataFrame(rows, columns=LAYER_COLUMNS)


def informations(
    network: ShearNetwork, stages: Sequence[Stage], galaxies: Galaxies, sigma: float
) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the information that each stage holds, by layer and precision.

    Parameters
    ----------
    network : ShearNetwork
        In float64, see `exact_copy`.
    stages : sequence of Stage
    galaxies : Galaxies
    sigma : float
        Noise per pixel.

    Returns
    -------
    dict
        Columns of `LAYER_COLUMNS`.
    """
    n, level = len(galaxies), torch.tensor(sigma, dtype=torch.float64)
    whole = galaxies.about_shape(galaxies.pixels(sigma))

    def share(matrices: Tensor) -> Tensor:
        return share_of(galaxies.about_shape(matrices), whole)

    def row(shares: Tensor, converged: bool) -> dict[str, Any]:
        error = float(shares.std()) / n**0.5 if n > 1 else None
        return {
            "galaxies": n,
            "information": float(shares.mean()),
            "information_err": error,
            "converged": converged,
        }

    def numbers(chosen: Sequence[Stage]) -> Callable[[Tensor, Tensor], list[Tensor]]:
        return lambda stamps, member: activations(network, chosen, stamps, galaxies.psf_of(member), level)

    found = {(PIXELS.layer, "exact"): row(torch.ones(n), True)}
    # What a stage holds at least: what it holds after rounding.
    least = {stage.layer: torch.zeros(n, dtype=torch.float64) for stage in stages}
    for precision, dtype in reversed(PRECISIONS.items()):  # without rounding last
        later = torch.zeros(n, dtype=torch.float64)
        for stage in reversed(stages):
            if dtype is None:
                later = torch.maximum(later, least[stage.layer])
                if bool((later > _ENOUGH).all()):
                    found[stage.layer, precision] = row(later, True)
                    continue
            if dtype is not None and stage.numbers >= NARROW:
                continue
            function = numbers([stage])
            of = held(
                lambda stamps, member, function=function: function(stamps, member)[0],  # type: ignore[misc]
                galaxies.images,
                galaxies.slopes,
                sigma,
                dtype,
                share,
            )
            shares = share(of.matrices)
            if dtype is None:
                later = shares = torch.maximum(shares, later)  # a later stage holds no more
            else:
                least[stage.layer] = torch.maximum(least[stage.layer], shares)
            found[stage.layer, precision] = row(shares, of.exact)
    narrow = [stage for stage in stages if stage.numbers < NARROW]
    matrices = from_realisations(
        numbers(narrow), galaxies.images, galaxies.slopes, sigma, torch.Generator().manual_seed(1)
    )
    for stage, noisy in zip(narrow, matrices, strict=True):
        found[stage.layer, "exact"]["information_noisy"] = float(share(noisy).mean())
    return found


def readable(
    network: ShearNetwork, stages: Sequence[Stage], data: Mapping[str, Noisy], sigma: float
) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the errors of the probes of each stage, by layer and precision.

    Parameters
    ----------
    network : ShearNetwork
        As it measures, in float32.
    stages : sequence of Stage
    data : mapping of str to Noisy
        ``train``, ``validation`` and ``test``.
    sigma : float
        Noise per pixel.

    Returns
    -------
    dict
        Columns of `LAYER_COLUMNS`.
    """
    targets = Parts(*(data[name].targets for name in ("train", "validation", "test")))
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for stage in (PIXELS, *(one for one in stages if not one.turned)):
        numbers = Parts(
            *(_numbers(network, stage, data[name], sigma) for name in ("train", "validation", "test"))
        )
        for precision, dtype in PRECISIONS.items():
            if dtype is torch.float32 or (stage is PIXELS and dtype is not None):
                continue  # the network computes in float32
            rounded = numbers if dtype is None else Parts(*(part.to(dtype).float() for part in numbers))
            row: dict[str, Any] = {"probed": len(targets.fit)}
            for how, predicted in probe(rounded, targets, kernel=dtype is None).items():
                errors = data["test"].errors_over_bounds(predicted)
                row |= {f"{how}_{name}": value for name, value in errors.items()}
            found[stage.layer, precision] = row
    return found


@torch.no_grad()
def _numbers(network: ShearNetwork, stage: Stage, data: Noisy, sigma: float) -> Tensor:
    """Return the numbers of a stage for all stamps, [n, M]."""
    level, made = torch.tensor(sigma), []
    for low in range(0, len(data.images), _BATCH):
        part = slice(low, low + _BATCH)
        images, psf = data.images[part], data.psf if data.psf.ndim == 2 else data.psf[part]
        if stage is PIXELS:
            made.append(images.flatten(1) / data.scale[part, None].float())
        else:
            made.append(activations(network, [stage], images, psf, level)[0])
    return torch.cat(made)
