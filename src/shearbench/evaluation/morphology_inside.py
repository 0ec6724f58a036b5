"""File of the inside of classifiers: filters, feature maps and class activation maps of some images."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shearbench.errors import ContractError
from shearbench.evaluation.morphology import displayed
from shearbench.files.hdf5 import add_dataset, create_hdf5, open_hdf5
from shearbench.files.origin import Origin

RULE = "classify"
Arrays = Mapping[str, NDArray[Any]]


def write_inside(
    path: str | os.PathLike[str],
    classifiers: Mapping[str, Arrays],
    classes: Sequence[str],
    origin: Origin | None = None,
) -> None:
    """Write what classifiers have learned.

    Parameters
    ----------
    path : path-like
    classifiers : mapping of str to mapping
        The arrays of each classifier by its name, see `shearbench.diagnostics.classifiers.look_inside`.
    classes : sequence of str
    origin : Origin, optional
        The origin to store with the file.
    """
    with create_hdf5(path, origin) as file:
        file.attrs["classes"] = np.bytes_(json.dumps(list(classes)))
        for number, (name, arrays) in enumerate(classifiers.items()):
            group = file.create_group(f"{number:03}")
            group.attrs["classifier"] = name
            for key, array in arrays.items():
                add_dataset(group, key, array)


def read_inside(
    path: str | os.PathLike[str], expected: Origin | None = None
) -> tuple[list[str], dict[str, dict[str, NDArray[Any]]]]:
    """Return the names of the classes, and the arrays of each classifier.

    Raises
    ------
    ContractError
        The file is damaged or of another origin, or lacks an attribute.
    """
    with open_hdf5(path, "images of the inside of classifiers", RULE, expected) as file:
        try:
            classes = json.loads(file.attrs["classes"])
            groups = [file[name] for name in sorted(file)]
            return classes, {
                str(group.attrs["classifier"]): {name: group[name][...] for name in group} for group in groups
            }
        except KeyError as error:
            raise ContractError.of(path, "content", f"{error}", "the name of each", RULE) from error


def with_images(arrays: Arrays, images: NDArray[Any], labels: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Return the arrays of a classifier with the images looked at, as colours, and their classes."""
    rows = arrays["rows"]
    return {**arrays, "images": displayed(images[rows]), "labels": labels[rows]}
