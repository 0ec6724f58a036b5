"""Properties of a network that do not depend on training: layers, size, cost and receptive field."""

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
    attention.CrossAttention,
    attention.Cbam,
    attention.ChannelWeights,
    equivariant.LevelField,
)  # each is listed as one layer, with all its submodules
_PARTS = {"features": "features", "galaxy": "features", "psf": "psf"}
_VIEWS = 8  # number of random images for the receptive field; in one image, max pooling hides pixels


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
        Pixel scale [arcsec].

    Returns
    -------
    networks : pandas.DataFrame
        A row for each population and variant, see `summarise`; ``side`` is the longer side of a stamp
        [pixels].
    layers : pandas.DataFrame
        A row for each layer of each network, see `trace`.
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
    """Measure the properties of one network with random weights.

    Parameters
    ----------
    architecture : Architecture
    channels : int
        1, or 2 if the image of the PSF is an input.
    shape : (int, int)
        Rows and columns of a stamp.
    pixel_scale : float
        Pixel scale [arcsec].

    Returns
    -------
    numbers : dict
        ``parameters``: number of weights. ``flops``: floating-point operations per measured stamp, of
        convolutions and matrix products, with a multiplication and an addition counted as two, and over all
        orientations if the output is symmetrised. ``receptive_field`` [pixels]: see `receptive_field`.
        ``training_kb`` [kB]: see `kept_for_gradient`. ``refined``: whether a forward model follows, of which
        only the weights are counted.
    layers : pandas.DataFrame
        See `trace`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        outputs = len(architecture.targets) + (3 if architecture.head == "gaussian" else 0)
        body = architecture.body(shape, channels == 2, architecture.targets, outputs)
        for buffer in body.buffers():  # the scaling, which is zero before it is measured on galaxies
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
        As `Architecture.body` returns it.
    shape : (int, int)
        Rows and columns of a stamp.

    Returns
    -------
    layers : pandas.DataFrame
        Columns: ``layer`` (path of the module), ``kind`` (its class), ``part`` (``features``, ``psf`` or
        ``head``), ``shape``, ``channels`` and ``positions`` (number of pixels or tokens) of its output,
        ``parameters`` (number of weights), ``flops`` per stamp; ``added`` and ``beside``: paths of the blocks
        around the layer whose input is added to their output, or appended to it as channels, separated by
        blanks.
    flops : int
        Floating-point operations per stamp, of all layers and of operations between them.
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

    whole: list[str] = []
    for path, inner in body.named_modules():
        if isinstance(inner, _WHOLE) and not any(path.startswith(f"{outer}.") for outer in whole):
            whole.append(path)
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
    """Measure the receptive field: the side of the square of pixels on which one feature can depend.

    The feature is the pixel in the middle of the last image before the dense layers (of the galaxy's branch,
    if there are two). The pixels are those for which its gradient is not exactly zero, for random weights and
    images; the receptive field can therefore not be larger than the stamp. In a network without images, the
    feature is the output.

    Parameters
    ----------
    body : torch.nn.Module
        As `Architecture.body` returns it. If its network has a submodule ``features``, this computes the last
        image before the dense layers.
    shape : (int, int)
        Rows and columns of a stamp.

    Returns
    -------
    int
        [pixels]
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
    # Random coefficients, so that gradients of different channels do not cancel.
    (gradient,) = torch.autograd.grad((found * torch.randn_like(found)).sum(), stamps.images)
    support = (gradient != 0).any(0)
    sides = (support.any(axis).nonzero().flatten() for axis in (0, 1))
    return max(int(places[-1] - places[0]) + 1 if len(places) else 0 for places in sides)


def kept_for_gradient(body: nn.Module, shape: tuple[int, int]) -> float:
    """Return the memory [bytes] per stamp that training keeps from the forward to the backward pass."""

    def kept(count: int) -> int:
        sizes: dict[int, int] = {}
        alive: list[Tensor] = []  # keeps the tensors, so that no memory address is used twice

        def pack(tensor: Tensor) -> Tensor:
            alive.append(tensor)
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            body.train()(_stamps(count, shape))
        return sum(sizes.values())

    # The difference of two batch sizes, so that the weights do not count.
    return (kept(4) - kept(2)) / 2


def _stamps(count: int, shape: tuple[int, int]) -> Normalised:
    """Return stamps of pure noise with given flux, so that no pixel depends on another by the scaling."""
    images, psf, one = torch.randn(count, *shape), torch.randn(count, *shape), torch.ones(count)
    return Normalised(images, psf, torch.ones(shape), one, one, one, torch.randn(count, LEVELS))


def listing(networks: pd.DataFrame, table: pd.DataFrame) -> str:
    """Return a text for readers with the layers and properties of all networks.

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
