"""The model file: weights and everything needed to use them, and nothing that runs."""

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
from shearbench.training.checkpoint import load, save
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
        All of the model file but the weights: ``architecture, options, shape, per_galaxy_psf, pixel_scale,
        population, variant, seed, fingerprint, training, epoch, diverged, parameters, versions``.
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
    """Return what the model file holds, as plain values and tensors on the CPU.

    Parameters
    ----------
    network : ShearNetwork
    variant : Variant
    name : str
        The variant's.
    seed : int
        Of the training.
    fingerprint : str
        The caller's digest of what the training depended on.
    shape : (int, int)
        Rows and columns of a stamp.
    pixel_scale : float
        Arcsec.
    population : str
    epoch : int
        The epoch that the weights are of: the best one, or that after which the training diverged.
    diverged : bool
        Whether the loss did not stay finite: the weights are of no use.
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
    """Write a model file whole or not at all; equal content gives equal bytes."""
    save(path, content, origin)


def fingerprint_of(path: str | os.PathLike[str]) -> str | None:
    """Return what a model's training depended on, or None where there is no model to be read."""
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
        What the model must be of.
    expect_seed : int, optional
        The seed it must be trained with.
    expected : Origin, optional
        What the file must be.

    Returns
    -------
    TrainedNetwork

    Raises
    ------
    ContractError
        The file is damaged or of another origin, is no model, or is another model than expected.
    """
    try:
        content = load(path, RULE, expected)
    except (ShearbenchError, OSError):
        raise
    except Exception as error:  # torch raises whatever its zip and pickle readers raise
        raise ContractError.of(path, "file", f"unreadable ({error})", "a model", RULE) from error
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if found != FORMAT:
        raise ContractError.of(path, "format", repr(found), repr(FORMAT), RULE)
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
