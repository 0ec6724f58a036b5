"""Training curves in TensorBoard, Weights & Biases and MLflow, read back with the real packages, offline."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from test_task import FluxTask

from shearbench.errors import ShearbenchError
from shearbench.training import loop, tracking
from shearbench.training.task import Job
from shearbench.training.tracking import Tracking, tracked
from shearbench.training.train import train

TRACKERS = ("tensorboard", "wandb", "mlflow")


class Stopped(Exception):
    pass


def curves(tracker: str, folder: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Return (epoch, value) of each number of each curve."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    if tracker == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        for place in {path.parent for path in folder.rglob("*tfevents*")}:
            events = EventAccumulator(str(place))
            events.Reload()
            name = str(place.relative_to(folder / tracker))
            tags = events.Tags()["scalars"]
            found[name] = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}
    elif tracker == "wandb":
        from wandb.proto import wandb_internal_pb2

        for path in sorted(folder.rglob("*.wandb")):
            name, own = path.stem.removeprefix("run-"), dict[str, list[tuple[int, float]]]()
            for data in records(path.read_bytes()):
                record = wandb_internal_pb2.Record()
                record.ParseFromString(data)
                items = record.history.item
                row = {item.key or ".".join(item.nested_key): float(item.value_json) for item in items}
                for key, value in row.items():
                    own.setdefault(key, []).append((int(row["epoch"]), value))
            for key, values in own.items():
                found.setdefault(name, {}).setdefault(key, []).extend(values)
    else:
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow/mlflow.db")
        (experiment,) = (one for one in client.search_experiments() if one.name == "tiny")
        for run in client.search_runs([experiment.experiment_id]):
            found[run.info.run_name] = {
                key: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, key)]
                for key in run.data.metrics
            }
    return found


def records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a file in LevelDB's log format, in which wandb keeps what it did not upload."""
    place, whole = 7, b""  # after wandb's own header
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # the end of a block is filled with zeros
            place += 32768 - place % 32768
        length, kind = struct.unpack_from("<HB", data, place + 4)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield whole
            whole = b""


def job(tracker: str, folder: Path, **more) -> Job:
    return Job(
        1, tracking=Tracking(tracker, str(folder), "tiny", "flat/dense"), fingerprint="abcdef0123", **more
    )


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_resumed_training_continues_its_curve(tracker, tmp_path, monkeypatch):
    if problem := tracking.missing_package(tracker):
        pytest.skip(problem)
    whole, history = train(FluxTask(), Job(seed=1))
    save, folder = loop.Training._save, tmp_path / "tracking"

    def save_and_stop(training, checkpoints):
        save(training, checkpoints)
        if training.step == 3 * training.epoch_steps:
            raise Stopped

    with monkeypatch.context() as patch:
        # The third epoch is saved and not written: as by a kill between the two.
        patch.setattr(loop.Training, "_save", save_and_stop)
        with pytest.raises(Stopped):
            train(FluxTask(), job(tracker, folder, checkpoint=tmp_path / "1.pt"))
    model, _ = train(FluxTask(), job(tracker, folder, checkpoint=tmp_path / "1.pt"))
    # The job starts once more after its end, as when several trainings share a job.
    train(FluxTask(), job(tracker, folder, checkpoint=tmp_path / "1.pt"))
    ((name, curve),) = curves(tracker, folder).items()
    assert name.replace("/", "-") == "flat-dense-seed1-abcdef01"
    for column in set(history) - {"seconds"}:
        epochs, values = zip(*curve[column.replace(" of ", "/") if tracker == "tensorboard" else column])
        assert epochs == (1, 2, 3, 4, 5, 6), column
        assert values == pytest.approx(history[column], rel=1e-6), column
    # Nothing of it changes the training.
    assert all(torch.equal(value, whole["state"][key]) for key, value in model["state"].items())


def test_nothing_is_imported_where_the_option_is_off(tmp_path, monkeypatch):
    for name in (*TRACKERS, "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)  # an import of it raises ImportError
    train(FluxTask(), job("none", tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_and_a_failing_writer_stops_no_training(tmp_path, monkeypatch, capsys):
    where = Tracking("wandb", str(tmp_path), "r", "n")
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ShearbenchError, match=r"tracking: 'wandb' needs .*pip install '\.\[wandb\]'"):
            tracked(where, [1], "f", {}).__enter__()

    class Broken(tracking._Wandb):
        def open(self):
            raise OSError("no network")

    monkeypatch.setitem(tracking._CURVES, "wandb", Broken)
    monkeypatch.setattr(tracking, "missing_package", lambda tracker: None)
    with tracked(where, [1], "f", {}) as report:
        report([[{"epoch": 1, "train_loss": 0.5}]])
        report([[{"epoch": 1, "train_loss": 0.5}, {"epoch": 2, "train_loss": 0.4}]])
    assert capsys.readouterr().err == "tracking: OSError: no network; the training goes on without\n"


def test_a_curve_has_all_numbers_of_the_record(tmp_path, monkeypatch):
    """Whatever a task or the loop records, such as the norm of the gradient of each layer."""
    written = []

    class Kept(tracking._TensorBoard):
        def open(self):
            return self

        def write(self, row, step):
            written.append((step, row))

        flush = end = lambda self: None

    monkeypatch.setitem(tracking._CURVES, "tensorboard", Kept)
    monkeypatch.setattr(tracking, "missing_package", lambda tracker: None)
    _, history = train(FluxTask(), job("tensorboard", tmp_path))
    assert pd.DataFrame([row for _, row in written]).equals(history.astype(float))
    assert [step for step, _ in written] == history["epoch"].tolist()


@pytest.mark.parametrize("tracker", TRACKERS)
def test_each_epoch_has_a_figure_of_its_validation(tracker, tmp_path):
    if problem := tracking.missing_package(tracker):
        pytest.skip(problem)
    history = [
        {"epoch": k, f"{tracking.AT_LEVEL}1e-05": 0.1 / k, f"{tracking.AT_LEVEL}0.1": 0.2} for k in (1, 2)
    ]
    for length in (1, 2):  # the training is stopped between the two, and resumed
        with tracked(Tracking(tracker, str(tmp_path), "tiny", "flat/dense"), [1], "f", {}) as report:
            report([history[:length]])
    if tracker == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        (place,) = {path.parent for path in tmp_path.rglob("*tfevents*")}
        events = EventAccumulator(str(place))
        events.Reload()
        assert [one.step for one in events.Images("validation")] == [1, 2]
    elif tracker == "wandb":
        assert len(list(tmp_path.rglob("validation*.png"))) == 2
    else:
        assert sorted(path.name for path in tmp_path.rglob("*.png")) == ["epoch00001.png", "epoch00002.png"]
