"""Running an estimator over a split: order, failures, batches, processes."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from shearbench.data.estimates import read_estimates, write_estimates
from shearbench.data.shapes import Flag, Shapes
from shearbench.data.stamps import StampBatch, StampSet, write_stamps
from shearbench.errors import ContractError, ShearbenchError
from shearbench.estimators import make_estimator
from shearbench.estimators.base import Estimator
from shearbench.files.tables import write_table
from shearbench.measurement.running import measure_stamps

N = 23


class Sums(Estimator):
    """Returns shapes that identify the stamp and its noise."""

    kind: ClassVar[str] = "sums"
    raises_on: tuple[int, ...] = ()
    kills_on: int = -1
    threads: bool = False

    def measure(self, batch: StampBatch) -> Shapes:
        if np.isfinite(batch.images).sum() < batch.images.size:
            raise AssertionError("a bad pixel reached the estimator")
        if np.isin(batch.galaxy_id, self.raises_on).any():
            raise ValueError("no such galaxy")
        if (batch.galaxy_id == self.kills_on).any():
            os._exit(9)
        g1 = batch.images.mean(axis=(1, 2), dtype=np.float64) * 0.01
        g2 = batch.psf.sum(axis=(-2, -1), dtype=np.float64) * 1e-3 * np.ones(len(batch))
        g1 = np.where(batch.galaxy_id == 102, 1.5, g1)
        g2 = np.where(batch.galaxy_id == 104, np.nan, g2)
        threads = np.full(len(batch), float(os.environ.get("OMP_NUM_THREADS", "0")))
        error = np.full(len(batch), 0.1)
        return Shapes(g1, g2, error, error, np.zeros(len(batch), np.int64), {"threads": threads})


class Threes(Sums):
    """Asks for batches of three stamps."""

    sizes: ClassVar[list[int]] = []

    def batch_size(self) -> int | None:
        return 3

    def measure(self, batch: StampBatch) -> Shapes:
        self.sizes.append(len(batch))
        return super().measure(batch)


def _write(folder, cuts=(0, 9, N), psf_each=False):
    rng = np.random.default_rng(5)
    images = rng.normal(size=(N, 6, 8)).astype(np.float32)
    images[7, 2, 3] = np.nan
    images[11, 0, 0] = np.inf
    psf = rng.random((N, 6, 8)).astype(np.float32)
    attributes = {"population": "p", "split": "test", "pixel_scale": 0.2, "catalog_digest": "d"}
    paths = []
    for low, high in pairwise(cuts):
        paths.append(folder / f"{low}.h5")
        block = (images[low:high], psf[low:high] if psf_each else psf[0])
        ids = np.arange(low, high) + 100
        write_stamps(paths[-1], iter([block]), ids, ids + 7, (6, 8), psf_each, attributes)
    return paths


@pytest.fixture
def stamps(tmp_path):
    return StampSet(_write(tmp_path))


def test_every_stamp_has_its_row_and_its_cause(stamps, caplog):
    with caplog.at_level(logging.WARNING):
        table = measure_stamps(Sums(raises_on=(101, 120)), stamps, sigma=0.1, seed=1)
    assert table["galaxy_id"].tolist() == list(range(100, 100 + N))
    flags = dict(zip(table["galaxy_id"], table["flag"]))
    expected = {
        101: Flag.FAILED,
        120: Flag.FAILED,
        102: Flag.OUT_OF_RANGE,
        104: Flag.OUT_OF_RANGE,
        107: Flag.BAD_PIXELS,
        111: Flag.BAD_PIXELS,
    }
    assert {k: v for k, v in flags.items() if v} == {k: int(v) for k, v in expected.items()}
    assert table["flag"].dtype == np.int64
    good = table["flag"] == 0
    assert np.isfinite(table.loc[good, ["g1", "g2", "g1_err", "g2_err", "threads"]].to_numpy()).all()
    assert table.loc[[1, 7], "g1"].isna().all()
    assert (
        "sums raised on 2 of 23 stamps; the first: galaxy_id 101: ValueError: no such galaxy" in caplog.text
    )
    assert table.attrs["n"] == N
    assert table.attrs["kind"] == "sums"
    assert table.attrs["seconds"] > 0


@pytest.mark.parametrize("psf_each", [False, True])
def test_batches_and_cuts_do_not_matter(tmp_path, psf_each):
    answers = []
    for name, cuts, batch in [
        ("a", (0, N), 4),
        ("b", (0, 9, N), 1),
        ("c", (0, 1, 20, N), 100),
        ("d", (0, N), None),
    ]:
        stamps = StampSet(_write(tmp_path / name, cuts, psf_each))
        answers.append(measure_stamps(Sums(raises_on=(105,)), stamps, 0.3, 2, batch=batch))
    for other in answers[1:]:
        pd.testing.assert_frame_equal(answers[0], other, check_exact=True)


def test_an_estimator_gets_as_many_stamps_as_it_asks_for(stamps):
    table = measure_stamps(Threes(), stamps, 0.3, 2)
    pd.testing.assert_frame_equal(table, measure_stamps(Sums(), stamps, 0.3, 2), check_exact=True)
    # Two to warm up; of the others, two batches have a bad stamp.
    assert Threes.sizes == [2, 3, 3, 2, 2, 3, 3, 3, 2]


def test_processes_do_not_matter_and_have_one_thread_each(stamps, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    main = sys.modules["__main__"]
    alone = measure_stamps(Sums(raises_on=(105,)), stamps, 0.3, 2)
    shared = measure_stamps(Sums(raises_on=(105,)), stamps, 0.3, 2, processes=2, batch=5)
    assert alone["threads"].dropna().unique() == [7]
    assert shared["threads"].dropna().unique() == [1]
    pd.testing.assert_frame_equal(
        alone.drop(columns="threads"), shared.drop(columns="threads"), check_exact=True
    )
    assert shared.attrs["seconds"] > 0
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert sys.modules["__main__"] is main


@pytest.mark.parametrize("options", [{"kind": "hsm"}, {"kind": "anacal"}], ids=str)
def test_estimators_answer_the_same_to_the_last_bit_with_any_batches_and_threads(tmp_path, options):
    rng = np.random.default_rng(3)
    x = np.arange(24) - 11.5
    psf = np.exp(-(x[:, None] ** 2 + x**2) / 2 / 1.5**2).astype(np.float32)
    psf /= psf.sum()
    images = np.exp(-(x[:, None] ** 2 + x**2) / 2 / rng.uniform(2, 3, (9, 1, 1)) ** 2).astype(np.float32)
    attributes = {"population": "p", "split": "test", "pixel_scale": 0.3, "catalog_digest": "d"}
    ids = np.arange(len(images))
    write_stamps(tmp_path / "0.h5", iter([(images, psf)]), ids, ids, psf.shape, False, attributes)
    stamps, estimator = StampSet([tmp_path / "0.h5"]), make_estimator(options)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        whole = measure_stamps(estimator, stamps, 1e-3, 2)
        torch.set_num_threads(2)
        parts = measure_stamps(estimator, stamps, 1e-3, 2, batch=2)
    finally:
        torch.set_num_threads(threads)
    assert (whole["flag"] == 0).any()
    pd.testing.assert_frame_equal(whole, parts, check_exact=True)


def test_a_killed_process_is_an_error_and_not_a_hang(stamps):
    with pytest.raises(ShearbenchError, match="died"):
        measure_stamps(Sums(kills_on=122), stamps, 0.3, 2, processes=2, batch=10)


SLOW = """
import sys, time
from shearbench.estimators.base import Estimator

class Slow(Estimator):
    kind = "slow"

    def measure(self, batch):
        print("begun", file=sys.stderr, flush=True)
        time.sleep(300)
"""
MEASURE = """
import sys
from slow import Slow
from shearbench.jobs.job import logged
from shearbench.measurement.running import measure_stamps
from shearbench.data.stamps import StampSet

if __name__ == "__main__":
    with logged(sys.argv[1]):
        measure_stamps(Slow(), StampSet(sys.argv[2:]), 0.3, 2, processes=2)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_job_however_it_ends(stamps, tmp_path, how):
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "measure.py").write_text(MEASURE)
    job = subprocess.Popen(
        [sys.executable, tmp_path / "measure.py", tmp_path / "job.log", *stamps.paths],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    # Two processes write to one pipe, so that their words may come before their line ends.
    begun = [job.stderr.readline() for _ in range(2)]
    assert "".join(begun).count("begun") == 2
    family = psutil.Process(job.pid).children(recursive=True)
    assert len(family) >= 2
    if how == signal.SIGINT:
        os.killpg(job.pid, how)  # Ctrl-C reaches all
        assert job.communicate(timeout=60)[1] == "interrupted\n"
        assert job.returncode == 130
    else:
        job.kill()
    assert not psutil.wait_procs(family, timeout=30)[1]
    job.communicate()


def test_an_estimator_that_is_not_there_says_so(stamps):
    class Absent(Sums):
        kind: ClassVar[str] = "absent"

        @classmethod
        def unavailable(cls):
            return "absent: install it"

    with pytest.raises(ShearbenchError, match="install it"):
        measure_stamps(Absent(), stamps, 0.3, 2)


def test_answers_of_the_wrong_length_are_failures(stamps, caplog):
    class Short(Sums):
        kind: ClassVar[str] = "short"

        def measure(self, batch):
            shapes = super().measure(batch)
            shapes.extra["threads"] = shapes.extra["threads"][:-1]
            return shapes

    table = measure_stamps(Short(), stamps, 0.3, 2)
    assert (table["flag"] != 0).all()
    assert "threads has shape (0,) for 1 stamps" in caplog.text


def test_ensemble_estimators_may_exceed_one(stamps):
    class Ensemble(Sums):
        kind: ClassVar[str] = "ensemble"
        ensemble_response: ClassVar[bool] = True

    table = measure_stamps(Ensemble(), stamps, 0.3, 2)
    assert table.loc[2, "flag"] == 0
    assert table.loc[4, "flag"] == int(Flag.OUT_OF_RANGE)


def test_estimates_round_trip(stamps, tmp_path):
    table = measure_stamps(Sums(), stamps, 0.3, 2)
    write_estimates(tmp_path / "e.parquet", table, "sums-preset", seed=3)
    read = read_estimates(tmp_path / "e.parquet")
    pd.testing.assert_frame_equal(read, table)
    assert read.attrs == {**table.attrs, "estimator": "sums-preset", "seed": 3}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t, a: (t.drop(columns="g2_err"), a), "column 'g2_err'"),
        (lambda t, a: (t, {k: v for k, v in a.items() if k != "sigma"}), "attribute 'sigma'"),
        (lambda t, a: (t.iloc[1:], a), "rows: found 22, expected 23"),
        (lambda t, a: (t.assign(galaxy_id=1), a), "galaxy_id: found repeated"),
        (lambda t, a: (t.assign(g1=np.nan), a), "g1: found 19 values"),
        (lambda t, a: (t.assign(flag="good"), a), "flag: found type"),
        (lambda t, a: (t, {**a, "seconds": -1}), "seconds"),
    ],
)
def test_damaged_estimates_are_refused(stamps, tmp_path, damage, message):
    table = measure_stamps(Sums(), stamps, 0.3, 2)
    path = tmp_path / "e.parquet"
    attributes = {**table.attrs, "estimator": "sums", "seed": None}
    table.attrs = {}
    write_table(path, *damage(table, attributes))
    with pytest.raises(ContractError, match=message) as error:
        read_estimates(path)
    assert str(path) in str(error.value)
    assert "'measure'" in str(error.value)


def test_a_truncated_file_is_refused(stamps, tmp_path):
    path = tmp_path / "e.parquet"
    write_estimates(path, measure_stamps(Sums(), stamps, 0.3, 2), "sums")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ContractError, match="unreadable"):
        read_estimates(path)
