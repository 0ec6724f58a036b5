"""The model file: the weights of a network and everything needed to use them, as data without code."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError

import shearbench
from shearbench.errors import ContractError, ShearbenchError
from shearbench.files.origin import Origin
from shearbench.networks import architecture_kinds
from shearbench.tasks.shear.network import ShearNetwork
from shearbench.training.checkpoint import check_format, load, save
from shearbench.training.variants import Variant

RULE = "train"
FORMAT = "shearbench network 1"


@dataclass
class TrainedNetwork:
    """A network ready to measure shapes.

    Attributes
    ----------
    network : ShearNetwork
        In evaluation mode, on the CPU.
    about : dict
        The content of the model file without the weights: ``architecture, options, shape, per_galaxy_psf,
        pixel_scale`` [arcsec], ``population, variant, seed, fingerprint, training, epoch, diverged,
        parameters`` (number of weights), ``versions``.
    """

    network: ShearNetwork
    about: dict[str, Any]


def model_content(
    network: ShearNetwork,
    variant: Variant,
    *,
    name: str,
    seed: int,
    fingerprint: str,
    shape: tuple[int, int],
    pixel_scale: float,
    population: str,
    epoch: int,
    diverged: bool = False,
) -> dict[str, Any]:
    """Return the content of a model file, as plain values and tensors on the CPU.

    Parameters
    ----------
    network : ShearNetwork
    variant : Variant
    name : str
        Name of the variant.
    seed : int
        Seed of the training.
    fingerprint : str
        A digest of everything that the training depended on.
    shape : (int, int)
        Rows and columns of a stamp.
    pixel_scale : float
        Pixel scale [arcsec].
    population : str
        Name of the population.
    epoch : int
        The epoch of the weights: the best one, or the one after which the training diverged.
    diverged : bool
        Whether the loss became infinite or NaN, so that the weights are of no use.
    """
    return {
        "format": FORMAT,
        "architecture": variant.architecture,
        "options": variant.options,
        "training": variant.training.model_dump(mode="json"),
        "shape": tuple(shape),
        "per_galaxy_psf": network.per_galaxy_psf,
        "pixel_scale": pixel_scale,
        "population": population,
        "variant": name,
        "seed": seed,
        "fingerprint": fingerprint,
        "epoch": epoch,
        "diverged": diverged,
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "versions": {"shearbench": shearbench.__version__, "torch": str(torch.__version__)},
        "state": {key: value.detach().cpu().clone() for key, value in network.state_dict().items()},
    }


def save_model(path: str | os.PathLike[str], content: dict[str, Any], origin: Origin | None = None) -> None:
    """Write a model file, completely or not at all; equal content gives equal bytes."""
    save(path, content, origin)


def fingerprint_of(path: str | os.PathLike[str]) -> str | None:
    """Return the digest of everything that a model's training depended on, or None if there is no such file.

    A file that cannot be read gives None too.
    """
    try:
        return load(path, RULE)["fingerprint"]
    except Exception:  # as in `load_model`
        return None


def load_model(
    path: str | os.PathLike[str],
    expect_variant: str | None = None,
    expect_population: str | None = None,
    expect_seed: int | None = None,
    expected: Origin | None = None,
) -> TrainedNetwork:
    """Read a model file.

    Parameters
    ----------
    path : path-like
    expect_variant, expect_population : str, optional
        Names of the variant and the population that the model must have.
    expect_seed : int, optional
        The seed that the model must have.
    expected : Origin, optional
        The origin that the file must have.

    Returns
    -------
    TrainedNetwork

    Raises
    ------
    ContractError
        The file is damaged, has another origin, is not a model file, or contains another model.
    """
    try:
        content = load(path, RULE, expected)
    except (ShearbenchError, OSError):
        raise
    except Exception as error:  # torch raises whatever its zip and pickle readers raise
        raise ContractError.of(path, "file", f"unreadable ({error})", "a model", RULE) from error
    check_format(content, FORMAT, path, RULE)
    wanted = {"variant": expect_variant, "population": expect_population, "seed": expect_seed}
    for field, value in wanted.items():
        if value is not None and content.get(field) != value:
            raise ContractError.of(path, field, repr(content.get(field)), repr(value), RULE)
    try:
        architecture = architecture_kinds()[content["architecture"]](**content["options"])
        with torch.random.fork_rng([]):
            network = ShearNetwork(
                architecture, tuple(content["shape"]), content["pixel_scale"], content["per_galaxy_psf"]
            )
        for name in ("error_sigma", "error_snr", "error"):
            setattr(network, name, torch.zeros_like(content["state"][name]))
        network.load_state_dict(content["state"])
        for name in ("population", "variant", "seed", "fingerprint", "diverged"):
            content[name]
    except KeyError as error:
        raise ContractError.of(path, f"field {error}", "nothing", "a value", RULE) from error
    except (RuntimeError, ValidationError, TypeError) as error:
        raise ContractError.of(
            path, "state", f"weights of another network ({error})", "its own", RULE
        ) from error
    return TrainedNetwork(network.eval(), {key: value for key, value in content.items() if key != "state"})
