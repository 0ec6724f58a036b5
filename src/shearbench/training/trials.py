"""The trials of a search, run with Optuna. Several jobs may share them, and a kill loses no finished one.

The record of all trials is a file, Optuna's journal, to which each job appends. Optuna locks it by a marker
file made with ``O_EXCL``, which file servers support (NFS from version 3 on); a marker that a killed process
left is removed after half a minute.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from shearbench.errors import ConfigError, ShearbenchError
from shearbench.jobs.locks import lock
from shearbench.training.search import Dimension, Search, recipe_of, values_of, variant_of
from shearbench.training.task import Job
from shearbench.training.variants import Variant

Evaluate = Callable[[Variant, Job], float]
"""It trains a variant as the job asks for, and returns the validation loss; NaN if the training diverged."""

ATTEMPTS = 3
"""A trial that was killed is tried again until it has been started this number of times."""
_EARLIEST = 0.25  # fraction of the epochs before which no trial is pruned
_STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "killed"}


class _Lock(JournalFileOpenLock):
    """Optuna's lock of the journal; its holder first cuts off a line that a killed process wrote in part."""

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal = journal

    def acquire(self) -> bool:
        taken = super().acquire()
        with open(self._journal, "rb+") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 1, 0))
            if file.read() not in (b"", b"\n"):
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        return taken


def opened(journal: str | os.PathLike[str], search: Search) -> optuna.Study:
    """Open the record of a search, or begin it.

    Raises
    ------
    ShearbenchError
        The file is damaged.
    """
    path = Path(journal)
    path.parent.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if search.prune_after is not None:
        pruner = optuna.pruners.MedianPruner(n_startup_trials=search.prune_after)
    try:
        storage = JournalStorage(JournalFileBackend(str(path), lock_obj=_Lock(path)))
        return optuna.create_study(
            storage=storage, study_name=search.name, pruner=pruner, load_if_exists=True, direction="minimize"
        )
    except ValueError as error:  # json's error too
        raise ShearbenchError(
            f"{path}: the record of the trials is damaged ({error}). Move it away to search anew"
        ) from None


def run_trials(
    search: Search,
    base: Variant,
    journal: str | os.PathLike[str],
    fingerprint: str,
    evaluate: Evaluate,
    *,
    worker: int = 0,
    workers: int = 1,
    threads: int = 1,
) -> None:
    """Run trials until the budget of the search is spent.

    The first trial has the values of the base, if they are in the space. A trial that was running when a job
    was killed is marked as failed, and another one continues its training from the checkpoint. With one
    worker, the values of all trials follow from the seed and the losses, also after a kill.

    Parameters
    ----------
    search : Search
    base : Variant
    journal : path
        File of the record of all trials. States of trainings are kept beside it.
    fingerprint : str
        Digest of all that a trial depends on.
    evaluate : callable
    worker, workers : int
        Number of this job among those that share the trials, from 0, and how many there are. No two jobs
        have the same number; a second one waits for the first.
    threads : int
        CPU cores of this job.

    Raises
    ------
    ShearbenchError
        The file is damaged.
    Terminated
        The process received SIGTERM or Ctrl-C.
    """
    path = Path(journal)
    study = opened(path, search)
    with _held(path.with_name(f"{path.name}.worker{worker}")):
        with _held(path.with_name(f"{path.name}.next")):
            _recover(study, worker, workers)
        while (trial := _next(study, search, base, path, worker)) is not None:
            _run(trial, study, search, base, path, fingerprint, evaluate, threads)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold a lock, which the system releases when this process ends."""
    with open(path, "ab") as file:
        lock(file, wait=True)
        yield


def _recover(study: optuna.Study, worker: int, workers: int) -> None:
    """Mark the trials of killed jobs as failed, and queue each again: of this worker, or of one that is gone.

    The first worker sees to those of workers that there were more of, and to those without one, which were
    killed when they began.
    """
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        own = trial.user_attrs.get("worker", workers)
        if own == worker or (own >= workers and worker == 0):
            study.tell(trial.number, state=TrialState.FAIL)
            attempt = trial.user_attrs.get("attempt", 1) + 1
            if attempt <= ATTEMPTS:
                study.enqueue_trial(trial.params, user_attrs={"attempt": attempt})


def _next(
    study: optuna.Study, search: Search, base: Variant, journal: Path, worker: int
) -> optuna.Trial | None:
    """Begin the next trial, or return None if the budget is spent."""
    space = {key: distribution(dimension) for key, dimension in search.space.items()}
    with _held(journal.with_name(f"{journal.name}.next")):
        trials = study.get_trials()
        if not trials and (first := values_of(base, search)) is not None:
            study.enqueue_trial({key: search.space[key].label(value) for key, value in first.items()})
            trials = study.get_trials()
        waiting = any(trial.state == TrialState.WAITING for trial in trials)
        began = sum(not _is_retried(trial) for trial in trials)
        if search.trials is not None and began >= search.trials and not waiting:
            return None
        if search.core_minutes is not None and core_minutes(trials) >= search.core_minutes:
            return None
        seed = np.random.SeedSequence([search.seed, worker, began]).generate_state(1)[0]
        # As long as the trials of other jobs run, their values count as bad, so that jobs try different ones.
        study.sampler = optuna.samplers.TPESampler(seed=int(seed), constant_liar=True)
        trial = study.ask(space)
        trial.set_user_attr("worker", worker)
        return trial


def _is_retried(trial: FrozenTrial) -> bool:
    """Return whether a trial was killed, and another one has its values."""
    return trial.state == TrialState.FAIL and trial.user_attrs.get("attempt", 1) < ATTEMPTS


def core_minutes(trials: Sequence[FrozenTrial]) -> float:
    """Return the training time of trials, times the cores of a job [minutes].

    Of a trial that was tried again, only the last attempt counts, whose time contains that of the epochs
    that it continued from.
    """
    return sum(trial.user_attrs.get("core_minutes", 0.0) for trial in trials if not _is_retried(trial))


def _run(
    trial: optuna.Trial,
    study: optuna.Study,
    search: Search,
    base: Variant,
    journal: Path,
    fingerprint: str,
    evaluate: Evaluate,
    threads: int,
) -> None:
    """Train the network of a trial, and record the result."""
    values = plain_values(search, trial.params)
    print(f"trial {trial.number}: {', '.join(f'{key} {value}' for key, value in values.items())}")
    state: Path | None = None
    outcome, loss = "complete", math.nan
    try:
        variant = variant_of(base, values)
        state = journal.with_name(f"{journal.stem}.{variant.network}.pt")
        told = 0

        def watch(history: Sequence[Mapping[str, Any]]) -> None:
            nonlocal told
            for row in history[told:]:
                if math.isfinite(row["validation_loss"]):
                    trial.report(row["validation_loss"], int(row["epoch"]))
            told = len(history)
            if history:
                trial.set_user_attr("epochs", int(history[-1]["epoch"]))
                trial.set_user_attr("core_minutes", history[-1]["seconds"] * threads / 60)
                early = told < math.ceil(_EARLIEST * variant.training.epochs)
                if not early and told < variant.training.epochs and trial.should_prune():
                    raise optuna.TrialPruned

        loss = evaluate(
            variant,
            Job(
                seed=search.seed,
                checkpoint=state,
                fingerprint=fingerprint,
                threads=threads,
                may_diverge=True,
                watch=watch,
            ),
        )
        if not math.isfinite(loss):
            outcome = "diverged"
    except optuna.TrialPruned:
        outcome = "pruned"
    except ConfigError as error:  # two values that do not go together
        outcome = "refused"
        print(f"trial {trial.number} is refused: {error}")
    trial.set_user_attr("outcome", outcome)
    if outcome == "complete":
        study.tell(trial, loss)
    else:
        study.tell(trial, state=TrialState.PRUNED)
    print(
        f"trial {trial.number}: {outcome}{f', validation loss {loss:.5g}' if outcome == 'complete' else ''}"
    )
    if state is not None:
        for path in (state, state.with_name(f"{state.name}.lock")):
            path.unlink(missing_ok=True)


def distribution(dimension: Dimension) -> BaseDistribution:
    """Return the dimension of a space as Optuna takes it."""
    if dimension.values is not None:
        return CategoricalDistribution(list(dimension.choices))
    low, high, step = dimension.low, dimension.high, dimension.step
    assert low is not None
    assert high is not None
    if dimension.whole:
        return IntDistribution(int(low), int(high), log=dimension.log, step=int(step or 1))
    return FloatDistribution(low, high, log=dimension.log, step=step)


def plain_values(search: Search, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a trial for the options, from those in its record."""
    return {
        key: dimension.choices[params[key]] if dimension.values is not None else params[key]
        for key, dimension in search.space.items()
        if key in params
    }


def trials_table(study: optuna.Study, search: Search) -> pd.DataFrame:
    """Return the table of all trials that were started.

    Returns
    -------
    pandas.DataFrame
        A row for each: ``trial``, ``state`` (complete, pruned, diverged, refused, killed),
        ``validation_loss`` (the loss of the best epoch; of other trials than complete ones, the lowest so
        far), ``epochs``, ``core_minutes``, ``worker``, ``attempt``, and the value of each option searched.
    """
    rows = []
    for trial in study.get_trials():
        if trial.state in (TrialState.RUNNING, TrialState.WAITING):
            continue
        # Optuna's value of a trial that ended early is its last loss.
        losses = list(trial.intermediate_values.values())
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            losses = [trial.value]
        rows.append(
            {
                "trial": trial.number,
                "state": trial.user_attrs.get("outcome") or _STATES[trial.state],
                "validation_loss": min(losses, default=math.nan),
                "epochs": trial.user_attrs.get("epochs", 0),
                "core_minutes": trial.user_attrs.get("core_minutes", 0.0),
                "worker": trial.user_attrs.get("worker", -1),
                "attempt": trial.user_attrs.get("attempt", 1),
                **{key: trial.params.get(key) for key in search.space},
            }
        )
    return pd.DataFrame(rows)


def importances(study: optuna.Study) -> pd.DataFrame:
    """Return how much each option matters, by Optuna's default (PED-ANOVA, Watanabe et al. 2023).

    Returns
    -------
    pandas.DataFrame
        ``option`` and ``importance``; these add up to 1. Empty with fewer than 4 complete trials.
    """
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    found = optuna.importance.get_param_importances(study) if len(complete) >= 4 else {}
    return pd.DataFrame({"option": list(found), "importance": [float(value) for value in found.values()]})


def budget(study: optuna.Study) -> dict[str, Any]:
    """Return what a search has used, as the fields of `shearbench.training.variants.Searched`."""
    trials = [trial for trial in study.get_trials() if trial.state.is_finished() and not _is_retried(trial)]
    return {"trials": len(trials), "core_minutes": round(core_minutes(trials), 2)}


def recipe_text(study: optuna.Study, search: Search, base: Variant) -> str:
    """Return the complete trial with the lowest validation loss as a variant, in YAML, with its evidence.

    Raises
    ------
    ShearbenchError
        No trial is complete.
    """
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    if not complete:
        raise ShearbenchError(
            f"search {search.name}: none of the trials is complete; the logs of run_trials say why. Change "
            "the space, or raise the budget, in its file in config/searches"
        )
    best = min(complete, key=lambda trial: trial.values[0])
    used = budget(study)
    first = next(
        (trial for trial in complete if plain_values(search, trial.params) == values_of(base, search)), None
    )
    beside = f"; {search.base} itself: {first.values[0]:.5g}" if first else ""
    lines = [
        f"# The best of {used['trials']} trials ({used['core_minutes']:g} core-minutes) of the search "
        f"{search.name}, on {search.population} with the",
        f"# seed {search.seed}: trial {best.number}, validation loss {best.values[0]:.5g}{beside}.",
        "# A lowest of many is partly luck: train it with other seeds before it is compared.",
        f"# Evidence: metrics/searches/{search.name}/trials.csv, figures/search_{search.name}.pdf",
    ]
    entry = recipe_of(f"{search.name}-searched", base, search, plain_values(search, best.params), used)
    return "\n".join([*lines, yaml.safe_dump(entry, sort_keys=False, width=100, default_flow_style=None)])
