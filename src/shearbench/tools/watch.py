"""Show how far a run is: jobs done, running and failed, and the time that is left.

``make watch`` or ``python -m shearbench.tools.watch``, in the folder in which Snakemake works or has worked.
It reads Snakemake's log, the logs of the jobs and the benchmarks of earlier runs, and changes nothing.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TextIO

from shearbench.errors import ShearbenchError

LOGS = Path(".snakemake/log")
_DATE = re.compile(r"\[(\w{3} \w{3} +\d+ \d\d:\d\d:\d\d \d{4})\]")
_RULE = re.compile(r"(?:local)?(?:rule|checkpoint) (\w+):")
_FINISHED = re.compile(r"Finished jobid: (\d+)")
_FAILED = re.compile(r"Error in (?:rule (\w+)|group)")
_ENDED = ("Complete log(s):", "Nothing to be done", "WorkflowError", "Exiting because")
_BATCH = re.compile(r"(train|predict)_studies_\d+")


@dataclass
class Job:
    """A job that is running."""

    rule: str
    started: float
    log: str = ""


@dataclass
class State:
    """What Snakemake's log says of a run.

    Attributes
    ----------
    planned, done : Counter
        Number of jobs by rule.
    running : dict of str to Job
        By job id.
    failed : dict of str to str
        The rule of each job that failed and was not started again, by job id.
    cores : int
    ended : bool
        Whether Snakemake has ended.
    folder : str
        Folder of the run, such as ``results/quick``; empty before the first job.
    """

    planned: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    running: dict[str, Job] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    cores: int = 1
    ended: bool = False
    folder: str = ""


def read_state(text: str) -> State:
    """Return the state of a run from Snakemake's log.

    Parameters
    ----------
    text : str
        The log so far.
    """
    state, known = State(), dict[str, Job]()
    now, table = 0.0, False
    current: Job | None = None  # the job whose description is being read
    failing = False
    for line in text.splitlines():
        if table:
            rule, _, count = line.strip().rpartition(" ")
            if count.isdecimal():
                state.planned[rule.strip()] = int(count)
            elif not line.strip():
                table = False
        elif line.startswith("Job stats:"):
            table = True
            state.planned.clear()
        elif found := _DATE.match(line):
            now = datetime.strptime(found[1], "%a %b %d %H:%M:%S %Y").timestamp()
        elif line.startswith("Provided cores: "):
            state.cores = int(re.sub(r"\D.*", "", line.partition(": ")[2]) or 1)
        elif found := _RULE.match(line):
            current, failing = Job(found[1], now), False
        elif _FAILED.match(line):
            failing = True
        elif found := _FINISHED.match(line):
            job = known.get(found[1])
            state.running.pop(found[1], None)
            state.failed.pop(found[1], None)
            if job is not None:
                state.done[job.rule] += 1
        elif line.startswith("    jobid: "):
            number = line.partition(": ")[2].strip()
            if failing and number in known:
                state.failed[number] = known[number].rule
                state.running.pop(number, None)
            elif current is not None:
                known[number] = state.running[number] = current
                state.failed.pop(number, None)
            failing = False
        elif line.startswith("    log: ") and current is not None and not failing:
            current.log = line.partition(": ")[2].partition(",")[0].strip()
            state.folder = current.log.partition("/logs/")[0]
        elif line.startswith(_ENDED):
            state.ended = True
    state.planned.pop("total", None)
    if state.ended:
        state.running.clear()
    return state


def killed(folder: str) -> bool:
    """Return whether the process that worked on a run was killed, as far as this machine knows."""
    try:
        holder = Path(folder, ".lock").read_text(encoding="utf-8")
    except OSError:
        return False
    found = re.fullmatch(r"process (\d+) on (.*)", holder.strip())
    if found is None or found[2] != os.uname().nodename:
        return False
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return True
    except OSError:  # a process of another user
        return False
    return False


def rule_seconds(folder: str | Path = "", results: str | Path = "results") -> dict[str, float]:
    """Return the mean time of the jobs of each rule [s], from the benchmarks of earlier runs.

    Parameters
    ----------
    folder : path-like
        Folder of the run. Its own benchmarks, of jobs that have ended or of an earlier time, come first.
    results : path-like
        Folder of all runs, whose benchmarks are used for the other rules.
    """
    own = _mean_seconds([Path(folder, "benchmarks")] if folder else [])
    return {**_mean_seconds(sorted(Path(results).glob("*/benchmarks"))), **own}


def _mean_seconds(benchmarks: Sequence[Path]) -> dict[str, float]:
    times: dict[str, list[float]] = {}
    for folder, path in ((one, path) for one in benchmarks for path in one.rglob("*.tsv")):
        rule = path.relative_to(folder).parts[0].removesuffix(".tsv")
        try:
            head, first = path.read_text(encoding="utf-8").splitlines()[:2]
            seconds = float(dict(zip(head.split("\t"), first.split("\t")))["s"])
        except (OSError, ValueError, KeyError):
            continue
        if path.name.startswith("studies_"):
            rule += " of studies"
        times.setdefault(rule, []).append(seconds)
    return {rule: statistics.mean(values) for rule, values in times.items()}


def seconds_of(rule: str, known: Mapping[str, float]) -> float | None:
    """Return the time of a job of a rule [s], or None if no earlier run had one."""
    if found := _BATCH.fullmatch(rule):
        rule = {"train": "train of studies", "predict": "predict_study of studies"}[found[1]]
    return known.get(rule)


def time_left(state: State, known: Mapping[str, float], now: float) -> tuple[float, set[str]]:
    """Return the time until the end of a run [s], and the rules whose time is not known.

    All cores are taken as busy until the end; jobs that wait for others take longer.
    """
    work, unknown = 0.0, set[str]()
    for rule, left in (state.planned - state.done).items():
        seconds = seconds_of(rule, known)
        if seconds is None:
            unknown |= {rule} - {"all"}
            continue
        running = [job for job in state.running.values() if job.rule == rule]
        work += seconds * left - sum(min(now - job.started, seconds) for job in running)
    return max(work, 0.0) / state.cores, unknown


def duration(seconds: float) -> str:
    """Return a time in words, such as ``3 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def summary(state: State, known: Mapping[str, float], now: float) -> str:
    """Return the state of a run in one line."""
    done, planned = state.done.total(), state.planned.total()
    parts = [f"{done} of {planned} jobs done", f"{len(state.running)} running"]
    if state.failed:
        parts.append(f"{len(state.failed)} failed ({', '.join(sorted(set(state.failed.values())))})")
    if state.ended:
        return ", ".join([*parts[:1], *parts[2:], "Snakemake has ended"])
    if killed(state.folder):
        return ", ".join([*parts[:1], *parts[2:], "Snakemake was killed: make results goes on from here"])
    left, unknown = time_left(state, known, now)
    if len(unknown) < len(state.planned - state.done):
        more = f", without {len(unknown)} rules of unknown time" if unknown else ""
        parts.append(f"about {duration(left)} left{more}")
    return ", ".join(parts)


def table(state: State, known: Mapping[str, float], now: float) -> list[str]:
    """Return a line for each running job with its last message, then one for each rule with jobs left."""
    lines = [
        f"{job.rule} for {duration(now - job.started)}  {last_line(job.log)}".rstrip()
        for job in sorted(state.running.values(), key=lambda job: job.started)
    ]
    lines += ["", f"{'rule':<28}{'done':>6}{'of':>6}{'running':>9}{'failed':>8}{'a job':>9}{'left':>9}"]
    running = Counter(job.rule for job in state.running.values())
    failed = Counter(state.failed.values())
    for rule, count in state.planned.items():
        left = count - state.done[rule]
        if rule == "all" or not left:
            continue
        seconds = seconds_of(rule, known)
        each, rest = ("?", "?") if seconds is None else (duration(seconds), duration(seconds * left))
        counts = (state.done[rule], count, running[rule] or "", failed[rule] or "")
        lines.append("{:<28}{:>6}{:>6}{:>9}{:>8}".format(rule[:27], *counts) + f"{each:>9}{rest:>9}")
    return lines


def last_line(log: str, most: int = 4096) -> str:
    """Return the last line of a job's log, such as the progress of a training."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - most))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return lines[-1].strip() if lines else ""


def newest_log(folder: str | Path = LOGS) -> Path:
    """Return the log of the Snakemake process that was started last.

    Raises
    ------
    ShearbenchError
        There is none.
    """
    logs = sorted(Path(folder).glob("*.snakemake.log"))
    if not logs:
        raise ShearbenchError(
            f"{folder}: no run was started in this folder; start one in another terminal: make results"
        )
    return logs[-1]


def watch(stream: TextIO, interval: float, once: bool = False) -> None:
    """Show the state of the run until it ends.

    On a terminal the lines are rewritten; elsewhere, as in a file, there is one line whenever a job has
    ended, at most one each minute.
    """
    live, shown, last = stream.isatty() and not once, 0, (-1, 0.0)
    while True:
        state, now = read_state(newest_log().read_text(encoding="utf-8", errors="replace")), time.time()
        known = rule_seconds(state.folder)
        line, ended = summary(state, known, now), state.ended or once or killed(state.folder)
        if live or once:
            size = shutil.get_terminal_size()
            lines = [line, "", *table(state, known, now)]
            if live:
                lines = [text[: size.columns - 1] for text in lines[: size.lines - 1]]
                stream.write((f"\x1b[{shown}F" if shown else "") + "\x1b[J")
            stream.write("\n".join(lines) + "\n")
            shown = len(lines)
        elif ended or (state.done.total() + len(state.failed) != last[0] and now - last[1] >= 60):
            stream.write(f"{time.strftime('%H:%M:%S')} {line}\n")
            last = state.done.total() + len(state.failed), now
        stream.flush()
        if ended:
            return
        time.sleep(interval)


def main(arguments: Sequence[str] | None = None) -> None:
    """Show the state of the run in the working directory."""
    parser = argparse.ArgumentParser(prog="make watch", description=__doc__.splitlines()[0])
    parser.add_argument("--once", action="store_true", help="show it once, and end")
    parser.add_argument("--interval", type=float, default=2.0, help="seconds between two looks")
    given = parser.parse_args(arguments)
    try:
        watch(sys.stdout, given.interval, given.once)
    except ShearbenchError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    main()
