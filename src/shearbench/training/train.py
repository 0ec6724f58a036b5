"""Training of one network, from stamps to model file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch

from shearbench.errors import ConfigError, ShearbenchError
from shearbench.gpu_use import gpu_use as gpu_use_of
from shearbench.networks import Variant, architecture_for
from shearbench.networks.base import Architecture
from shearbench.populations import Population
from shearbench.shear_network import ShearNetwork
from shearbench.stamps import StampSet
from shearbench.training.checkpoint import Checkpoint, claimed
from shearbench.training.data import Rendered, Source, Stored, load_examples
from shearbench.training.launch import launch
from shearbench.training.loop import Training, evaluate
from shearbench.training.model_file import model_content
from shearbench.training.progress import ProgressLine
from shearbench.training.recipe import Recipe
from shearbench.training.settings import pick_device, torch_settings
from shearbench.training.workers import Workers


def train(
    train_stamps: StampSet,
    validation_stamps: StampSet,
    train_catalog: pd.DataFrame,
    validation_catalog: pd.DataFrame,
    variant: Variant,
    *,
    population: Population,
    name: str,
    seed: int,
    checkpoint: str | os.PathLike[str] | None = None,
    fingerprint: str = "",
    threads: int = 1,
    gpus: int = 1,
    others: Mapping[int, str | os.PathLike[str]] | None = None,
    together: int = 1,
    gpu_use: str | os.PathLike[str] | None = None,
    may_diverge: bool = False,
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
    population : Population
        What the stamps are of: fresh galaxies are drawn from it where the recipe's data are `rendered`.
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
    gpus : int
        Processes among which every batch is shared, each on a GPU of its own; on the CPU where there are
        none. They share the threads. The weights differ from those of one process by rounding, and a
        checkpoint may be taken up by another number.
    others : mapping of int to path-like, optional
        Seeds that are not trained yet either, and the files of their states.
    together : int
        How many seeds to train in the same steps, all networks computed as one: of the others, the first that
        are at the same step and that no other process has. Their states are left for their own calls, which
        have nothing to do but to end. A network that drops out is trained alone: its masks would be others.
        The steps differ from those of a training alone by rounding, of which SOAP makes another, equally
        good training.
    gpu_use : path-like, optional
        Where to note how much of its GPU the first of them used, see `shearbench.gpu_use`.
    may_diverge : bool
        Return a training whose loss does not stay finite, and say so in the model (``diverged``), as a study
        asks; by default it is an error.

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
    ShearbenchError
        The training diverged: its loss did not stay finite.
    ContractError
        Stamps and catalog do not belong together, or have bad pixels.
    ConfigError
        See `architecture_for`; or PSFs are not what the forward model takes.
    Terminated
        SIGTERM or Ctrl-C came; the checkpoint holds the state.
    ChildProcessError
        One of several processes died.
    """
    architecture = architecture_for(name, variant, population, train_stamps.shape, len(train_stamps))
    identity = {"fingerprint": fingerprint, "variant": variant.model_dump(mode="json")}
    own = Checkpoint(checkpoint, {**identity, "seed": seed})
    candidates = {}
    if together > 1 and not _drops_out(architecture, train_stamps):
        candidates = {
            other: Checkpoint(path, {**identity, "seed": other}) for other, path in (others or {}).items()
        }
    with claimed(own, candidates, together - 1) as taken:
        arguments: dict[str, Any] = {
            "train_stamps": train_stamps,
            "validation_stamps": validation_stamps,
            "train_catalog": train_catalog,
            "validation_catalog": validation_catalog,
            "variant": variant,
            "architecture": architecture,
            "population": population,
            "name": name,
            "checkpoints": {seed: own, **{other: candidates[other] for other in taken}},
            "fingerprint": fingerprint,
            "threads": max(1, threads // gpus),
            "gpu_use": gpu_use,
            "may_diverge": may_diverge,
        }
        if gpus > 1:
            return launch(gpus, arguments)
        return train_share(**arguments, workers=Workers(), device=pick_device())


def _drops_out(architecture: Architecture, stamps: StampSet) -> bool:
    with torch.random.fork_rng([]):
        network = ShearNetwork(architecture, stamps.shape, stamps.pixel_scale, not stamps.constant_psf)
    return network.drops_out


def train_share(
    train_stamps: StampSet,
    validation_stamps: StampSet,
    train_catalog: pd.DataFrame,
    validation_catalog: pd.DataFrame,
    variant: Variant,
    architecture: Architecture,
    population: Population,
    name: str,
    checkpoints: dict[int, Checkpoint],
    fingerprint: str,
    threads: int,
    gpu_use: str | os.PathLike[str] | None,
    may_diverge: bool,
    workers: Workers,
    device: torch.device,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Be one of the processes of a training, or the only one: see `train`.

    Parameters
    ----------
    architecture : Architecture
        The variant's, adapted to the population.
    checkpoints : dict of int to Checkpoint
        For each seed; what is returned is of the first.
    threads : int
        CPU threads of this process.
    workers : Workers
    device : torch.device
        Of this process.
    """
    seeds = list(checkpoints)
    states = [state for c in checkpoints.values() if (state := c.load(device)) is not None]
    noted: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    # What only ends has used nothing.
    if gpu_use is not None and workers.first and not (states and states[0]["ended"]):
        noted = gpu_use_of(gpu_use)
    with noted, torch_settings(threads, seeds[0], device):
        training = prepare(
            train_stamps,
            validation_stamps,
            train_catalog,
            validation_catalog,
            variant,
            architecture,
            population,
            name,
            seeds,
            device,
            workers,
        )
        if states:
            training.restore(states)
            states.clear()  # they lie on the device
        line = ProgressLine(f"{name} seed {' '.join(map(str, seeds))}", training.total_stamps * len(seeds))
        history = training.run(list(checkpoints.values()), line)[0]
        network, diverged = training.networks[0], training.diverged[0]
        if diverged is None:
            _calibrate(network, training, variant.training.validation_levels)
        elif not may_diverge:
            raise _diverged(name, seeds[0], diverged, variant.training)
    content = model_content(
        network,
        variant.model_copy(update={"options": architecture.model_dump(mode="json")}),
        name=name,
        seed=seeds[0],
        fingerprint=fingerprint,
        shape=train_stamps.shape,
        pixel_scale=train_stamps.pixel_scale,
        population=train_stamps.population,
        epoch=training.best_epoch(0) if diverged is None else diverged,
        diverged=diverged is not None,
    )
    return content, history


def _diverged(name: str, seed: int, epoch: int, recipe: Recipe) -> ShearbenchError:
    clip = recipe.gradient_clip
    smaller = "set training.gradient_clip to 1" if clip is None else f"training.gradient_clip (now {clip:g})"
    return ShearbenchError(
        f"variants.{name}: the training with seed {seed} diverged: its loss is not finite at epoch {epoch}. "
        f"Lower training.learning_rate (now {recipe.learning_rate:g}) or {smaller}, "
        f"or raise training.warmup (now {recipe.warmup:g})"
    )


def prepare(
    train_stamps: StampSet,
    validation_stamps: StampSet,
    train_catalog: pd.DataFrame,
    validation_catalog: pd.DataFrame,
    variant: Variant,
    architecture: Architecture,
    population: Population,
    name: str,
    seeds: Sequence[int],
    device: torch.device,
    workers: Workers | None = None,
) -> Training:
    """Return the training of some seeds at its start; the other parameters are those of `train_share`."""
    shape, recipe, targets = train_stamps.shape, variant.training, architecture.targets
    examples = load_examples(train_stamps, train_catalog, targets, device)
    validation = load_examples(validation_stamps, validation_catalog, targets, device)
    networks: list[ShearNetwork] = []
    for seed in seeds:
        torch.manual_seed(seed)
        network = ShearNetwork(
            architecture, shape, train_stamps.pixel_scale, not train_stamps.constant_psf
        ).to(device)
        network.fit_scaling(examples.images, examples.psf, examples.parameters)
        (workers or Workers()).take_from_first(network)
        networks.append(network)
    if network.refinement is not None and not network.refinement.draws(examples.psf):
        raise ConfigError(
            f"variants.{name}: options.forward_model: 'mixture' is for PSFs that are Gaussians, and on "
            "these stamps they are not (or are cut off); use fourier"
        )
    count = recipe.epoch_stamps or len(examples)
    source: Source = Stored(examples, count, seeds)
    if recipe.data == "rendered":
        source = Rendered(
            population,
            train_stamps.population,
            train_catalog,
            examples.psf,
            train_stamps.pixel_scale,
            targets,
            count,
            seeds,
        )
    return Training(networks, source, count, validation, recipe, seeds, workers)


def _calibrate(network: ShearNetwork, training: Training, sigmas: list[float]) -> None:
    """Measure the errors, with other noise than that by which the best epoch was chosen."""
    pulls, snrs = [], []
    for level, sigma in enumerate(sigmas):
        residual, error, snr = evaluate(network, training.validation, sigma, len(sigmas) + level)
        pulls.append(residual / error)
        snrs.append(snr)
    network.calibrate(sigmas, pulls, snrs)
