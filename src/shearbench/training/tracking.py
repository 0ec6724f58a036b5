"""Training curves for TensorBoard, Weights & Biases or MLflow, written by the library's own writer.

The option ``tracking`` of a configuration chooses one of them. Nothing is imported if it is ``none``, and
nothing here changes a training: if a writer fails, the training goes on without it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shearbench.errors import ShearbenchError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Tracker = Literal["none", "tensorboard", "wandb", "mlflow"]
Row = Mapping[str, Any]
Report = Callable[[Sequence[Sequence[Row]]], None]

AT_LEVEL = "validation_rmse at "
"""Start of the names of a history's columns for the validation RMSE at each noise level [flux per pixel]."""

_STEP, _FIGURE = "epoch", "validation"
_PACKAGES = {"tensorboard": ("tensorboard",), "wandb": ("wandb",), "mlflow": ("mlflow", "sqlalchemy")}


@dataclass(frozen=True)
class Tracking:
    """Where the curves of a training are written.

    Attributes
    ----------
    tracker : {'none', 'tensorboard', 'wandb', 'mlflow'}
    folder : str
        Folder of the curves of the run; each tracker has a folder in it.
    run : str
        Name of the run: the project of Weights & Biases, the experiment of MLflow.
    name : str
        Name of the training without its seed, such as ``exp_gauss/refined``.
    """

    tracker: Tracker
    folder: str
    run: str
    name: str


def missing_package(tracker: Tracker) -> str | None:
    """Return how to install the package of a tracker if it cannot be imported, else None."""
    if all(importlib.util.find_spec(name) is not None for name in _PACKAGES.get(tracker, ())):
        return None
    return (
        f"tracking: '{tracker}' needs a package that is not installed here: "
        f"pip install '.[{tracker}]', or set tracking to none"
    )


@contextlib.contextmanager
def tracked(
    tracking: Tracking | None, seeds: Sequence[int], fingerprint: str, about: Mapping[str, Any]
) -> Iterator[Report]:
    """Yield a function that writes the epochs of trainings that are not written yet.

    A resumed training continues its curve: the number of epochs that are written is kept in a file. A
    training that starts anew with other options, code or data has another fingerprint, and another curve.

    Parameters
    ----------
    tracking : Tracking, optional
        With None, or the tracker ``none``, the function does nothing.
    seeds : sequence of int
        The seed of each training.
    fingerprint : str
        See `shearbench.training.task.Job`.
    about : mapping
        Plain values that are noted with the curve, such as the options of the network.

    Yields
    ------
    callable
        It takes the history of each training, a list of rows with ``epoch`` and further numbers.

    Raises
    ------
    ShearbenchError
        The package of the tracker is not installed.
    """
    if tracking is None or tracking.tracker == "none":
        yield lambda histories: None
        return
    if problem := missing_package(tracking.tracker):
        raise ShearbenchError(problem)
    curves = [_CURVES[tracking.tracker](tracking, seed, fingerprint, about) for seed in seeds]

    def report(histories: Sequence[Sequence[Row]]) -> None:
        for curve, history in zip(curves, histories, strict=True):
            curve.report(history)

    try:
        yield report
    finally:
        for curve in curves:
            curve.close()


class _Curve(ABC):
    """The curve of one training, opened when the first epoch is written."""

    def __init__(self, tracking: Tracking, seed: int, fingerprint: str, about: Mapping[str, Any]) -> None:
        self.run = tracking.run
        self.folder = Path(tracking.folder, tracking.tracker)
        self.name = f"{tracking.name}/seed{seed}-{fingerprint[:8]}"
        self.about = {"seed": seed, "fingerprint": fingerprint, **about}
        self.place = self.folder / "written" / f"{self.name}.json"
        self.writer: Any = None
        self.works = True
        self.kept = {"rows": 0}  # epochs that are written; and the writer's own name of the curve
        with contextlib.suppress(OSError, ValueError):
            self.kept = json.loads(self.place.read_text(encoding="utf-8"))

    def report(self, history: Sequence[Row]) -> None:
        """Write the epochs of a history that are not written yet."""
        rows = history[self.kept["rows"] :]
        if not rows or not self.works:
            return
        from shearbench.files.writing import atomic  # it imports pyarrow, which planning does not need

        try:
            if self.writer is None:
                self.writer = self.open()
            for count, row in enumerate(rows, self.kept["rows"] + 1):
                self.write({name: float(value) for name, value in row.items()}, int(row[_STEP]))
                self._write_figure(history[:count])
            self.flush()
            self.kept["rows"] = len(history)
            with atomic(self.place) as temporary:
                temporary.write_text(json.dumps(self.kept), encoding="utf-8")
        except Exception as error:  # whatever the library raises
            self.works = False
            print(f"tracking: {type(error).__name__}: {error}; the training goes on without", file=sys.stderr)

    def _write_figure(self, history: Sequence[Row]) -> None:
        """Write the figure of the last epoch, if the task validates at several noise levels."""
        epochs = {int(row[_STEP]): _levels(row) for row in history}
        last = int(history[-1][_STEP])
        if epochs[last]:
            # By its name, so that a change of the figure does not make trainings anew.
            figures = importlib.import_module("shearbench.figures.training")
            self.write_figure(figures.validation(epochs), last)

    def close(self) -> None:
        """Close the writer, if it was opened."""
        if self.writer is not None:
            with contextlib.suppress(Exception):
                self.end()

    @abstractmethod
    def open(self) -> Any:
        """Return the library's writer."""

    @abstractmethod
    def write(self, row: dict[str, float], step: int) -> None:
        """Write the numbers of an epoch."""

    @abstractmethod
    def write_figure(self, figure: Figure, step: int) -> None:
        """Write the figure of an epoch."""

    def flush(self) -> None:  # noqa: B027  (not all writers have something to do)
        """Put onto the disk all that was written."""

    @abstractmethod
    def end(self) -> None:
        """Close the writer."""


class _TensorBoard(_Curve):
    """``tensorboard --logdir results/<run>/tracking/tensorboard``."""

    def open(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(self.folder / self.name))
        writer.add_text("about", f"```\n{json.dumps(self.about, indent=1)}\n```")
        return writer

    def write(self, row: dict[str, float], step: int) -> None:
        for name, value in row.items():
            # TensorBoard puts names with the same beginning, before a slash, into one section.
            self.writer.add_scalar(name.replace(" of ", "/").replace(" at ", "/at "), value, step)

    def write_figure(self, figure: Figure, step: int) -> None:
        self.writer.add_figure(_FIGURE, figure, step)

    def flush(self) -> None:
        self.writer.flush()

    def end(self) -> None:
        self.writer.close()


class _Wandb(_Curve):
    """Offline, unless the environment variable WANDB_MODE says otherwise; ``wandb sync`` uploads it."""

    def open(self) -> Any:
        import wandb

        self.folder.mkdir(parents=True, exist_ok=True)
        return wandb.init(
            project=self.run,
            name=self.name,
            id=self.name.replace("/", "-"),
            dir=str(self.folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            resume="allow",
            config=dict(self.about),
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )

    def write(self, row: dict[str, float], step: int) -> None:
        self.writer.log(row, step=step)

    def write_figure(self, figure: Figure, step: int) -> None:
        import wandb

        self.writer.log({_FIGURE: wandb.Image(figure)}, step=step)

    def end(self) -> None:
        self.writer.finish()


class _Mlflow(_Curve):
    """In ``mlflow.db``, unless the environment variable MLFLOW_TRACKING_URI says otherwise.

    ``mlflow ui --backend-store-uri sqlite:///results/<run>/tracking/mlflow/mlflow.db`` shows it.
    """

    def open(self) -> Any:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self.folder.mkdir(parents=True, exist_ok=True)
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.folder.absolute()}/mlflow.db"
        client = MlflowClient(tracking_uri=uri)
        if "run" not in self.kept:
            with contextlib.suppress(MlflowException):  # it exists, or another job has just made it
                # By default, figures would go to a folder beside the one where the run was started.
                own = None if "MLFLOW_TRACKING_URI" in os.environ else f"{self.folder.absolute()}/figures"
                client.create_experiment(self.run, artifact_location=own)
            experiment = client.get_experiment_by_name(self.run)
            run = client.create_run(experiment.experiment_id, run_name=self.name)
            self.kept["run"] = run.info.run_id
            for name, value in self.about.items():
                client.log_param(run.info.run_id, name, json.dumps(value)[:500])
        return client

    def write(self, row: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(_allowed(name), value, now, step) for name, value in row.items()]
        self.writer.log_batch(self.kept["run"], metrics=metrics)

    def write_figure(self, figure: Figure, step: int) -> None:
        self.writer.log_figure(self.kept["run"], figure, f"{_FIGURE}/epoch{step:05}.png")

    def end(self) -> None:
        self.writer.set_terminated(self.kept["run"])


def _levels(row: Row) -> dict[float, float]:
    """Return the validation RMSE by noise level, of a row of a history."""
    found = {name.removeprefix(AT_LEVEL): value for name, value in row.items() if name.startswith(AT_LEVEL)}
    return {float(level): float(value) for level, value in found.items()}


def _allowed(name: str) -> str:
    """Return a name of a metric in the characters that MLflow allows."""
    return "".join(char if char.isalnum() or char in "_-. :/" else "_" for char in name)


_CURVES: dict[str, type[_Curve]] = {"tensorboard": _TensorBoard, "wandb": _Wandb, "mlflow": _Mlflow}
