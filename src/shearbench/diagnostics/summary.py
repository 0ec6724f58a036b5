"""What a network is before any training: its layers, its size, what it costs, and how far it sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from shearbench.networks.base import Architecture
from shearbench.networks.modules import attention, convolution, dihedral, equivariant
from shearbench.networks.modules.bodies import Normalised
from shearbench.networks.terms import LEVELS

NETWORK_COLUMNS = [
    "population",
    "variant",
    "architecture",
    "channels",
    "side",
    "layers",
    "parameters",
    "flops",
    "receptive_field",
    "training_kb",
    "refined",
]
LAYER_COLUMNS = [
    "population",
    "variant",
    "layer",
    "kind",
    "part",
    "shape",
    "channels",
    "positions",
    "parameters",
    "flops",
    "added",
    "beside",
]

_WHOLE = (
    attention.SelfAttention,
    attention.Cbam,
    equivariant.LevelField,
)  # one layer each, whatever they are made of
_PARTS = {"features": "features", "galaxy": "features", "psf": "psf"}
_VIEWS = 8  # random images over which the receptive field is gathered: a maximum hides pixels


def summarise_networks(
    variants: Mapping[str, Architecture],
    channels: Mapping[str, int],
    shape: tuple[int, int],
    pixel_scale: float,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Summarise the networks of a run.

    Parameters
    ----------
    variants : mapping of str to Architecture
    channels : mapping of str to int
        For each population: 2 where the PSF differs from galaxy to galaxy, 1 otherwise.
    shape : (int, int)
        Rows and columns of a stamp.
    pixel_scale : float
        Arcsec.

    Returns
    -------
    networks : pandas.DataFrame
        A row for each population and variant: see `summarise`; ``side`` is the stamp's longer one, pixels.
    layers : pandas.DataFrame
        A row for each of their layers: see `trace`.
    """
    made = {
        (name, count): summarise(architecture, count, shape, pixel_scale)
        for count in sorted(set(channels.values()))
        for name, architecture in variants.items()
    }
    rows, tables = [], [pd.DataFrame(columns=LAYER_COLUMNS)]
    for population, count in channels.items():
        for name, architecture in variants.items():
            numbers, table = made[name, count]
            of = {"population": population, "variant": name}
            rows.append(
                {
                    **of,
                    "architecture": architecture.kind,
                    "channels": count,
                    "side": max(shape),
                    "layers": len(table),
                    **numbers,
                }
            )
            tables.append(table.assign(**of)[LAYER_COLUMNS])
    found = pd.concat([table for table in tables if len(table)] or tables, ignore_index=True)
    return pd.DataFrame(rows, columns=NETWORK_COLUMNS), found


def summarise(
    architecture: Architecture, channels: int, shape: tuple[int, int], pixel_scale: float
) -> tuple[dict[str, float], pd.DataFrame]:
    """Measure one network, with random weights.

    Parameters
    ----------
    architecture : Architecture
    channels : int
        1, or 2 with the PSF.
    shape : (int, int)
    pixel_scale : float
        Arcsec.

    Returns
    -------
    numbers : dict
        ``parameters``; ``flops`` per stamp whose shape is measured (a multiplication and an addition are
        two; convolutions and matrix products only; all orientations where the answer is symmetrised);
        ``receptive_field`` in pixels, see `receptive_field`; ``training_kb``, see `kept_for_gradient`;
        ``refined``, whether a forward model follows, of which only the parameters are counted.
    layers : pandas.DataFrame
        See `trace`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        outputs = len(architecture.targets) + (3 if architecture.head == "gaussian" else 0)
        body = architecture.body(shape, channels == 2, architecture.targets, outputs)
        for buffer in body.buffers():  # what is measured on galaxies, and zero before
            if buffer.is_floating_point() and not buffer.any():
                buffer.copy_(0.5 + torch.rand_like(buffer))
        refinement = architecture.refinement(shape, pixel_scale)
        after = [] if refinement is None else refinement.parameters()
        table, flops = trace(body, shape)
        symmetrise = architecture.symmetrise
        numbers: dict[str, float] = {
            "parameters": sum(weight.numel() for weight in (*body.parameters(), *after)),
            "flops": flops * (1 if symmetrise == "never" else dihedral.ORDER),
            "receptive_field": receptive_field(body, shape),
            "training_kb": kept_for_gradient(body, shape)
            * (dihedral.ORDER if symmetrise == "always" else 1)
            / 1000,
            "refined": refinement is not None,
        }
    return numbers, table


def trace(body: nn.Module, shape: tuple[int, int]) -> tuple[pd.DataFrame, int]:
    """List the layers of a network in the order in which a stamp goes through them.

    Parameters
    ----------
    body : torch.nn.Module
        As `Architecture.body` makes it.
    shape : (int, int)

    Returns
    -------
    layers : pandas.DataFrame
        ``layer`` (path of the module), ``kind`` (its class), ``part`` (``features``, ``psf``, ``head``),
        ``shape`` of its output, and of that ``channels`` and ``positions`` (pixels or tokens),
        ``parameters``, ``flops`` per stamp, and the blocks it is in whose input is ``added`` to their output
        or put ``beside`` it: their paths, separated by blanks.
    flops : int
        Of all layers and what is between them, per stamp.
    """
    rows: list[dict[str, Any]] = []
    blocks = {
        column: [path for path, inner in body.named_modules() if isinstance(inner, kind)]
        for column, kind in (("added", convolution.Skip), ("beside", convolution.Beside))
    }

    def listing(path: str, inner: nn.Module) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            size = list(output.shape[1:])
            if len(size) == 2:  # tokens: their features come last
                size = size[::-1]
            positions = 1
            for side in size[1:]:
                positions *= side
            rows.append(
                {
                    "layer": path,
                    "kind": type(inner).__name__,
                    "part": _PARTS.get(path.removeprefix("network.").split(".")[0], "head"),
                    "shape": "x".join(map(str, size)),
                    "channels": size[0],
                    "positions": positions,
                    "parameters": sum(weight.numel() for weight in inner.parameters()),
                    **{
                        column: " ".join(block for block in paths if path.startswith(f"{block}."))
                        for column, paths in blocks.items()
                    },
                }
            )

        return inner.register_forward_hook(hook)

    whole = [path for path, inner in body.named_modules() if isinstance(inner, _WHOLE)]
    handles = [
        listing(path, inner)
        for path, inner in body.named_modules()
        if path in whole
        or (not any(inner.children()) and not any(path.startswith(f"{one}.") for one in whole))
    ]
    counter = FlopCounterMode(display=False)
    body.eval()
    try:
        with torch.no_grad(), counter:
            body(_stamps(1, shape))
    finally:
        for handle in handles:
            handle.remove()
    of_module = counter.get_flop_counts()
    root = type(body).__name__
    for row in rows:
        row["flops"] = sum(of_module.get(f"{root}.{row['layer']}", {}).values())
    return pd.DataFrame(rows), counter.get_total_flops()


def receptive_field(body: nn.Module, shape: tuple[int, int]) -> int:
    """Measure how many pixels across the square is that one feature can depend on.

    A feature is a pixel in the middle of the last image before the dense layers (of the galaxy's branch,
    where there are two): what the network knows of a place before it knows of all. It is measured, by
    where its gradient is not exactly zero for random weights and images, and so ends at the stamp's edges.
    Of a network that makes no image, a feature is the answer.

    Parameters
    ----------
    body : torch.nn.Module
        As `Architecture.body` makes it. A module ``features`` of its network is what is before the dense
        layers.
    shape : (int, int)

    Returns
    -------
    int
    """
    seen: list[Tensor] = []
    features = getattr(getattr(body, "network", body), "features", body)
    handle = features.register_forward_hook(lambda _, __, output: seen.append(output))
    stamps = _stamps(_VIEWS, shape)
    stamps.images.requires_grad_()
    try:
        body.eval()(stamps)
    finally:
        handle.remove()
    found = seen[0]
    if found.ndim == 4:
        found = found[:, :, found.shape[2] // 2, found.shape[3] // 2]
    # Random coefficients, so that nothing cancels between the channels.
    (gradient,) = torch.autograd.grad((found * torch.randn_like(found)).sum(), stamps.images)
    support = (gradient != 0).any(0)
    sides = (support.any(axis).nonzero().flatten() for axis in (0, 1))
    return max(int(places[-1] - places[0]) + 1 if len(places) else 0 for places in sides)


def kept_for_gradient(body: nn.Module, shape: tuple[int, int]) -> float:
    """Return how many bytes a stamp in a batch makes training keep, from one pass to the other."""

    def kept(count: int) -> int:
        sizes: dict[int, int] = {}
        alive: list[Tensor] = []  # an address is not used again while its tensor lives

        def pack(tensor: Tensor) -> Tensor:
            alive.append(tensor)
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            body.train()(_stamps(count, shape))
        return sum(sizes.values())

    # What does not grow with the batch (the weights) is not a stamp's.
    return (kept(4) - kept(2)) / 2


def _stamps(count: int, shape: tuple[int, int]) -> Normalised:
    """Return noise, as stamps whose flux is known: a pixel has no part in that of another."""
    images, psf, one = torch.randn(count, *shape), torch.randn(count, *shape), torch.ones(count)
    return Normalised(images, psf, torch.ones(shape), one, one, one, torch.randn(count, LEVELS))


def listing(networks: pd.DataFrame, table: pd.DataFrame) -> str:
    """Return the layers and numbers of all networks as text, for people.

    Parameters
    ----------
    networks, table : pandas.DataFrame
        As `summarise_networks` returns them.

    Returns
    -------
    str
    """
    lines: list[str] = []
    for network in networks.to_dict("records"):
        own = table[(table["population"] == network["population"]) & (table["variant"] == network["variant"])]
        own = own[["layer", "kind", "shape", "parameters", "flops", "added", "beside"]]
        lines += [
            f"{network['variant']} ({network['architecture']}), population {network['population']}",
            own.to_string(index=False),
            f"{network['parameters']} parameters; {network['flops']} FLOPs and "
            f"{network['training_kb']:.1f} kB in training per stamp; a feature sees "
            f"{network['receptive_field']} of {network['side']} pixels",
            "",
        ]
    return "\n".join(lines) + "\n" if lines else "no networks\n"
