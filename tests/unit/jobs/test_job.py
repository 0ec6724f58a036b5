"""The log of a job: all its output, also on a full disk, and the end of a job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from shearbench.errors import ShearbenchError
from shearbench.jobs.job import logged


def test_what_is_printed_is_in_the_log_too(tmp_path, capsys):
    with logged(str(tmp_path / "a/job.log")):
        print("one")
    text = (tmp_path / "a/job.log").read_text()
    assert text.startswith("one\ndone in ")
    assert capsys.readouterr().err == "one\n"


def test_an_error_made_for_the_user_is_told_once_and_its_traceback_kept_apart(tmp_path, capsys):
    log, details = tmp_path / "job.log", tmp_path / "job.traceback"
    with pytest.raises(SystemExit) as end, logged(str(log)):
        raise ShearbenchError("no catalogue")
    assert end.value.code == 1
    assert log.read_text() == f"error: no catalogue\ntraceback: {details}\n"
    assert capsys.readouterr().err == ""  # Snakemake shows the log
    assert details.read_text().startswith("Traceback")
    with logged(str(log)):
        pass
    assert not details.exists()


def test_any_other_error_has_its_traceback_in_the_log(tmp_path, capsys):
    with pytest.raises(SystemExit) as end, logged(str(tmp_path / "job.log")):
        raise ValueError("no ink")
    assert end.value.code == 1
    text = (tmp_path / "job.log").read_text()
    assert text.startswith("Traceback")
    assert text.endswith("ValueError: no ink\n")
    assert capsys.readouterr().err == ""


def test_where_the_log_has_no_room_the_job_goes_on_and_its_error_is_still_shown(tmp_path, capsys):
    log = tmp_path / "job.log"
    log.symlink_to("/dev/full")
    with logged(str(log)):
        print("one")
    assert capsys.readouterr().err == "one\n"
    with pytest.raises(SystemExit), logged(str(log)):
        raise OSError(28, "No space left on device")
    assert "error: [Errno 28] No space left on device" in capsys.readouterr().err


def test_where_there_can_be_no_log_the_job_says_so(tmp_path, capsys):
    (tmp_path / "logs").write_text("no folder")
    with pytest.raises(SystemExit) as end, logged(str(tmp_path / "logs/job.log")):
        pytest.fail("the job was started")
    assert end.value.code == 1
    assert str(tmp_path / "logs") in capsys.readouterr().err


def test_an_interrupted_job_says_one_word(tmp_path):
    code = (
        "import sys, time; from shearbench.jobs.job import logged\n"
        "with logged(sys.argv[1]):\n    print('begun', flush=True); time.sleep(60)"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "job.log")], stderr=subprocess.PIPE, text=True
    )
    assert job.stderr.readline() == "begun\n"
    job.send_signal(signal.SIGINT)
    assert job.communicate(timeout=30)[1] == "interrupted\n"
    assert job.returncode == 130
    assert os.listdir(tmp_path) == ["job.log"]
