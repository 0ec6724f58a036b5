"""The workflow on a temporary SLURM cluster, with kills of jobs, node and controller."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import psutil
import pytest
import yaml
from checkout import ROOT, copy_workflow
from cluster import Cluster, missing, until
from snakemake_executor_plugin_slurm import Executor

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(missing() is not None, reason=str(missing()))]

PROFILE = Path("workflow/profiles/slurm")
EPOCHS = 400
SEEDS = (1, 2, 3)


def model_of(seed: int) -> str:
    return f"results/tiny/models/exp_gauss/shearnet/seed{seed}/model.pt"


MODELS = [model_of(seed) for seed in SEEDS]
FIT = "results/tiny/estimates/exp_gauss/test/0.0001/hsm-regauss.parquet"
FITS = [FIT, FIT.replace("0.0001", "0.001")]
PREDICTIONS = [FIT.replace("hsm-regauss", f"shearnet.seed{seed}") for seed in SEEDS]
DATA = [f"results/tiny/stamps/exp_gauss/{split}/index.json" for split in ("train", "validation", "test")]
# Before anything is written to the rule's log: the report has to take it from SLURM's.
ON_PURPOSE = 'raise RuntimeError("broken on purpose")\n'
# While this file is there, an epoch takes a second or more, on a machine of any speed.
SLOW = "slow"
PACE = f"""
_line = ProgressLine.line


def _paced(self, *status):
    if os.path.exists("{SLOW}"):
        time.sleep(1)
    _line(self, *status)


import os

ProgressLine.line = _paced
"""


@dataclass
class Ordeal:
    """Record of a run: epochs and jobs of the trainings, output, states in SLURM."""

    folder: Path
    output: str = ""
    status: int = -1
    lost_at: dict[str, dict[int, int]] = field(default_factory=dict)
    resumed_at: dict[str, dict[int, int]] = field(default_factory=dict)
    devices: list[str] = field(default_factory=list)
    first: dict[str, dict[str, str]] = field(default_factory=dict)
    last: dict[str, dict[str, str]] = field(default_factory=dict)
    ended: dict[str, dict[str, str]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def cluster(request):
    if "slurm" not in request.config.option.markexpr:
        pytest.skip("starts daemons and takes four minutes: run with `make test-slurm`")
    with Cluster() as running:
        yield running


@pytest.fixture(scope="module")
def folder(cluster, tmp_path_factory) -> Path:
    """Return a folder with the workflow for this cluster, its data, and trainings that can be slowed down."""
    folder = tmp_path_factory.mktemp("slurm")
    copy_workflow(folder)
    (folder / "tiny.yaml").write_text((Path(__file__).parent / "tiny.yaml").read_text())
    site = yaml.safe_load((folder / PROFILE / "site.yaml").read_text())
    site |= {"partition": "cpu", "gpu_partition": "gpu", "gpu_model": "standin", "trainings_per_job": 1}
    (folder / PROFILE / "site.yaml").write_text(yaml.safe_dump(site))
    # The data are not what is tested, and are made faster without a scheduler.
    subprocess.run(local(*DATA), cwd=folder, check=True, capture_output=True, timeout=600)
    with open(folder / "src/shearbench/training/progress.py", "a") as source:
        source.write(PACE)
    return folder


@pytest.fixture(scope="module")
def ordeal(cluster, folder) -> Ordeal:
    script = folder / "scripts/measure.py"
    (folder / SLOW).touch()
    told = Ordeal(folder)
    broken = rewritten(script, ON_PURPOSE + script.read_text())
    with broken, run_through(cluster, told, submit(*MODELS, FIT)):
        go_through(cluster, told)
        (folder / SLOW).unlink()
    return told


@contextlib.contextmanager
def rewritten(file: Path, text: str) -> Iterator[None]:
    """Replace the text of a file inside a ``with`` block."""
    before = file.read_text()
    file.write_text(text)
    try:
        yield
    finally:
        file.write_text(before)


@contextlib.contextmanager
def run_through(cluster: Cluster, told: Ordeal, command: list[str]) -> Iterator[None]:
    """Start a run and wait for its end; if anything fails before, print its output."""
    output = told.folder / "output.txt"
    with open(output, "wb") as stream:
        run = subprocess.Popen(
            command, cwd=told.folder, env=cluster.environment, stdout=stream, stderr=stream
        )
    try:
        yield
        told.status = run.wait(600)
    except BaseException:
        print(output.read_text()[-20000:])
        raise
    finally:
        run.kill()
        run.wait()
        told.output = output.read_text()


def call(cluster: Cluster, folder: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Do a run and wait for its end."""
    return subprocess.run(
        command, cwd=folder, env=cluster.environment, capture_output=True, text=True, timeout=600
    )


def go_through(cluster: Cluster, told: Ordeal) -> None:
    """Cancel, kill, requeue and preempt trainings."""
    jobs: dict[int, str] = {}

    def found() -> bool:
        for seed in SEEDS:
            ids = submitted_for(told.folder, seed)
            jobs.update({seed: ids[-1]} if ids else {})
        return len(jobs) == len(SEEDS)

    def lost(event: str, *seeds: int) -> None:
        told.lost_at[event] = {seed: epochs(told.folder, seed)[-1] for seed in seeds}

    def resumed(event: str, *seeds: int, seconds: float = 90) -> None:
        logs = {seed: log_of(told.folder, seed) for seed in seeds}
        # The next attempt's log begins with a later epoch than the last one that was seen.
        until(
            lambda: all((epochs(told.folder, seed) or [0])[0] >= told.lost_at[event][seed] for seed in logs),
            seconds,
            f"not resumed after {event}: {[epochs(told.folder, seed)[:1] for seed in seeds]}",
        )
        told.resumed_at[event] = {seed: epochs(told.folder, seed)[0] for seed in seeds}

    until(found, 40, "the trainings were not submitted")
    until(lambda: all(len(epochs(told.folder, seed)) > 5 for seed in SEEDS), 60, "no training started")
    told.first = {str(seed): cluster.job(job) for seed, job in jobs.items()}
    told.first["fit"] = cluster.job(cluster.jobs("rule_measure")[0])
    told.devices = [device_of(cluster, jobs[seed]) for seed in SEEDS]

    lost("cancel", 1)
    cluster.run("scancel", jobs[1])
    lost("kill", 2)
    script_of(cluster, jobs[2]).kill()
    lost("requeue", 3)
    cluster.run("scontrol", "requeue", jobs[3])
    resumed("cancel", 1)
    resumed("kill", 2)
    resumed("requeue", 3)

    cluster.stop_controller()
    time.sleep(8)
    cluster.start_controller()

    found()
    cluster.run("scontrol", "update", f"JobId={jobs[1]}", "TimeLimit=1")
    until(lambda: cluster.job(jobs[1])["JobState"] == "TIMEOUT", 100, "no time limit")
    lost("timeout", 1)
    resumed("timeout", 1)

    found()
    lost("preemption", *SEEDS)
    cluster.preempt()
    resumed("preemption", *SEEDS)

    lost("crash", *SEEDS)
    cluster.crash_node()
    until(lambda: not cluster.jobs("rule_train", "RUNNING"), 60, "the lost node was not noticed")
    cluster.start_node()
    resumed("crash", *SEEDS)
    found()
    told.last = {str(seed): cluster.job(job) for seed, job in jobs.items()}
    told.ended = {job: cluster.job(job) for job in cluster.jobs("rule_measure")}


def submitted_for(folder: Path, seed: int) -> list[str]:
    """Return the SLURM ids of a training's jobs, as Snakemake printed them."""
    with contextlib.suppress(FileNotFoundError):
        output = (folder / "output.txt").read_text()
        rule = rf"^rule train:\n(?:    .*\n)*?    jobid: (\d+)\n(?:    .*\n)*?    wildcards: .*seed={seed}$"
        if job := re.search(rule, output, re.MULTILINE):
            line = rf"^Job {job[1]} has been submitted with SLURM jobid (\S+)"
            return re.findall(line, output, re.MULTILINE)
    return []


def name_of(job: dict[str, str]) -> str:
    """Return a job's id, as squeue shows it."""
    return f"{job['ArrayJobId']}_{job['ArrayTaskId']}" if "ArrayJobId" in job else job["JobId"]


def log_of(folder: Path, seed: int) -> Path:
    return folder / f"results/tiny/logs/train/exp_gauss/shearnet/seed{seed}.log"


def epochs(folder: Path, seed: int) -> list[int]:
    """Return the epochs that the log of a training's present attempt names."""
    with contextlib.suppress(FileNotFoundError):
        return [int(number) for number in re.findall(r"epoch (\d+)/", log_of(folder, seed).read_text())]
    return []


def script_of(cluster: Cluster, job: str) -> psutil.Process:
    for process in cluster.processes(job):
        if "train.py" in " ".join(process.cmdline()) and "bash" not in process.name():
            return process
    raise LookupError(f"no training in job {job}")


def device_of(cluster: Cluster, job: str) -> str:
    return script_of(cluster, job).environ()["CUDA_VISIBLE_DEVICES"]


def local(*arguments: str) -> list[str]:
    files = ("--configfile", "config/tiny.yaml", "tiny.yaml")
    return [sys.executable, "-m", "snakemake", "--cores", "2", *arguments, *files]


def submit(*arguments: str) -> list[str]:
    quick = ["--seconds-between-status-checks", "3", "--slurm-init-seconds-before-status-checks", "3"]
    quick += ["--max-status-checks-per-second", "2"]
    files = ("--configfile", "config/tiny.yaml", "tiny.yaml")
    return [sys.executable, "-m", "snakemake", *arguments, "--workflow-profile", str(PROFILE), *quick, *files]


def test_jobs_are_submitted_with_what_they_need(ordeal):
    train, fit = ordeal.first["1"], ordeal.first["fit"]
    assert train["Partition"] == "gpu"
    assert train["TresPerJob"] == "gres:gpu:standin:1"
    assert (train["NumTasks"], train["CPUs/Task"], train["NumNodes"]) == ("1", "1", "1")
    assert train["TimeLimit"] == "12:00:00"
    assert train["Requeue"] == "1"
    assert fit["Partition"] == "cpu"
    assert "TresPerJob" not in fit
    assert (fit["NumTasks"], fit["CPUs/Task"], fit["TimeLimit"]) == ("1", "8", "08:00:00")
    assert fit["MinMemoryNode"] == "12000M"


def test_trainings_that_are_ready_together_are_one_submission(ordeal):
    jobs = [ordeal.first[str(seed)] for seed in SEEDS]
    assert len({job["ArrayJobId"] for job in jobs}) == 1
    assert sorted(int(job["ArrayTaskId"]) for job in jobs) == list(range(1, len(SEEDS) + 1))
    assert "ArrayJobId" not in ordeal.first["fit"]


def test_each_training_has_a_gpu_of_its_own(ordeal):
    assert len(set(ordeal.devices)) == len(SEEDS)


def test_another_attempt_asks_for_more(ordeal):
    first, second = ordeal.first["2"], ordeal.last["2"]
    assert name_of(second) != name_of(first)
    assert second["TimeLimit"] == "1-00:00:00"
    assert int(second["MinMemoryNode"][:-1]) == 2 * int(first["MinMemoryNode"][:-1])


@pytest.mark.parametrize("event", ["cancel", "kill", "requeue", "timeout", "preemption", "crash"])
def test_training_goes_on_from_its_last_epoch(ordeal, event):
    for seed, epoch in ordeal.lost_at[event].items():
        # A few epochs pass between the look at the log and the blow.
        assert 0 <= ordeal.resumed_at[event][seed] - epoch <= 10, (event, seed)


def test_what_was_requeued_is_the_same_job(ordeal):
    assert name_of(ordeal.last["3"]) == name_of(ordeal.first["3"])
    assert int(ordeal.last["3"]["Restarts"]) == 3


def test_every_epoch_was_trained_once(ordeal):
    for model in MODELS:
        history = pd.read_csv(ordeal.folder / Path(model).with_name("history.csv"))
        assert history.epoch.tolist() == list(range(1, EPOCHS + 1))


def test_a_failed_job_is_reported_at_once_with_rule_log_and_slurm_id_and_the_others_go_on(ordeal):
    assert ordeal.status == 1
    reports = re.findall(
        r"\[([^\]]+)\]\nError in rule measure:(.*?)external_jobid: (\d+)\n", ordeal.output, re.DOTALL
    )
    assert [job for _, _, job in reports] == list(ordeal.ended)
    assert len(reports) == 4  # as `retries` says
    for printed, message, job in reports:
        assert "RuntimeError: broken on purpose" in message
        end = datetime.fromisoformat(ordeal.ended[job]["EndTime"])
        assert (datetime.strptime(printed, "%a %b %d %H:%M:%S %Y") - end).total_seconds() < 60
    # A task of an array as any other job.
    killed = ordeal.output.split(f"external_jobid: {name_of(ordeal.first['2'])}\n")[1]
    assert re.match(r"Logfile \S+/seed2.log:\n=+\nshearnet seed 2: .*epoch 1/", killed)
    assert all((ordeal.folder / model).is_file() for model in MODELS)


def test_the_profile_asks_twice_a_minute_at_least():
    text = (ROOT / PROFILE / "config.yaml").read_text()
    assert int(re.search(r"^seconds-between-status-checks: (\d+)", text, re.MULTILINE)[1]) <= 30


def test_a_second_call_does_only_the_rest_fits_in_one_array_and_seeds_in_one_job(ordeal, cluster):
    done = {model: (ordeal.folder / model).stat().st_mtime_ns for model in MODELS}
    before = cluster.jobs()
    again = call(cluster, ordeal.folder, submit(*MODELS, *FITS, *PREDICTIONS))
    assert again.returncode == 0, again.stdout + again.stderr
    predictions, *fits = sorted(
        (cluster.job(job) for job in cluster.jobs() if job not in before), key=lambda job: int(job["NumCPUs"])
    )
    assert [fit["Comment"] for fit in fits] == ["rule_measure"] * 2
    assert fits[0]["ArrayJobId"] == fits[1]["ArrayJobId"]
    assert {job["JobState"] for job in (predictions, *fits)} == {"COMPLETED"}
    assert all((ordeal.folder / fit).is_file() for fit in FITS)
    assert predictions["Comment"].startswith("rule_predictions")
    assert (predictions["TresPerJob"], predictions["NumCPUs"]) == ("gres:gpu:standin:1", "1")
    assert done == {model: (ordeal.folder / model).stat().st_mtime_ns for model in MODELS}


@pytest.mark.xfail(strict=True, reason="issue 473 of snakemake-executor-plugin-slurm 2.8.0; see plugin.py")
def test_the_plugin_itself_submits_all_jobs_of_an_array_while_others_are_ready():
    jobs = [SimpleNamespace(is_group=lambda: False, rule=SimpleNamespace(name="train")) for _ in range(5)]
    submitted: list[object] = []
    executor = SimpleNamespace(
        array_jobs={"train"},
        max_array_size=100,
        logger=logging.getLogger(),
        workflow=SimpleNamespace(dag=SimpleNamespace(ready_jobs=jobs[2:])),
        _main_event_loop=None,
        _submit_job=submitted.append,
        _submit_array_jobs=submitted.extend,
    )
    # As many as `--jobs 2` allows.
    Executor.run_jobs(executor, jobs[:2])
    assert submitted == jobs[:2]


PACKED = (5, 6, 7)


@pytest.fixture(scope="module")
def packed(folder, cluster) -> Ordeal:
    """Train three seeds in one job, each on two GPUs.

    Preempt it in the first training, and kill the second when the first has ended.
    """
    told = Ordeal(folder)
    (folder / "packed.yaml").write_text(yaml.safe_dump({"seeds": list(PACKED)}))
    site = folder / PROFILE / "site.yaml"
    several = {"trainings_per_job": len(PACKED), "trainings_together": 1, "gpus_per_training": 2}
    together = rewritten(site, yaml.safe_dump(yaml.safe_load(site.read_text()) | several))
    slow = folder / SLOW
    slow.touch()
    before = cluster.jobs()

    def jobs() -> list[str]:
        return [job for job in cluster.jobs("rule_train_exp_gauss_shearnet") if job not in before]

    def under_way(seeds: set[int]) -> list[int]:
        return [seed for seed in seeds if len(epochs(folder, seed)) > 5]

    with together, run_through(cluster, told, [*submit(*map(model_of, PACKED)), "packed.yaml"]):
        until(jobs, 60, "the trainings were not submitted")
        until(lambda: under_way({*PACKED}), 90, "no training started")
        (job,) = jobs()
        (first,) = under_way({*PACKED})
        told.first["job"] = cluster.job(job)
        told.devices = [device_of(cluster, job)]
        told.lost_at["preemption"] = {first: epochs(folder, first)[-1]}
        cluster.preempt()
        until(lambda: cluster.job(job).get("Restarts") == "1", 60, "not preempted")
        until(
            lambda: any(epoch >= told.lost_at["preemption"][first] for epoch in epochs(folder, first)[:1]),
            90,
            "not resumed after preemption",
        )
        told.resumed_at["preemption"] = {first: epochs(folder, first)[0]}
        slow.unlink()
        until((folder / model_of(first)).exists, 90, "the first has not ended")
        slow.touch()
        others = {*PACKED} - {first}
        until(lambda: under_way(others), 90, "the second has not started")
        (second,) = under_way(others)
        told.lost_at["kill"] = {first: EPOCHS, second: epochs(folder, second)[-1]}
        script_of(cluster, job).kill()
        slow.unlink()
    told.last = {name: cluster.job(name) for name in jobs()}
    return told


@pytest.mark.slow
def test_seeds_of_a_variant_share_a_job(packed):
    job = packed.first["job"]
    # One after the other: what one needs, for three times its time, which is a third of the longest.
    assert (job["TimeLimit"], job["Requeue"]) == ("1-00:00:00", "1")
    assert packed.status == 0, packed.output[-4000:]
    assert len(packed.last) == 2  # the first attempt of all three, and the one after the kill


@pytest.mark.slow
def test_a_training_on_two_gpus_asks_for_both_on_one_node(packed):
    job = packed.first["job"]
    assert (job["TresPerJob"], job["NumNodes"], job["NumCPUs"]) == ("gres:gpu:standin:2", "1", "2")
    assert job["MinMemoryNode"] == "16000M"  # twice that of one
    assert packed.devices == ["0,1"]


@pytest.mark.slow
def test_a_preempted_job_goes_on_from_its_last_epoch(packed):
    for seed, epoch in packed.lost_at["preemption"].items():
        assert 0 <= packed.resumed_at["preemption"][seed] - epoch <= 10


@pytest.mark.slow
def test_nothing_is_trained_twice_when_one_training_of_a_job_was_killed(packed):
    for seed in PACKED:
        history = pd.read_csv((packed.folder / model_of(seed)).with_name("history.csv"))
        assert history.epoch.tolist() == list(range(1, EPOCHS + 1))
    # Snakemake has deleted what the first training made; the last attempt had only to write it again.
    for seed, epoch in packed.lost_at["kill"].items():
        assert all(shown >= epoch for shown in epochs(packed.folder, seed))
    assert not list(packed.folder.glob("results/tiny/checkpoints/*/*/seed[567].pt"))


@pytest.mark.slow
def test_seeds_that_train_together_share_their_steps_and_a_job(folder, cluster):
    seeds = (8, 9)
    (folder / "together.yaml").write_text(yaml.safe_dump({"seeds": list(seeds), "training": {"epochs": 3}}))
    site = folder / PROFILE / "site.yaml"
    options = {"trainings_per_job": len(seeds), "trainings_together": len(seeds)}
    before = cluster.jobs()
    with rewritten(site, yaml.safe_dump(yaml.safe_load(site.read_text()) | options)):
        done = call(cluster, folder, [*submit(*map(model_of, seeds)), "together.yaml"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert len([job for job in cluster.jobs() if job not in before]) == 1
    shown = [
        re.findall(r"seed (.*): \d+/\d+ stamps, epoch (\d)", log_of(folder, k).read_text()) for k in seeds
    ]
    first = next(lines for lines in shown if lines)
    assert [epoch for _, epoch in first] == ["1", "2", "3"]
    assert {frozenset(names.split()) for names, _ in first} == {frozenset("89")}
    assert shown.count([]) == 1  # the other had nothing left to do
    for seed in seeds:
        assert pd.read_csv((folder / model_of(seed)).with_name("history.csv")).epoch.tolist() == [1, 2, 3]


PARTS = """
rule all:
    input: expand("parts/{n}", n=range(6))
rule part:
    output: "parts/{n}"
    shell: "touch {output}"
"""


@pytest.mark.slow
def test_groups_are_tasks_of_arrays_and_none_is_lost_when_more_are_ready_than_may_run(folder, cluster):
    (folder / "parts.smk").write_text(PARTS)
    options = "--snakefile parts.smk --jobs 2 --groups part=pair --group-components pair=2".split()
    done = call(cluster, folder, submit(*options))
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = [cluster.job(job) for job in cluster.jobs("rule_pair")]
    assert [job["JobState"] for job in jobs] == ["COMPLETED"] * 3
    assert [job.get("ArrayTaskId") for job in jobs] == ["1", "2", None]
    assert jobs[0]["ArrayJobId"] == jobs[1]["ArrayJobId"]
    assert len(list((folder / "parts").iterdir())) == 6


@pytest.fixture
def full_disk(folder):
    """Give a run a full disk of its own."""
    run = folder / "results/full"
    for part in ("catalogs", "stamps"):
        shutil.copytree(folder / f"results/tiny/{part}", run / part)
    data = run.rename(run.with_name("data"))
    run.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(run)], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        shutil.copytree(data, run, dirs_exist_ok=True)
        with contextlib.suppress(OSError), open(run / "ballast", "wb", buffering=0) as ballast:
            while ballast.write(bytes(4096)):
                pass
        yield run
    finally:
        subprocess.run(["umount", "--lazy", str(run)], check=True)


def test_a_full_disk_is_named_and_leaves_nothing_that_is_trusted(folder, cluster, full_disk):
    (folder / "full.yaml").write_text("run: full\nseeds: [1]\ntraining: {epochs: 3}\n")
    model = full_disk / "models/exp_gauss/shearnet/seed1/model.pt"
    command = [*submit("--retries", "0", str(model.relative_to(folder))), "full.yaml"]
    failed = call(cluster, folder, command)
    assert failed.returncode == 1
    assert "No space left on device" in failed.stdout + failed.stderr
    assert not model.exists()
    (full_disk / "ballast").unlink()
    mended = call(cluster, folder, command)
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert pd.read_csv(model.with_name("history.csv")).epoch.tolist() == [1, 2, 3]
    assert not list(full_disk.rglob("*.part*"))
