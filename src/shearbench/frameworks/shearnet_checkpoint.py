"""Networks trained with ShearNet itself (https://github.com/s-Sayan/ShearNet), read from its checkpoints.

ShearNet is written in flax.linen. It saves a training state with ``flax.training.checkpoints``, which makes a
folder in the format of Orbax: ``params/params/<layer>/kernel`` and ``bias``, and the state of the optimiser.
Kernels have the shapes of `shearbench.frameworks.base.Sizes`. Two of its architectures can be read: ``cnn``,
which is the small network, and ``mlp``, three dense layers on all pixels.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shearbench.errors import ShearbenchError
from shearbench.frameworks.base import Sizes
from shearbench.frameworks.logs import leave_stderr_open
from shearbench.frameworks.numpy_network import Dense, Flatten, NumpyNetwork, Relu

Array = NDArray[np.floating]
Forward = Callable[[Array], Array]

NORMALIZER = "label_normalizer.npz"
"""File with the mean and the standard deviation of the training's targets, of later versions of ShearNet."""


def read_checkpoint(folder: str | os.PathLike[str]) -> dict[str, dict[str, Array]]:
    """Return the weights in a checkpoint: kernel and bias of each layer, by its name in Flax.

    Parameters
    ----------
    folder : path-like
        The folder that has ``_METADATA``.

    Raises
    ------
    ShearbenchError
        The folder is not a checkpoint that Orbax can read, or it has no weights of dense or convolutional
        layers.
    """
    import jax
    import orbax.checkpoint as orbax

    path = Path(folder).absolute()
    if not (path / "_METADATA").is_file():
        raise ShearbenchError(
            f"{folder}: there is no file _METADATA, so this is not the folder of a checkpoint of ShearNet; "
            "name the folder that flax.training.checkpoints made, such as model_checkpoint/cnn1100"
        )
    leave_stderr_open()
    # Arrays are read as NumPy's, wherever they were when they were saved: on a GPU that is not here, too.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader = orbax.PyTreeCheckpointer()
            tree = reader.metadata(path).item_metadata.tree
            plain = jax.tree.map(lambda _: orbax.RestoreArgs(restore_type=np.ndarray), tree)
            content = reader.restore(path, restore_args=plain)
    except Exception as error:
        first = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise ShearbenchError(f"{folder}: Orbax cannot read this checkpoint ({first})") from error
    found = content.get("params") or {}
    layers = found.get("params", found)
    if not layers or not all(isinstance(one, Mapping) and "kernel" in one for one in layers.values()):
        raise ShearbenchError(
            f"{folder}: its layers are {', '.join(layers) or 'none'}; expected those of ShearNet's `cnn` "
            "(Conv_0, Conv_1, Dense_0, Dense_1) or `mlp` (Dense_0, Dense_1, Dense_2)"
        )
    return {name: {part: np.asarray(value) for part, value in one.items()} for name, one in layers.items()}


def network_of(
    layers: Mapping[str, Mapping[str, Array]], shape: tuple[int, int], source: str = "checkpoint"
) -> Forward:
    """Return the network of a checkpoint, as a function from stamps (n, ny, nx) to its outputs.

    Parameters
    ----------
    layers : mapping
        From `read_checkpoint`.
    shape : (int, int)
        Rows and columns of the stamps.
    source : str
        The checkpoint, named in errors.

    Raises
    ------
    ShearbenchError
        It is another architecture, or it was trained on stamps of another size.
    """
    pixels = shape[0] * shape[1]
    first = layers.get("Conv_0", {}).get("kernel")
    if first is not None and first.shape[2] != 1:
        raise ShearbenchError(
            f"{source}: the kernels of Conv_0 have {first.shape[2]} input channels, expected 1. An early "
            "version of ShearNet took the columns of a stamp for channels and the galaxies of a batch for "
            "rows, so its answer for a galaxy depends on the others of its batch"
        )
    if set(layers) == {"Conv_0", "Conv_1", "Dense_0", "Dense_1"}:
        width, hidden = layers["Conv_0"]["kernel"].shape[3], layers["Dense_0"]["kernel"].shape[1]
        sizes = Sizes(shape, width, hidden, outputs=layers["Dense_1"]["kernel"].shape[1])
        named = zip(("convolution1", "convolution2", "dense1", "dense2"), sorted(layers))
        weights = {
            f"{name}.{part}": layers[layer][part] for name, layer in named for part in ("kernel", "bias")
        }
        differ = {name for name, one in sizes.weights.items() if one != weights[name].shape}
        if differ - {"dense1.kernel"}:
            raise ShearbenchError(f"{source}: {_listed(layers)}, which is not ShearNet's `cnn`")
        if differ:
            raise _of_another_size(source, shape)
        return NumpyNetwork(sizes, weights, "float32").forward
    if set(layers) == {"Dense_0", "Dense_1", "Dense_2"}:
        if layers["Dense_0"]["kernel"].shape[0] != pixels:
            raise _of_another_size(source, shape)
        dense = [
            Dense(np.asarray(one["kernel"]), np.asarray(one["bias"])) for _, one in sorted(layers.items())
        ]
        steps = [Flatten(), dense[0], Relu(), dense[1], Relu(), dense[2]]

        def forward(images: Array) -> Array:
            x = np.asarray(images, np.float32)
            for step in steps:
                x = step.forward(x)
            return x

        return forward
    raise ShearbenchError(
        f"{source}: {_listed(layers)}; only ShearNet's `cnn` (Conv_0, Conv_1, Dense_0, Dense_1) and `mlp` "
        "(Dense_0, Dense_1, Dense_2) can be read"
    )


def shapes_of(folder: str | os.PathLike[str], shape: tuple[int, int]) -> Forward:
    """Return the network of a checkpoint, as a function from stamps (n, ny, nx) to shapes (n, 2).

    The stamps are not scaled, as in ShearNet. The first two outputs are g1 and g2; with a `NORMALIZER` in the
    folder they are scaled back.

    Raises
    ------
    ShearbenchError
        As for `read_checkpoint` and `network_of`.
    """
    forward = network_of(read_checkpoint(folder), shape, str(folder))
    scale: Mapping[str, Any] = {"mean": np.zeros(2), "std": np.ones(2)}
    path = Path(folder, NORMALIZER)
    if path.exists():
        with np.load(path) as file:
            scale = {name: np.asarray(file[name], float) for name in ("mean", "std")}
    return lambda images: forward(images)[:, :2] * scale["std"][:2] + scale["mean"][:2]


def _listed(layers: Mapping[str, Mapping[str, Array]]) -> str:
    return "its layers are " + ", ".join(f"{name} {one['kernel'].shape}" for name, one in layers.items())


def _of_another_size(source: str, shape: tuple[int, int]) -> ShearbenchError:
    return ShearbenchError(
        f"{source}: it was trained on stamps of another size than {shape[0]} by {shape[1]} pixels; set "
        "stamps.size_pixels to the size of its training (ShearNet's own is 53)"
    )
