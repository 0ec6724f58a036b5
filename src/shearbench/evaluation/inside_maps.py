"""Images of the inside of a trained network: the file that figures read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shearbench.errors import ContractError
from shearbench.files.hdf5 import add_dataset, create_hdf5, open_hdf5
from shearbench.files.origin import Origin

RULE = "inside_maps"
EXAMPLES = ("round", "elliptical", "spiral arms", "noisy")
"""The galaxies whose features are shown."""

Image = NDArray[np.float64]


@dataclass(frozen=True)
class InsideMaps:
    """Images of the inside of one network.

    Attributes
    ----------
    population, variant : str
    pixel_scale : float
        Arcsec.
    arrays : dict of str to ndarray
        ``stamps`` [k, ny, nx]: noisy stamps of the galaxies of `EXAMPLES`, and ``sigma`` [k], their noise per
        pixel. ``noise`` [s]: noise levels. ``optimal`` [2, ny, nx]: the weights of the pixels in the
        unbiased estimates of g1 and g2 with the smallest errors, for one test galaxy. ``gradient``
        [s, 2, ny, nx]: the derivatives of the network's g1 and g2 by the pixels of the same galaxy.
    filters : ndarray, shape (c, h, w)
        Derivatives of the numbers in the middle of the first stage by the pixels.
    features : dict of str to ndarray, shape (k, c, h, w)
        For each stage that is an image: some of its channels, for the galaxies of `EXAMPLES`.
    exciting : dict of str to ndarray, shape (c, ny, nx)
        For some stages: the changes of a stamp that raise the same channels most.
    attention : dict of str to ndarray, shape (k, ny, nx)
        For each layer with attention: the weights of the pixels over their mean.
    """

    population: str
    variant: str
    pixel_scale: float
    arrays: dict[str, Image]
    filters: Image
    features: dict[str, Image]
    exciting: dict[str, Image]
    attention: dict[str, Image]


_ARRAYS = ("stamps", "sigma", "noise", "optimal", "gradient")
_GROUPS = ("features", "exciting", "attention")


def write_inside(
    path: str | os.PathLike[str], networks: Sequence[InsideMaps], origin: Origin | None = None
) -> None:
    """Write the maps of networks, each in a group of its number.

    A group has the attributes ``population, variant, pixel_scale``, a dataset for each of the arrays, and
    groups of numbered datasets with the attribute ``layer``.

    Parameters
    ----------
    path : path-like
    networks : sequence of InsideMaps
    origin : Origin, optional
        The origin to store with the file.
    """
    with create_hdf5(path, origin) as file:
        for number, one in enumerate(networks):
            group = file.create_group(f"{number:03}")
            for name in ("population", "variant", "pixel_scale"):
                group.attrs[name] = getattr(one, name)
            for name in _ARRAYS:
                add_dataset(group, name, one.arrays[name])
            add_dataset(group, "filters", one.filters)
            for name in _GROUPS:
                inner = group.create_group(name)
                for place, (layer, images) in enumerate(getattr(one, name).items()):
                    add_dataset(inner, f"{place:03}", images).attrs["layer"] = layer


def read_inside(path: str | os.PathLike[str], expected: Origin | None = None) -> list[InsideMaps]:
    """Read the maps of all networks in a file.

    Parameters
    ----------
    path : path-like
    expected : Origin, optional
        The origin that the file must carry.

    Raises
    ------
    ContractError
        The file is damaged or of another origin, or lacks an attribute or a dataset.
    """
    found = []
    with open_hdf5(path, "an HDF5 file of maps", RULE, expected) as file:
        try:
            for group in (file[name] for name in sorted(file)):
                groups = {
                    name: {
                        str(inner.attrs["layer"]): inner[...]
                        for inner in (group[name][k] for k in sorted(group[name]))
                    }
                    for name in _GROUPS
                }
                found.append(
                    InsideMaps(
                        str(group.attrs["population"]),
                        str(group.attrs["variant"]),
                        float(group.attrs["pixel_scale"]),
                        {name: group[name][...] for name in _ARRAYS},
                        group["filters"][...],
                        **groups,
                    )
                )
        except KeyError as error:
            raise ContractError.of(path, "content", f"{error}", "all maps of each network", RULE) from error
    return found
