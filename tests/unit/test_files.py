import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from shearbench.errors import ContractError, ShearbenchError
from shearbench.files import atomic, read_table, write_table
from shearbench.runlock import hold_lock


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
        "import os, signal, sys; from shearbench.files import atomic\n"
        "with atomic(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.txt")])
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "a.txt").exists()


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path):
    table = pd.DataFrame({"x": np.zeros(10)})
    folder = tmp_path / "full"
    folder.mkdir()
    os.symlink("/dev/full", folder / f".a.{os.getpid()}.part.csv")
    with pytest.raises(OSError, match="No space left"), atomic(folder / "a.csv") as temporary:
        table.to_csv(temporary, index=False)
    assert not (folder / "a.csv").exists()


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


def test_a_run_is_locked_while_its_process_lives(tmp_path):
    code = (
        "import sys; from shearbench.runlock import hold_lock\n"
        "hold_lock(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    )
    path = tmp_path / "run" / ".lock"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    with pytest.raises(ShearbenchError, match=f"process {other.pid} on .* is working on this run"):
        hold_lock(path)
    other.kill()
    other.wait()
    other.stdin.close()
    other.stdout.close()
    hold_lock(path).close()
