"""Stamps: noiseless images and their PSFs, stored in HDF5 files; noise is added when they are read.

A split is stored as several files, its chunks, and an index that names them. `StampSet` reads all chunks as
if they were one file; its results do not depend on the number of chunks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from shearbench.data.observing import Observing, filled
from shearbench.errors import ContractError
from shearbench.files.hdf5 import add_dataset, create_hdf5, open_hdf5
from shearbench.files.origin import Origin
from shearbench.files.text import read_text, write_text

RULE = "simulate_stamps"
INDEX_RULE = "index_stamps"
_WHAT = "an HDF5 file of stamps"
_ATTRIBUTES = ("population", "split", "pixel_scale", "catalog_digest")


@dataclass(frozen=True)
class StampBatch:
    """A batch of noisy stamps, the input of all estimators.

    Attributes
    ----------
    images : ndarray of float32, shape (n, ny, nx)
        Flux per pixel, with noise. The row index increases with y, the column index with x.
    psf : ndarray of float32, shape (ny, nx) or (n, ny, nx)
        The PSF convolved with the pixel, without noise, centred on the stamp, of unit flux: one PSF for all
        stamps, or one for each.
    sigma : float
        Standard deviation of a pixel's noise, which is Gaussian.
    pixel_scale : float
        Arcsec.
    galaxy_id, noise_id : ndarray of int64, shape (n,)
    mask : ndarray of bool, shape (n, ny, nx), optional
        Pixels without a measurement. Their values are interpolated; NaN where that is impossible.
    depth : ndarray of float64, shape (n,), optional
        Noise level of each stamp over `sigma`, where it varies.
    correlation : float
        Standard deviation of the Gaussian that correlates the noise [pixels]; 0: the noise is white.
    """

    images: NDArray[np.float32]
    psf: NDArray[np.float32]
    sigma: float
    pixel_scale: float
    galaxy_id: NDArray[np.int64]
    noise_id: NDArray[np.int64]
    mask: NDArray[np.bool_] | None = None
    depth: NDArray[np.float64] | None = None
    correlation: float = 0.0

    def __len__(self) -> int:
        return len(self.images)

    @property
    def constant_psf(self) -> bool:
        """Whether all stamps have the same PSF."""
        return self.psf.ndim == 2

    def psf_of(self, index: int) -> NDArray[np.float32]:
        """Return the PSF image of one stamp, shape (ny, nx)."""
        return self.psf if self.constant_psf else self.psf[index]

    def select(self, index: slice | NDArray[Any]) -> StampBatch:
        """Return a batch with a selection of the stamps, by a slice or an array of indices or booleans."""
        return StampBatch(
            images=self.images[index],
            psf=self.psf if self.constant_psf else self.psf[index],
            sigma=self.sigma,
            pixel_scale=self.pixel_scale,
            galaxy_id=self.galaxy_id[index],
            noise_id=self.noise_id[index],
            mask=None if self.mask is None else self.mask[index],
            depth=None if self.depth is None else self.depth[index],
            correlation=self.correlation,
        )

    def of_one_noise_level(self) -> Iterator[tuple[NDArray[np.int64], StampBatch]]:
        """Yield the stamps of each noise level, with their places, as batches of which this is ``sigma``."""
        if self.depth is None:
            yield np.arange(len(self)), self
            return
        for depth in np.unique(self.depth):
            places = np.flatnonzero(self.depth == depth)
            yield places, replace(self.select(places), sigma=self.sigma * float(depth), depth=None)


def write_stamps(
    path: str | os.PathLike[str],
    blocks: Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]],
    galaxy_id: NDArray[np.int64],
    noise_id: NDArray[np.int64],
    shape: tuple[int, int],
    per_galaxy_psf: bool,
    attributes: dict[str, Any],
    origin: Origin | None = None,
) -> None:
    """Write one chunk of a split, block by block, so that memory does not grow with its length.

    The file gets its name when it is complete.

    Parameters
    ----------
    path : path-like
    blocks : iterator of (images, psf)
        Consecutive stamps, float32, shape (m, ny, nx), and PSFs, shape (ny, nx) or (m, ny, nx).
    galaxy_id, noise_id : ndarray of int64, shape (n,)
    shape : (int, int)
        Rows and columns of a stamp.
    per_galaxy_psf : bool
        Whether each stamp has a PSF of its own.
    attributes : dict
        Attributes of the file, at least ``population, split, pixel_scale, catalog_digest``.
    origin : Origin, optional
        The origin to store with the file.

    Raises
    ------
    ValueError
        The blocks have more or fewer stamps than there are galaxies.
    DiskFullError
        The disk has no room for the file.
    """
    n = len(galaxy_id)
    with create_hdf5(path, origin) as file:
        chunk = (max(1, min(n, 64)), *shape)
        images = add_dataset(file, "images", None, (n, *shape), np.float32, chunk)
        if per_galaxy_psf:
            psf = add_dataset(file, "psf", None, (n, *shape), np.float32, chunk)
        else:
            psf = add_dataset(file, "psf", None, shape, np.float32)
        at = 0
        for block, block_psf in blocks:
            images[at : at + len(block)] = block
            if per_galaxy_psf:
                psf[at : at + len(block)] = block_psf
            elif at == 0:
                psf[...] = block_psf
            at += len(block)
        if at != n:
            raise ValueError(f"{at} stamps were drawn for {n} galaxies")
        add_dataset(file, "galaxy_id", np.asarray(galaxy_id, np.int64))
        add_dataset(file, "noise_id", np.asarray(noise_id, np.int64))
        file.attrs.update(attributes)


def write_index(
    path: str | os.PathLike[str], chunks: Sequence[str | os.PathLike[str]], origin: Origin | None = None
) -> None:
    """Write the index of a split, a JSON file with the path and size of each chunk, in order.

    Rules that use a split have this one file as their input, whatever the number of chunks.

    Parameters
    ----------
    path : path-like
        Path of the index, in the folder of the chunks or in one above it.
    chunks : sequence of path-like
    origin : Origin, optional
        The origin to store with the index.

    Raises
    ------
    ContractError
        A chunk is damaged, or belongs to another split than the first. No index is written.
    """
    StampSet(chunks, origin)
    folder = Path(path).parent
    entries = [{"file": os.path.relpath(chunk, folder), "bytes": os.stat(chunk).st_size} for chunk in chunks]
    write_text(path, json.dumps({"chunks": entries}, indent=1) + "\n", origin)


def read_index(path: str | os.PathLike[str], expected: Origin | None = None) -> list[Path]:
    """Return the chunk files of a split, in order.

    Parameters
    ----------
    path : path-like
        An index written by `write_index`.
    expected : Origin, optional
        The origin that the split must carry.

    Returns
    -------
    list of pathlib.Path

    Raises
    ------
    ContractError
        The file is no index of stamps, or a chunk is missing, has another size, or is outside the index's
        folder.
    """
    path = Path(path)
    try:
        entries = [
            (path.parent / str(entry["file"]), int(entry["bytes"]))
            for entry in json.loads(read_text(path, expected))["chunks"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ContractError.of(path, "chunks", repr(error), "an index of stamps", INDEX_RULE) from error
    for chunk, size in entries:
        if not chunk.is_relative_to(path.parent) or ".." in chunk.relative_to(path.parent).parts:
            raise ContractError.of(path, "chunks", chunk, f"files below {path.parent}", INDEX_RULE)
        found = f"{chunk.stat().st_size} bytes" if chunk.is_file() else "nothing"
        if found != f"{size} bytes":
            raise ContractError.of(chunk, "file", found, f"{size} bytes, as in {path}", RULE)
    return [chunk for chunk, _ in entries]


def read_stamps(path: str | os.PathLike[str], expected: Origin | None = None) -> StampSet:
    """Open the stamps of a split by its index.

    Parameters
    ----------
    path : path-like
        An index written by `write_index`.
    expected : Origin, optional
        The origin that the split must carry.

    Returns
    -------
    StampSet

    Raises
    ------
    ContractError
        See `read_index` and `StampSet`.
    """
    return StampSet(read_index(path, expected), expected)


class StampSet:
    """All stamps of a split, read from its chunk files as if they were one file.

    Parameters
    ----------
    paths : sequence of path-like
        The chunk files, in order.
    expected : Origin, optional
        The origin that the split must carry, which is that of its index.

    Raises
    ------
    ContractError
        A file is damaged, lacks a dataset or an attribute, or belongs to another split than the first.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], expected: Origin | None = None) -> None:
        if not paths:
            raise ValueError("a stamp set needs at least one file")
        self.paths = [Path(path) for path in paths]
        lengths: list[int] = []
        galaxy_id: list[NDArray[np.int64]] = []
        noise_id: list[NDArray[np.int64]] = []
        for number, path in enumerate(self.paths):
            origin = expected and Origin(RULE, expected.depends, expected.names | {"chunk": number})
            with open_hdf5(path, _WHAT, RULE, origin) as file:
                _check(file, path)
                found = {name: file.attrs[name] for name in _ATTRIBUTES}
                found["shape"] = tuple(file["images"].shape[1:])
                found["psf"] = "one" if file["psf"].ndim == 2 else "one each"
                found["observing"] = Observing.of(file.attrs)
                if not lengths:
                    first = found
                for name, value in found.items():
                    if value != first[name]:
                        raise ContractError.of(
                            path, name, value, f"{first[name]} as in {self.paths[0]}", RULE
                        )
                lengths.append(file["images"].shape[0])
                galaxy_id.append(file["galaxy_id"][:])
                noise_id.append(file["noise_id"][:])
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self.galaxy_id: NDArray[np.int64] = np.concatenate(galaxy_id)
        self.noise_id: NDArray[np.int64] = np.concatenate(noise_id)
        self.shape: tuple[int, int] = first["shape"]
        self.constant_psf = first["psf"] == "one"
        self.observing: Observing = first["observing"]
        self.pixel_scale = float(first["pixel_scale"])
        self.population = str(first["population"])
        self.split = str(first["split"])
        self.catalog_digest = str(first["catalog_digest"])

    def __len__(self) -> int:
        return len(self.galaxy_id)

    def noiseless(
        self, start: int = 0, stop: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return stamps `start` to `stop` without noise, and their PSF.

        Parameters
        ----------
        start, stop : int
            The first stamp, and the stamp after the last one; all stamps by default.

        Returns
        -------
        images : ndarray of float32, shape (n, ny, nx)
        psf : ndarray of float32, shape (ny, nx) or (n, ny, nx)
        """
        stop = len(self) if stop is None else min(stop, len(self))
        images = np.empty((stop - start, *self.shape), np.float32)
        psf = np.empty(self.shape if self.constant_psf else images.shape, np.float32)
        for path, low, high in zip(self.paths, self._starts[:-1], self._starts[1:]):
            a, b = max(start, low), min(stop, high)
            if a >= b:
                continue
            with open_hdf5(path, _WHAT, RULE, seen=True) as file:
                file["images"].read_direct(images, np.s_[a - low : b - low], np.s_[a - start : b - start])
                if self.constant_psf:
                    file["psf"].read_direct(psf)
                else:
                    file["psf"].read_direct(psf, np.s_[a - low : b - low], np.s_[a - start : b - start])
        return images, psf

    def signal(self) -> NDArray[np.float64]:
        """Return sqrt(sum I^2) of each noiseless stamp, which is sigma times its signal-to-noise ratio."""
        found = np.empty(len(self))
        for low in range(0, len(self), 1024):
            images, _ = self.noiseless(low, low + 1024)
            found[low : low + 1024] = np.sqrt(np.square(images, dtype=np.float64).sum(axis=(1, 2)))
        return found

    def batches(
        self, sigma: float, seed: int, size: int = 1024, start: int = 0, stop: int | None = None
    ) -> Iterator[StampBatch]:
        """Yield the stamps in order, with noise of standard deviation `sigma` added and masked pixels filled.

        Parameters
        ----------
        sigma : float
            Noise per pixel.
        seed : int
            The run's seed; with a stamp's ``noise_id`` it determines the noise (`shearbench.data.noise`).
        size : int
            Stamps in a batch. Memory grows with it; results do not depend on it.
        start, stop : int
            The first stamp, and the stamp after the last one; all stamps by default.

        Yields
        ------
        StampBatch
        """
        stop = len(self) if stop is None else min(stop, len(self))
        for low in range(start, stop, size):
            high = min(low + size, stop)
            images, psf = self.noiseless(low, high)
            noise_id = self.noise_id[low:high]
            depth = self.observing.depths(seed, noise_id)
            level = np.float32(sigma) if depth is None else (sigma * depth).astype(np.float32)[:, None, None]
            images += level * self.observing.unit_noise(seed, noise_id, self.shape)
            mask = self.observing.masks(seed, noise_id, self.shape)
            if mask is not None:
                images = filled(images, mask)
            yield StampBatch(
                images=images,
                psf=psf,
                sigma=sigma,
                pixel_scale=self.pixel_scale,
                galaxy_id=self.galaxy_id[low:high],
                noise_id=noise_id,
                mask=mask,
                depth=depth,
                correlation=self.observing.correlation,
            )


def _check(file: h5py.File, path: Path) -> None:
    for name in ("images", "psf", "galaxy_id", "noise_id"):
        if name not in file:
            raise ContractError.of(path, f"dataset '{name}'", f"only {sorted(file)}", "the dataset", RULE)
    for name in _ATTRIBUTES:
        if name not in file.attrs:
            raise ContractError.of(
                path, f"attribute '{name}'", f"only {sorted(file.attrs)}", "the attribute", RULE
            )
    shape = file["images"].shape
    if len(shape) != 3:
        raise ContractError.of(path, "images", f"shape {shape}", "(n, ny, nx)", RULE)
    if file["psf"].shape not in (shape, shape[1:]):
        raise ContractError.of(path, "psf", f"shape {file['psf'].shape}", f"{shape[1:]} or {shape}", RULE)
    for name in ("galaxy_id", "noise_id"):
        if file[name].shape != shape[:1]:
            raise ContractError.of(path, name, f"shape {file[name].shape}", f"{shape[:1]}", RULE)
