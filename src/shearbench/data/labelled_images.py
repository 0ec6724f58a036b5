"""Colour images of galaxies with a class each, in the format of Galaxy10: an HDF5 file of two data sets.

One data set has the images [n, ny, nx, bands], the other the class of each image as a number from 0.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shearbench.errors import ConfigError, nearest
from shearbench.files.hdf5 import add_dataset, create_hdf5
from shearbench.files.origin import Origin

if TYPE_CHECKING:
    import h5py

_CHUNK = 100  # images of a file that share a checksum
LEAST = 3
"""Smallest number of images of a class: one for each split."""


@dataclass(frozen=True)
class LabelledImages:
    """Images of galaxies and their classes.

    Attributes
    ----------
    images : ndarray, shape (n, ny, nx, bands)
        Of type uint8 (0 to 255) or a floating type.
    labels : ndarray of int64, shape (n,)
        Indices into `classes`.
    classes : tuple of str
    """

    images: NDArray[Any]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: NDArray[np.int64]) -> LabelledImages:
        """Return some of the images."""
        return LabelledImages(self.images[rows], self.labels[rows], self.classes)


def write_labelled_images(
    path: str | os.PathLike[str],
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    origin: Origin | None = None,
) -> None:
    """Write a file in the format of Galaxy10 SDSS, with the data sets ``images`` and ``ans``.

    Parameters
    ----------
    path : path-like
    images : ndarray of uint8, shape (n, ny, nx, 3)
    labels : ndarray of int, shape (n,)
    origin : Origin, optional
        The origin to store with the file.
    """
    with create_hdf5(path, origin) as file:
        add_dataset(file, "images", images, chunks=(min(_CHUNK, len(images)), *images.shape[1:]))
        add_dataset(file, "ans", labels.astype(np.uint8))


def read_labelled_images(
    path: str | os.PathLike[str],
    classes: Sequence[str],
    images: str = "images",
    labels: str = "ans",
    key: str = "morphology.images",
) -> LabelledImages:
    """Read all images of a file.

    Parameters
    ----------
    path : path-like
    classes : sequence of str
        Name of each class, in the order of the numbers in the file.
    images, labels : str
        Names of the data sets.
    key : str
        Section of the configuration that names the file, for errors.

    Raises
    ------
    ConfigError
        The file cannot be read, or is not as described in the docstring of this module: one sentence.
    """
    with _opened(path, key) as file:
        pixels, numbers = _checked(path, file, classes, {"images": images, "labels": labels}, key)
        found = pixels[:]
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        bad = int((~np.isfinite(found).all((1, 2, 3))).sum())
        raise ConfigError(
            f"{key}.file: {path}: {bad} of {len(found)} images in '{images}' have NaN or infinite pixels; "
            "remove these images or fill their pixels"
        )
    return LabelledImages(found, numbers, tuple(classes))


def check_labelled_images(
    path: str | os.PathLike[str],
    classes: Sequence[str],
    images: str = "images",
    labels: str = "ans",
    key: str = "morphology.images",
) -> tuple[int, int, int, int]:
    """Check a file without reading its pixels, and return the shape of the images [n, ny, nx, bands].

    Parameters and errors are those of `read_labelled_images`.
    """
    with _opened(path, key) as file:
        pixels, _ = _checked(path, file, classes, {"images": images, "labels": labels}, key)
        return tuple(pixels.shape)


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str], key: str) -> Iterator[h5py.File]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:
        reason = "there is no such file" if not os.path.exists(path) else f"it cannot be read ({error})"
        raise ConfigError(
            f"{key}.file: {path}: {reason}; expected an HDF5 file such as Galaxy10.h5"
        ) from None


def _checked(
    path: str | os.PathLike[str],
    file: h5py.File,
    classes: Sequence[str],
    names: Mapping[str, str],
    key: str,
) -> tuple[h5py.Dataset, NDArray[np.int64]]:
    """Return the data set of the images and the labels of a file that has all that is needed."""
    sets = {}
    for option, name in names.items():
        found = sorted(one for one in file if hasattr(file[one], "dtype"))
        if name not in found:
            raise ConfigError(
                f"{key}.{option}: {path} has no data set '{name}'{nearest(name, found)}; it has "
                f"{', '.join(found) or 'none'}"
            )
        sets[option] = file[name]
    pixels, stored = sets["images"], sets["labels"]
    problem = _problem(pixels, stored, names)
    if problem is None:
        numbers = stored[:]
        problem = _wrong_labels(numbers, classes, names["labels"], key)
    if problem is not None:
        raise ConfigError(f"{key}.file: {path}: {problem}")
    return pixels, numbers.astype(np.int64)


def _problem(pixels: h5py.Dataset, stored: h5py.Dataset, names: Mapping[str, str]) -> str | None:
    """Return why two data sets are not images and labels, or None if they are."""
    images, labels = f"'{names['images']}'", f"'{names['labels']}'"
    if pixels.dtype.kind not in "uf" or (pixels.dtype.kind == "u" and pixels.dtype.itemsize > 1):
        return f"{images} has numbers of type {pixels.dtype}, expected uint8 or floats"
    if pixels.ndim != 4 or not 1 <= pixels.shape[3] <= 8:
        return f"{images} has the shape {pixels.shape}, expected (images, rows, columns, 1 to 8 bands)"
    if pixels.shape[1] != pixels.shape[2]:
        return f"{images} has images of {pixels.shape[1]} by {pixels.shape[2]} pixels, expected square ones"
    if stored.ndim != 1 or stored.dtype.kind not in "uif":
        return (
            f"{labels} has the shape {stored.shape} and the type {stored.dtype}, expected one number for "
            "each image"
        )
    if len(stored) != len(pixels):
        return f"{images} has {len(pixels)} images and {labels} {len(stored)} labels, expected as many"
    return None


def _wrong_labels(numbers: NDArray[Any], classes: Sequence[str], name: str, key: str) -> str | None:
    """Return what is wrong with the labels of a file, or None."""
    if not np.isfinite(numbers).all() or (numbers != np.round(numbers)).any():
        return f"'{name}' has labels that are not whole numbers, expected 0 to {len(classes) - 1}"
    if not len(numbers):
        return f"'{name}' has no labels"
    if numbers.min() < 0 or numbers.max() >= len(classes):
        wrong = numbers.min() if numbers.min() < 0 else numbers.max()
        return (
            f"'{name}' has the label {wrong:g}, and {key}.classes names {len(classes)} classes, 0 to "
            f"{len(classes) - 1}; name every class"
        )
    counts = np.bincount(numbers.astype(np.int64), minlength=len(classes))
    if counts.min() < LEAST:
        rare = int(counts.argmin())
        return (
            f"class {rare} ('{classes[rare]}') has {counts[rare]} images, expected at least {LEAST}: one "
            "for each split"
        )
    return None


def stratified_splits(
    labels: NDArray[np.int64], fractions: Sequence[float], seed: int
) -> list[NDArray[np.int64]]:
    """Divide images at random into disjoint splits that have the same fractions of every class.

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
    fractions : sequence of float
        Fraction of the images in each split; their sum is 1.
    seed : int

    Returns
    -------
    list of ndarray of int64
        Rows of each split, ascending. Each split has at least one image of each class.
    """
    rng = np.random.default_rng([seed, 2])
    parts: list[list[NDArray[np.int64]]] = [[] for _ in fractions]
    last = len(fractions) - 1
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        edges = np.round(np.cumsum(fractions) * len(rows)).astype(int)
        for k in range(len(edges)):  # at least one for this split and for each later one
            least = edges[k - 1] + 1 if k else 1
            edges[k] = min(max(edges[k], least), len(rows) - (last - k))
        for part, chosen in zip(parts, np.split(rows, edges[:-1])):
            part.append(chosen)
    return [np.sort(np.concatenate(part)) for part in parts]


def balancing_weights(labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Return a weight for each class, inverse to its number of images; the mean over the images is 1.

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
    classes : int
        Number of classes.

    Returns
    -------
    ndarray of float64, shape (classes,)
    """
    counts = np.bincount(labels, minlength=classes)
    return len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1.0))


def read_splits(
    path: str | os.PathLike[str], file: Mapping[str, Any], fractions: Sequence[float], seed: int
) -> list[LabelledImages]:
    """Read a file and divide its images into training, validation and test images.

    Parameters
    ----------
    path : path-like
    file : mapping
        ``images``, ``labels`` and ``classes``, see `read_labelled_images`.
    fractions, seed
        See `stratified_splits`.

    Raises
    ------
    ConfigError
        See `read_labelled_images`.
    """
    found = read_labelled_images(path, file["classes"], file["images"], file["labels"])
    return [found[rows] for rows in stratified_splits(found.labels, fractions, seed)]
