"""A job's log: what is printed, also where the log's disk is full."""

from __future__ import annotations

import pytest

from shearbench.errors import ShearbenchError
from shearbench.job import logged


def test_what_is_printed_is_in_the_log_too(tmp_path, capsys):
    with logged(str(tmp_path / "a/job.log")):
        print("one")
    text = (tmp_path / "a/job.log").read_text()
    assert text.startswith("one\ndone in ")
    assert capsys.readouterr().err == "one\n"


@pytest.mark.parametrize(
    ("error", "plain"), [(ShearbenchError("no catalogue"), True), (ValueError("no ink"), False)]
)
def test_only_errors_made_for_the_user_are_shown_without_a_traceback(tmp_path, capsys, error, plain):
    with pytest.raises(SystemExit) as end, logged(str(tmp_path / "job.log")):
        raise error
    assert end.value.code == 1
    shown = capsys.readouterr().err
    assert str(error) in shown
    assert ("Traceback" not in shown) == plain
    assert "Traceback" in (tmp_path / "job.log").read_text()


def test_where_the_log_has_no_room_the_job_goes_on_and_its_error_is_still_shown(capsys):
    with logged("/dev/full"):
        print("one")
    assert capsys.readouterr().err == "one\n"
    with pytest.raises(SystemExit), logged("/dev/full"):
        raise OSError(28, "No space left on device")
    assert "No space left on device" in capsys.readouterr().err
