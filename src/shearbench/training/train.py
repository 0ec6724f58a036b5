"""Training of one task with one seed, from its data to the content of its model file."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

from shearbench.errors import ShearbenchError
from shearbench.jobs.gpu_use import recorded_gpu_use
from shearbench.jobs.torch_settings import pick_device, torch_settings
from shearbench.training.checkpoint import Checkpoint, claimed
from shearbench.training.launch import launch
from shearbench.training.loop import Training
from shearbench.training.progress import ProgressLine
from shearbench.training.task import Job, Result, Task
from shearbench.training.tracking import Row, tracked
from shearbench.training.workers import Workers


def train(task: Task, job: Job) -> tuple[dict[str, Any], pd.DataFrame]:
    """Train a network, or continue its training from a checkpoint if there is one.

    On the same machine and with the same number of threads, the same arguments give the same weights bit for
    bit, even if the training was killed and continued.

    Parameters
    ----------
    task : Task
    job : Job

    Returns
    -------
    model : dict
        The content of the model file, see `Task.content`.
    history : pandas.DataFrame
        A row for each epoch: ``epoch``, ``views`` (number of stamps shown so far), ``seconds`` (time of
        training so far [s]), ``learning_rate``, ``train_loss``, the norm of the gradient of the epoch's last
        step (``gradient_norm``, and of each layer, see `shearbench.training.loop.layer_norms`), and the
        columns of `Objective.validate`.

    Raises
    ------
    ShearbenchError
        The training diverged: its loss became infinite or NaN. Not raised with ``job.may_diverge``.
    Terminated
        The process received SIGTERM or Ctrl-C; the state is in the checkpoint.
    ChildProcessError
        One of several processes died.
    """
    identity = {"fingerprint": job.fingerprint, **task.identity}
    own = Checkpoint(job.checkpoint, {**identity, "seed": job.seed})
    others = job.others if job.together > 1 and not task.drops_out() else {}
    candidates = {other: Checkpoint(path, {**identity, "seed": other}) for other, path in others.items()}
    with claimed(own, candidates, job.together - 1) as taken:
        checkpoints = {job.seed: own, **{other: candidates[other] for other in taken}}
        threads = max(1, job.threads // job.gpus)
        if job.gpus > 1:
            return launch(job.gpus, train_share, (task, job, checkpoints, threads), threads)
        return train_share(task, job, checkpoints, threads, Workers(), pick_device())


def train_share(
    task: Task,
    job: Job,
    checkpoints: dict[int, Checkpoint],
    threads: int,
    workers: Workers,
    device: torch.device,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Do the part of one process in a training, which may be the only process.

    Parameters
    ----------
    task : Task
    job : Job
    checkpoints : dict of int to Checkpoint
        The checkpoint of each seed that is trained.
    threads : int
        Number of CPU threads of this process.
    workers : Workers
        All processes of the training.
    device : torch.device
        The device of this process.

    Returns
    -------
    model, history
        As for `train`, of the first seed.
    """
    seeds = list(checkpoints)
    states = [state for c in checkpoints.values() if (state := c.load(device)) is not None]
    noted: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    # A training that was already finished used no GPU, so no file of its use is written.
    if job.gpu_use_path is not None and workers.first and not (states and states[0]["ended"]):
        noted = recorded_gpu_use(job.gpu_use_path)
    curves = tracked(job.tracking if workers.first else None, seeds, job.fingerprint, task.identity)
    with noted, curves as report, torch_settings(threads, seeds[0], device):
        objective = task.start(seeds, device, workers)
        training = Training(objective, task.recipe, seeds, workers)
        if states:
            training.restore(states)
            states.clear()  # they take memory on the device
        label = f"{task.name} seed {' '.join(map(str, seeds))}"
        line = ProgressLine(label, training.total_stamps * len(seeds))

        def told(histories: Sequence[Sequence[Row]]) -> None:
            report(histories)
            if job.watch is not None:
                job.watch(histories[0])

        history = training.run(list(checkpoints.values()), line, told)[0]
        diverged = training.diverged[0]
        if diverged is not None and not job.may_diverge:
            raise _diverged(task, seeds[0], diverged)
        epoch = training.best_epoch(0) if diverged is None else diverged
        result = Result(seeds[0], job.fingerprint, epoch, diverged is not None)
        return task.content(objective, result), history


def _diverged(task: Task, seed: int, epoch: int) -> ShearbenchError:
    recipe = task.recipe
    clip = recipe.gradient_clip
    smaller = "set training.gradient_clip to 1" if clip is None else f"training.gradient_clip (now {clip:g})"
    return ShearbenchError(
        f"variants.{task.name}: the training with seed {seed} diverged: its loss is infinite or NaN at epoch "
        f"{epoch}. Lower training.learning_rate (now {recipe.learning_rate:g}) or {smaller}, "
        f"or raise training.warmup (now {recipe.warmup:g})"
    )
