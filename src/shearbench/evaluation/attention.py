"""Attention maps of a study's networks, beside the information in each pixel: the file that figures read."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shearbench.errors import ContractError
from shearbench.files.hdf5 import add_dataset, create_hdf5, open_hdf5
from shearbench.files.origin import Origin

RULE = "measure_attention"
EXAMPLES = ("round", "elliptical", "spiral arms", "noisy")
"""The galaxies whose attention maps are shown."""
RANK_COLUMNS = [
    "study",
    "value",
    "variant",
    "seed",
    "layer",
    "noise",
    "n_galaxies",
    "information",
    "information_err",
    "light",
    "light_err",
    "other",
    "other_err",
]
COST_COLUMNS = ["study", "value", "variant", "parameters", "flops", "forward_seconds", "step_seconds"]


@dataclass(frozen=True)
class AttentionMaps:
    """Attention of networks to a few galaxies, and the positions that transformers are told.

    Attributes
    ----------
    pixel_scale : float
        Arcsec.
    sigma : ndarray of float64, shape (k,)
        Noise per pixel of each galaxy of `EXAMPLES`.
    stamp, information : ndarray of float64, shape (k, ny, nx)
        Noisy stamps, and the Fisher information on the shear in each pixel, divided by its mean.
    maps : dict of str to ndarray, shape (k, ny, nx)
        For each value of the study with attention to pixels or patches: the weights divided by their mean,
        averaged over layers and seeds.
    codes : dict of str to ndarray, shape (tokens, tokens)
        For each value whose tokens are told their positions: the Gram matrix of the numbers that encode them,
        divided by the mean of its diagonal, of the first seed.
    scores : dict of str to ndarray, shape (tokens, tokens)
        For each value with attention between tokens: the weight that each token (row) gives to each other one
        (column) in the first layer, averaged over galaxies and heads, of the first seed.
    """

    pixel_scale: float
    sigma: NDArray[np.float64]
    stamp: NDArray[np.float64]
    information: NDArray[np.float64]
    maps: dict[str, NDArray[np.float64]]
    codes: dict[str, NDArray[np.float64]]
    scores: dict[str, NDArray[np.float64]]


_ARRAYS, _GROUPS = ("sigma", "stamp", "information"), ("maps", "codes", "scores")


def write_maps(path: str | os.PathLike[str], maps: AttentionMaps, origin: Origin | None = None) -> None:
    """Write the file of attention maps.

    Datasets ``sigma``, ``stamp`` and ``information``; groups ``maps``, ``codes`` and ``scores`` with a
    dataset for each value, numbered, whose attribute ``value`` is its label; attribute ``pixel_scale``.

    Parameters
    ----------
    path : path-like
    maps : AttentionMaps
    origin : Origin, optional
        Origin to write into the file.
    """
    with create_hdf5(path, origin) as file:
        file.attrs["pixel_scale"] = maps.pixel_scale
        for name in _ARRAYS:
            add_dataset(file, name, getattr(maps, name))
        for name in _GROUPS:
            group = file.create_group(name)
            for k, (label, values) in enumerate(getattr(maps, name).items()):
                add_dataset(group, f"{k:03d}", values).attrs["value"] = label


def read_maps(path: str | os.PathLike[str], expected: Origin | None = None) -> AttentionMaps:
    """Read a file of `write_maps`.

    Raises
    ------
    ContractError
        The file is damaged or of another origin, or lacks an attribute or a dataset.
    """
    with open_hdf5(path, "an HDF5 file of attention maps", RULE, expected) as file:
        try:
            maps, codes, scores = (
                {str(one.attrs["value"]): one[...] for one in file[name].values()} for name in _GROUPS
            )
            sigma, stamp, information = (file[name][...] for name in _ARRAYS)
            scale = float(file.attrs["pixel_scale"])
            return AttentionMaps(scale, sigma, stamp, information, maps, codes, scores)
        except (KeyError, ValueError, AttributeError) as error:
            needed = ", ".join((*_ARRAYS, *_GROUPS))
            raise ContractError.of(path, "datasets", f"{error}", needed, RULE) from error
