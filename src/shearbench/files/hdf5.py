"""HDF5 files with their origin and checksums."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from shearbench.errors import ContractError
from shearbench.files.origin import Origin, parse_record, record

if TYPE_CHECKING:
    import h5py
from shearbench.files.writing import DAMAGED, atomic, unreadable


@contextlib.contextmanager
def create_hdf5(path: str | os.PathLike[str], origin: Origin | None = None) -> Iterator[h5py.File]:
    """Yield an HDF5 file to write into; `add_dataset` adds the data.

    The file gets its name when the block ends without an error. It has the format of HDF5 1.10, whose
    structures carry checksums of their own.

    Parameters
    ----------
    path : path-like
    origin : Origin, optional
        The origin to store with the file.

    Yields
    ------
    h5py.File

    Raises
    ------
    DiskFullError
        The disk has no room for the file.
    """
    import h5py

    with atomic(path) as temporary, h5py.File(temporary, "w", libver=("v110", "v110")) as file:
        file.attrs["record"] = np.bytes_(record(origin))
        yield file
        file.attrs["checksum"] = np.bytes_(json.dumps(_layout(file)))


def add_dataset(
    group: h5py.Group,
    name: str,
    data: Any = None,
    shape: tuple[int, ...] | None = None,
    dtype: Any = None,
    chunks: tuple[int, ...] | None = None,
) -> h5py.Dataset:
    """Add an array of numbers to an HDF5 group, with a checksum for each chunk.

    Parameters
    ----------
    group : h5py.Group
    name : str
    data : array-like, optional
        The values; without them, the data set is filled later.
    shape, dtype
        Of the data set, where `data` is not given.
    chunks : tuple of int, optional
        Shape of a chunk; by default one chunk holds all values.

    Returns
    -------
    h5py.Dataset
    """
    shape = np.shape(data) if shape is None else shape
    return group.create_dataset(name, shape, dtype, data, chunks=chunks or shape, fletcher32=True)


@contextlib.contextmanager
def open_hdf5(
    path: str | os.PathLike[str],
    what: str,
    rule: str,
    expected: Origin | None = None,
    seen: bool = False,
) -> Iterator[h5py.File]:
    """Yield an HDF5 file of `create_hdf5`, to read from; damage found inside the block is reported too.

    Parameters
    ----------
    path : path-like
    what : str
        The kind of file expected, for error messages.
    rule : str
        The rule that makes the file, for error messages.
    expected : Origin, optional
        The origin that the file must carry.
    seen : bool
        Whether this process has checked the file before: then only the chunks that are read are checked.

    Yields
    ------
    h5py.File

    Raises
    ------
    ContractError
        The file is not HDF5, was changed since it was written, has another origin, refers to other files, or
        declares more data than it holds.
    ShearbenchError
        Another program has the file open, or the file system refuses locks.
    OSError
        The operating system cannot read the file.
    """
    import h5py

    rule = expected.rule if expected else rule
    try:
        with h5py.File(path, "r") as file:
            if not seen:
                rule = _check_layout(path, file, rule, expected)
            yield file
    except DAMAGED as error:
        raise unreadable(path, error, what, rule) from error


def _check_layout(path: str | os.PathLike[str], file: h5py.File, rule: str, expected: Origin | None) -> str:
    """Compare an open file with its record; return the rule that made it."""
    if "record" not in file.attrs or "checksum" not in file.attrs:
        problem = "none (made by an earlier version?)"
        raise ContractError.of(path, "record", problem, "origin and checksum", rule)
    origin = parse_record(file.attrs["record"])["origin"]
    if expected is not None:
        expected.check(path, origin)
    rule = origin.rule if origin else rule
    _check_own(path, file, rule)
    written, found = json.loads(file.attrs["checksum"]), _layout(file)
    for name in written | found:
        if found.get(name) != written.get(name):
            problem = "nothing" if name not in found else "another value, shape or type"
            raise ContractError.of(path, name, problem, "the one that was written", rule)
    return rule


def _check_own(path: str | os.PathLike[str], group: h5py.Group, rule: str, depth: int = 0) -> None:
    """Refuse data outside the file itself, and data sets that are declared larger than the file."""
    import h5py

    size = os.stat(path).st_size
    for name in group:
        place = f"{group.name.rstrip('/')}/{name}"
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink) or depth > 3:
            raise ContractError.of(path, place, f"a {type(link).__name__}", "data in the file itself", rule)
        item = group[name]
        if isinstance(item, h5py.Group):
            _check_own(path, item, rule, depth + 1)
            continue
        if item.external or item.is_virtual or not item.fletcher32 or item.compression or item.scaleoffset:
            found = "external, virtual or compressed data, or no checksum"
            raise ContractError.of(path, place, found, "plain numbers with a checksum", rule)
        if item.dtype.kind not in "biuf" or item.nbytes > size:
            declared = f"{item.nbytes} bytes of type {item.dtype} in a file of {size} bytes"
            raise ContractError.of(path, place, declared, "numbers, all of them in the file", rule)


def _layout(file: h5py.File) -> dict[str, str]:
    """Return a digest of each attribute and of each data set's shape and type, keyed by its description."""
    found: dict[str, str] = {}

    def note(name: str, *about: Any) -> None:
        found[name] = hashlib.sha256(json.dumps(about, default=str).encode()).hexdigest()[:16]

    def look(name: str, item: Any) -> None:
        kind = "dataset" if hasattr(item, "shape") else "group"
        note(f"{kind} '{name}'", *([item.shape, item.dtype.str] if kind == "dataset" else []))
        for key, value in item.attrs.items():
            if (name, key) != ("", "checksum"):
                plain = value.tolist() if isinstance(value, np.generic | np.ndarray) else value
                note(f"attribute '{name}{'/' if name else ''}{key}'", plain)

    look("", file)
    file.visititems(look)
    return found
