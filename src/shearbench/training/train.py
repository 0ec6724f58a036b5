"""Training of one network, from stamps to model file."""

from __future__ import annotations

import os
from typing import Any

import pandas as pd
import torch

from shearbench.errors import ConfigError
from shearbench.networks import Variant
from shearbench.shear_network import ShearNetwork
from shearbench.stamps import StampSet
from shearbench.training.checkpoint import Checkpoint
from shearbench.training.data import load_examples
from shearbench.training.loop import Training, evaluate
from shearbench.training.model_file import model_content
from shearbench.training.progress import ProgressLine
from shearbench.training.settings import pick_device, torch_settings


def train(
    train_stamps: StampSet,
    validation_stamps: StampSet,
    train_catalog: pd.DataFrame,
    validation_catalog: pd.DataFrame,
    variant: Variant,
    *,
    name: str,
    seed: int,
    checkpoint: str | os.PathLike[str] | None = None,
    fingerprint: str = "",
    threads: int = 1,
    device: torch.device | None = None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Train a network; go on from a checkpoint of the same training where there is one.

    The same arguments give the same weights, bit for bit, on one machine with one number of threads, also
    when the training was killed in between.

    Parameters
    ----------
    train_stamps, validation_stamps : StampSet
    train_catalog, validation_catalog : pandas.DataFrame
        Their catalogs, with the true ``g1, g2``.
    variant : Variant
    name : str
        The variant's, for the model file and the progress line.
    seed : int
        Of the weights at the start, the order of the stamps, their noise and turns.
    checkpoint : path-like, optional
        File for the state, rewritten after each epoch and at SIGTERM. The caller removes it when it has the
        results in safety. It must lie outside outputs that a workflow clears.
    fingerprint : str
        A digest of all that the training depends on: a checkpoint is used only if it has the same.
    threads : int
        CPU threads.
    device : torch.device, optional
        The GPU that is visible, or the CPU, by default.

    Returns
    -------
    model : dict
        See `shearbench.training.model_file`.
    history : pandas.DataFrame
        A row for each epoch: ``epoch, views`` (stamps shown so far), ``seconds, learning_rate``,
        ``train_loss`` and ``validation_loss`` (geometric mean over noise levels of the RMSE, over that of
        predicting zero), and ``validation_rmse`` (per component, at the lowest noise level).

    Raises
    ------
    ContractError
        Stamps and catalog do not belong together, or have bad pixels.
    ConfigError
        The architecture or recipe does not go with stamps of this size, or with so few.
    Terminated
        SIGTERM came; the checkpoint holds the state.
    """
    device = pick_device() if device is None else device
    shape, architecture = train_stamps.shape, variant.make()
    problem = architecture.refuses(shape) or variant.training.refuses(len(train_stamps))
    if (
        problem is None
        and (variant.training.d4 or architecture.symmetrise != "never")
        and shape[0] != shape[1]
    ):
        problem = f"stamps of {shape[0]} by {shape[1]} pixels cannot be turned by 90 degrees"
    if problem is not None:
        raise ConfigError(f"variants.{name}: {problem}")
    with torch_settings(threads, seed, device):
        examples = load_examples(train_stamps, train_catalog, device)
        validation = load_examples(validation_stamps, validation_catalog, device)
        network = ShearNetwork(architecture, shape, not train_stamps.constant_psf).to(device)
        network.fit_scaling(examples.images, examples.psf, examples.shapes)
        identity = {"fingerprint": fingerprint, "seed": seed, "variant": variant.model_dump(mode="json")}
        training = Training(network, examples, validation, variant.training, seed)
        line = ProgressLine(f"{name} seed {seed}", training.total_stamps)
        history = training.run(Checkpoint(checkpoint, identity), line)
        _calibrate(network, training, variant.training.validation_levels)
    content = model_content(
        network,
        variant,
        name=name,
        seed=seed,
        fingerprint=fingerprint,
        shape=shape,
        pixel_scale=train_stamps.pixel_scale,
        population=train_stamps.population,
        epoch=int(history["epoch"].iloc[history["validation_loss"].argmin()]),
    )
    return content, history


def _calibrate(network: ShearNetwork, training: Training, sigmas: list[float]) -> None:
    """Measure the errors, with other noise than that by which the best epoch was chosen."""
    measured = [
        evaluate(network, training.validation, sigma, len(sigmas) + level)
        for level, sigma in enumerate(sigmas)
    ]
    network.calibrate(sigmas, [residual for residual, _ in measured], [snr for _, snr in measured])
