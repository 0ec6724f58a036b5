"""The view of a run in progress, from the log of a real Snakemake and from a log with a second attempt."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time

import pytest

from shearbench.errors import ShearbenchError
from shearbench.plan.reasons import short_reason
from shearbench.tools import watch

SNAKEFILE = """
rule all:
    input: "results/r/a.txt", "results/r/b.txt"
rule good:
    output: "results/r/a.txt"
    log: "results/r/logs/good.log"
    benchmark: "results/r/benchmarks/good.tsv"
    shell: "echo epoch 1/2 > {log}; touch {output}"
rule bad:
    output: "results/r/b.txt"
    log: "results/r/logs/bad.log"
    shell: "false"
"""

LOG = """Provided cores: 4
Job stats:
job        count
-------  -------
train          3
predict        1
all            1
total          5

[{when}]
rule train:
    log: results/r/logs/train/1.log
    jobid: 1
[{when}]
rule train:
    log: results/r/logs/train/2.log
    jobid: 2
[{when}]
Finished jobid: 1 (Rule: train)
[{when}]
Error in rule train:
    jobid: 2
    log: results/r/logs/train/2.log (check log file(s) for error details)
"""


def at(seconds_ago):
    now = time.time()
    return now, LOG.format(when=time.strftime("%a %b %d %H:%M:%S %Y", time.localtime(now - seconds_ago)))


def test_the_log_of_snakemake_is_understood(tmp_path, monkeypatch):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--keep-going"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 1
    monkeypatch.chdir(tmp_path)
    state = watch.read_state(watch.newest_log().read_text())
    assert state.planned == {"good": 1, "bad": 1, "all": 1}
    assert (state.done, list(state.failed.values())) == ({"good": 1}, ["bad"])
    assert (state.cores, state.folder, state.ended) == (2, "results/r", True)
    assert set(watch.rule_seconds()) == {"good"}
    shown = io.StringIO()
    watch.watch(shown, 0.01)
    (line,) = shown.getvalue().splitlines()
    assert line[9:] == "1 of 3 jobs done, 1 failed (bad), Snakemake has ended"


def test_running_failed_and_repeated_jobs_are_counted():
    now, text = at(10)
    state = watch.read_state(text)
    assert (state.done["train"], state.running, state.failed) == (1, {}, {"2": "train"})
    again = watch.read_state(f"{text}rule train:\n    log: results/r/logs/train/2.log\n    jobid: 2\n")
    assert (list(again.running), again.failed) == (["2"], {})
    # Two trainings of 100 s, one of which runs for 10 s already, and a job of 30 s, on 4 cores.
    left, unknown = watch.time_left(again, {"train": 100.0, "predict": 30.0}, now)
    assert left == pytest.approx((200 - 10 + 30) / 4, abs=2)
    assert unknown == set()
    assert watch.time_left(again, {"train": 100.0}, now)[1] == {"predict"}
    line = watch.summary(again, {"train": 100.0}, now)
    said = r"1 of 5 jobs done, 1 running, about 4\d s left, without 1 rules of unknown time"
    assert re.fullmatch(said, line)


def test_the_times_of_the_own_run_come_before_those_of_others(tmp_path):
    for run, rule, seconds in (("a", "train", 10), ("a", "predict", 1), ("b", "train", 90)):
        path = tmp_path / run / "benchmarks" / rule / "x.tsv"
        path.parent.mkdir(parents=True)
        path.write_text(f"s\th:m:s\n{seconds}\t0:00:00\n")
    (tmp_path / "a/benchmarks/broken.tsv").write_text("")
    assert watch.rule_seconds(tmp_path / "b", tmp_path) == {"train": 90, "predict": 1}
    assert watch.seconds_of("train_studies_3", {"train of studies": 5.0}) == 5.0


def test_a_killed_run_ends_the_view(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / ".lock").write_text(f"process {dead.pid} on {os.uname().nodename}")
    assert watch.killed(str(tmp_path))
    (tmp_path / ".lock").write_text(f"process {os.getpid()} on {os.uname().nodename}")
    assert not watch.killed(str(tmp_path))
    (tmp_path / ".lock").write_text(f"process {dead.pid} on another")
    assert not watch.killed(str(tmp_path))


def test_on_a_terminal_the_lines_are_rewritten_and_fit_into_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ShearbenchError, match="no run was started in this folder"):
        watch.watch(io.StringIO(), 0)
    path = tmp_path / watch.LOGS / "2026-01-01T000000.000000.snakemake.log"
    path.parent.mkdir(parents=True)
    path.write_text(at(10)[1])
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "6")
    monkeypatch.setattr(watch.time, "sleep", lambda _: path.write_text(f"{at(10)[1]}Complete log(s): x\n"))

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    shown = Terminal()
    watch.watch(shown, 0)
    first, second = shown.getvalue().split("\x1b[5F\x1b[J")
    assert "\x1b[J" in first
    assert "ended" in second
    assert all(
        len(line) < 60 for text in (first, second) for line in text.removeprefix("\x1b[J").splitlines()
    )


def test_a_reason_is_one_short_line():
    digest = "0123456789abcdef"
    params = "Params have changed since last execution: Union of exclusive params before and now: "
    files = "Input files updated by another job: a.csv, b.csv, c.csv, d.csv"
    short = "Input files updated by another job: a.csv, b.csv and 2 more"
    changed = f"{params}before: 'seed {digest}','run {digest}' now: 'seed {digest}' "
    assert short_reason(files) == short
    assert short_reason(f"Missing output files: x.pdf; {files}") == f"Missing output files: x.pdf; {short}"
    assert short_reason(f"{files}; {changed}") == f"{short}; Options of run, seed have changed"
    assert (
        short_reason(f"{params}before: '{digest}' now: '{digest}' ") == "Options, code or inputs have changed"
    )
    assert short_reason("Code has changed since last execution") == "Code has changed since last execution"
