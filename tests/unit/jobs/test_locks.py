"""The lock of a run, and file systems without locks."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from shearbench.errors import ShearbenchError
from shearbench.jobs import locks
from shearbench.jobs.devices import claim_gpu
from shearbench.jobs.locks import can_lock, lock
from shearbench.jobs.runlock import hold_lock
from shearbench.training.checkpoint import Checkpoint, claimed


def test_a_run_is_locked_while_its_process_lives(tmp_path):
    code = (
        "import sys; from shearbench.jobs.runlock import hold_lock\n"
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


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EACCES, errno.EIO])
def without_locks(request, monkeypatch):
    """Make every lock fail as on a file system without locks."""

    def refuse(file, flags):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(locks, "_without", set())


def test_where_files_cannot_be_locked_all_goes_on_with_one_warning(
    tmp_path, caplog, monkeypatch, without_locks
):
    assert not can_lock(tmp_path)
    hold_lock(tmp_path / ".lock").close()
    hold_lock(tmp_path / ".lock").close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"files in {tmp_path} cannot be locked" in caplog.text
    with claimed(Checkpoint(tmp_path / "state/seed3.pt", {}), {}, 0) as taken:
        assert taken == []
    # Nobody knows which GPU is free: the process's number spreads the jobs over them.
    monkeypatch.setattr(os, "getpid", lambda: 1003)
    assert claim_gpu(["p", "q", "r"], tmp_path / "gpus") == 1003 % 3


def test_a_permission_that_is_denied_means_held_only_where_other_files_can_be_locked(tmp_path, monkeypatch):
    flock = fcntl.flock

    def refuse(file, flags):
        if os.path.exists(tmp_path / "held") and os.path.sameopenfile(file.fileno(), held.fileno()):
            raise PermissionError(errno.EACCES, "Permission denied")
        flock(file, flags)

    with open(tmp_path / "held", "ab") as held, open(tmp_path / "free", "ab") as free:
        monkeypatch.setattr(fcntl, "flock", refuse)
        assert lock(free)
        assert not lock(held)


UNWRITABLE = """
import os, sys
from shearbench.errors import ShearbenchError
from shearbench.jobs.runlock import hold_lock
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    hold_lock(sys.argv[1])
except ShearbenchError as error:
    print(error)
"""


@pytest.mark.parametrize("harm", ["lock", "run", "results", "folder"])
def test_where_a_user_may_not_write_it_is_said_before_any_job(harm):
    folder = Path(tempfile.mkdtemp())  # outside pytest's own, which other users may not enter
    run = folder / "results/quick"
    try:
        (run / "stamps/exp_gauss").mkdir(parents=True)
        for path in (folder, *(path for path in folder.rglob("*"))):
            path.chmod(0o777)
        fault = {
            "lock": run / ".lock",
            "run": run / ".lock",
            "results": run,
            "folder": run / "stamps/exp_gauss",
        }
        if harm == "lock":
            (run / ".lock").touch(mode=0o444)
        elif harm == "results":
            shutil.rmtree(run)
            run.parent.chmod(0o555)
        else:
            (run if harm == "run" else fault["folder"]).chmod(0o555)
        printed = subprocess.run(
            [sys.executable, "-c", UNWRITABLE, run / ".lock"], capture_output=True, text=True, check=True
        ).stdout
    finally:
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o777)
        shutil.rmtree(folder)
    assert printed.startswith(f"{fault[harm]}: ")
    assert "ermission" in printed
    assert "make it writable for this user" in printed
