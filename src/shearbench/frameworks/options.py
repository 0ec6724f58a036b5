"""The section `frameworks` of a configuration. Importing this module imports none of the frameworks."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from shearbench.options import Distinct, Name, Options, Seed

NetworkName = Literal["numpy", "numpy-float64", "torch", "jax", "keras", "keras-skip"]


@dataclass(frozen=True)
class Network:
    """A network of `Frameworks.networks`.

    Attributes
    ----------
    framework : {'numpy', 'torch', 'jax', 'keras'}
    label : str
        Its name in figures.
    precision : {'float32', 'float64'}
        Arithmetic of its training and of its measurements.
    skip : bool
        Whether it has a skip connection.
    packages : tuple of str
        Packages that it needs beyond those of shearbench.
    """

    framework: Literal["numpy", "torch", "jax", "keras"]
    label: str
    precision: Literal["float32", "float64"] = "float32"
    skip: bool = False
    packages: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """The module of its class."""
        return f"shearbench.frameworks.{self.framework}_network"

    @property
    def class_name(self) -> str:
        """The name of its class."""
        return f"{self.framework.capitalize()}Network"


NETWORKS: dict[NetworkName, Network] = {
    "numpy": Network("numpy", "NumPy"),
    "numpy-float64": Network("numpy", "NumPy, float64", "float64"),
    "torch": Network("torch", "PyTorch"),
    "jax": Network("jax", "JAX (Flax)", packages=("jax", "flax", "optax")),
    "keras": Network("keras", "Keras", packages=("jax", "keras")),
    "keras-skip": Network("keras", "Keras, skip connection", skip=True, packages=("jax", "keras")),
}
"""The networks that a configuration can name."""
assert tuple(NETWORKS) == get_args(NetworkName)

CHECKPOINT_PACKAGES = ("jax", "orbax.checkpoint")
"""Packages with which checkpoints of ShearNet are read."""


class Checkpoint(Options):
    """A network that was trained with ShearNet itself."""

    folder: str = Field(
        min_length=1,
        description="folder of the checkpoint, in the format of Flax and Orbax; it is only read. It may also "
        "have the `label_normalizer.npz` of the training",
    )


class Frameworks(Options):
    """The comparison of frameworks (docs/frameworks.md)."""

    networks: Annotated[tuple[NetworkName, ...], Distinct] = Field(
        ("numpy", "torch", "jax", "keras"),
        min_length=1,
        description="networks that are trained. All have the same layers, initial weights and batches; "
        "`numpy-float64` computes with 64 bits, `keras-skip` has a skip connection too. `numpy` must be one "
        "of them. A network whose packages are not installed is left out with a message",
    )
    width: int = Field(
        16, ge=1, le=1000, description="channels of the first convolution; the second has twice as many"
    )
    hidden: int = Field(128, ge=1, le=10**4, description="units of the first dense layer")
    pooling: Literal["average", "max"] = Field(
        "average", description="how a square of 2x2 pixels becomes one, after each convolution"
    )
    seeds: Annotated[tuple[Seed, ...], Distinct] = Field(
        (1,), min_length=1, description="seeds of initial weights and batches: all are trained with each"
    )
    galaxies: Annotated[int, Field(ge=1, le=10**9)] | None = Field(
        None, description="number of training galaxies, the first ones of the split; null: all"
    )
    epochs: int = Field(
        10, ge=1, le=10**5, description="number of epochs; in each, every galaxy has noise of its own"
    )
    batch_size: int = Field(64, ge=1, le=10**6, description="galaxies in a training step")
    learning_rate: float = Field(
        2e-3, gt=0, le=1, description="learning rate of Adam; it falls to zero as a cosine"
    )
    checkpoints: dict[Name, Checkpoint] = Field(
        default_factory=dict,
        description="networks trained with ShearNet, by the name that they get: each is `{folder: ...}`, the "
        "folder of its checkpoint. Their stamps must have the size of this run's",
    )

    @property
    def trainings(self) -> list[tuple[NetworkName, int]]:
        """The networks to train, each with a seed."""
        return [(name, seed) for name in self.networks for seed in self.seeds]

    @model_validator(mode="after")
    def _check(self) -> Frameworks:
        if "numpy" not in self.networks:
            raise ValueError(f"networks: found {list(self.networks)}; numpy must be one of them")
        for name in self.checkpoints:
            if name in NETWORKS:
                raise ValueError(f"checkpoints: '{name}' is the name of a framework's network; rename it")
        return self


def unavailable(section: Frameworks | None) -> dict[str, str]:
    """Return the networks of a section that cannot be made on this machine, with the reasons."""
    if section is None:
        return {}
    needs: dict[str, tuple[str, ...]] = {name: NETWORKS[name].packages for name in section.networks}
    needs.update(dict.fromkeys(section.checkpoints, CHECKPOINT_PACKAGES))
    reasons = {}
    for name, packages in needs.items():
        missing = [package for package in packages if not _is_there(package)]
        if missing:
            reasons[name] = (
                f"{', '.join(missing)} cannot be imported. Install the packages of the frameworks with "
                "`pip install '.[frameworks]'`, or run snakemake with --sdm conda (envs/frameworks.yaml)"
            )
    return reasons


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the package that it is a part of is missing
        return False
