import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from shearbench.errors import ContractError, DiskFullError
from shearbench.files.leftovers import remove_leftovers, remove_states, temporary_name
from shearbench.files.tables import read_table, write_table
from shearbench.files.writing import atomic


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fill():
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fill()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_in_the_middle_of_a_write_leaves_no_file_of_that_name(tmp_path):
    code = (
        "import os, signal, sys; from shearbench.files.writing import atomic\n"
        "with atomic(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.txt")])
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "a.txt").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from shearbench.files.writing import atomic
with atomic(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print(temporary, flush=True)
    {then}
"""


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    paths = [tmp_path / "0.h5", tmp_path / "0.01/seed1.pt", tmp_path / "scratch/a"]
    (tmp_path / "elsewhere").mkdir()
    paths[2].parent.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path)
    kill = KILLED.format(then="os.kill(os.getpid(), signal.SIGKILL)")
    left = {
        Path(
            subprocess.run([sys.executable, "-c", kill, path], capture_output=True, text=True).stdout.strip()
        )
        for path in paths
    }
    assert all(path.exists() for path in left)
    # Of a process that lives, of other hosts, and a user's own.
    live = subprocess.Popen(
        [sys.executable, "-c", KILLED.format(then="sys.stdin.read()"), tmp_path / "live.csv"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    living = Path(live.stdout.readline().strip())
    other = tmp_path / ".b.node-7.1.part.h5"
    overtaken = tmp_path / ".c.node-7.1.part.h5"
    user = tmp_path / ".notes.part.txt"
    for path in (other, overtaken, user):
        path.write_text("")
    # Names without a host, as earlier versions gave: removed a day after they were written.
    fresh, running = tmp_path / ".e.999999999.part.h5", tmp_path / f".f.{os.getpid()}.part.h5"
    old = {tmp_path / ".d.999999999.part.h5", tmp_path / ".mlp.seed1.999999999.part.parquet"}
    for path in (fresh, running, *old):
        path.write_text("")
    for path in (running, *old):
        os.utime(path, (time.time() - 90000,) * 2)
    complete = tmp_path / "c.h5"
    complete.write_text("")
    os.utime(complete, (time.time() + 1,) * 2)
    removed = remove_leftovers(tmp_path)
    assert {path.resolve() for path in removed} == {path.resolve() for path in left | old | {overtaken}}
    assert all(path.exists() for path in (living, other, user, complete, fresh, running))
    # The process ends as if killed, and another gets its number: this one.
    live.kill()
    live.communicate()
    mine = temporary_name(tmp_path / "live.csv")
    living.rename(mine)
    assert remove_leftovers(tmp_path) == []
    os.utime(mine, (0, 0))
    assert remove_leftovers(tmp_path) == [mine]


def write_csv_of(path, values):
    pd.DataFrame({"x": values}).to_csv(path, index=False)


def write_parquet_of(path, values):
    write_table(path, pd.DataFrame({"x": values}))


def write_hdf5_of(path, values):
    with h5py.File(path, "w") as file:
        file["x"] = values


def write_torch_of(path, values):
    with open(path, "wb") as handle:
        torch.save({"x": torch.from_numpy(values)}, handle)


def write_numpy_of(path, values):
    with open(path, "wb") as handle:
        np.save(handle, values)


def write_without_a_cause(path, values):
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as handle:
        while handle.write(bytes(4096)):
            pass
    raise RuntimeError("Can't close dataset")


@pytest.mark.parametrize(
    "write",
    [write_csv_of, write_parquet_of, write_hdf5_of, write_torch_of, write_numpy_of, write_without_a_cause],
)
def test_a_full_disk_is_named_whatever_the_writer_says_and_leaves_nothing(full_disk, write):
    def fill():
        with atomic(full_disk / "a.dat") as temporary:
            write(temporary, np.random.default_rng(1).random(1_000_000))

    with pytest.raises(DiskFullError) as error:
        fill()
    assert str(error.value).startswith(f"{full_disk / 'a.dat'}: No space left on device: ")
    assert f"MB are free in {full_disk}" in str(error.value)
    assert list(full_disk.iterdir()) == []


def test_another_error_is_not_taken_for_a_full_disk(tmp_path):
    def fail():
        with atomic(tmp_path / "a"):
            raise RuntimeError("Can't close dataset")

    with pytest.raises(RuntimeError, match="close"):
        fail()


@pytest.fixture
def full_disk(tmp_path):
    """Return a folder on a disk of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_writer_that_finds_no_room_is_an_error(tmp_path):
    table = pd.DataFrame({"x": np.zeros(10)})
    temporary_name(tmp_path / "a.csv").symlink_to("/dev/full")
    with pytest.raises(DiskFullError, match="No space left"), atomic(tmp_path / "a.csv") as temporary:
        table.to_csv(temporary, index=False)
    assert list(tmp_path.iterdir()) == []


def test_a_table_comes_back_with_its_attributes(tmp_path):
    table = pd.DataFrame({"galaxy_id": np.arange(3), "g1": [0.1, np.nan, -0.2], "profile": ["a", "b", "c"]})
    write_table(tmp_path / "t.parquet", table, {"sigma": 1e-5, "psf": {"beta": 2.5}})
    back = read_table(tmp_path / "t.parquet", ["g1"], "measure")
    pd.testing.assert_frame_equal(back, table, check_dtype=False)
    assert back.attrs == {"sigma": 1e-5, "psf": {"beta": 2.5}}
    assert read_table(tmp_path / "t.parquet", [], "measure", rows=False).attrs == back.attrs


@pytest.mark.parametrize("damage", ["truncated", "foreign", "column"])
def test_a_damaged_table_is_refused_with_file_field_and_rule(tmp_path, damage):
    path = tmp_path / "t.parquet"
    write_table(path, pd.DataFrame({"a": np.arange(1000)}))
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "foreign":
        path.write_text("a,b\n1,2\n")
    with pytest.raises(ContractError) as error:
        read_table(path, ["a", "b"] if damage == "column" else ["a"], "measure")
    message = str(error.value)
    assert str(path) in message
    assert "rule 'measure'" in message
    assert ("'b'" if damage == "column" else "unreadable") in message


@pytest.mark.parametrize(
    "place", ["{}/exp_gauss/shearnet", "morphology/{}/small-cnn", "morphology/encoders/{}/simclr"]
)
def test_states_of_trainings_that_have_a_model_are_removed(tmp_path, place):
    states = tmp_path / place.format("checkpoints")
    ended, unfinished = (states / f"seed{n}.pt" for n in (1, 2))
    model = tmp_path / place.format("models") / "seed1/model.pt"
    lock = ended.with_name("seed1.pt.lock")
    for path in (ended, unfinished, lock, model):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert remove_states(tmp_path) == [ended]
    assert not lock.exists()
    assert unfinished.exists()
