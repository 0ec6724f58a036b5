"""Kills, damaged files, two runs at the same time: no incomplete file is used, and no result is lost."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from checkout import copy_workflow
from conftest import arguments, planned, snakemake

from shearbench.figures.catalogue import entries

# What a run measures of itself differs from run to run; everything else must not.
TIMED = ("seconds_per_stamp", "seconds", "stamps_per_second", "peak_mb", "gpu_mb", "gpu_percent")


def answers(folder):
    """Return the numbers of a run, without times and memory."""
    metrics = folder / "results/tiny/metrics"
    tables = {
        path.name: pd.read_csv(path).drop(columns=list(TIMED), errors="ignore")
        for path in metrics.glob("*.csv")
    }
    tables["residuals"] = pd.read_parquet(metrics / "residuals.parquet")
    return tables


def assert_same_answers(one, other):
    first, second = answers(one), answers(other)
    assert first.keys() == second.keys()
    for name in first:
        pd.testing.assert_frame_equal(first[name], second[name], check_exact=True, obj=name)


def start(folder, *options, targets=()):
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", *arguments(*options, targets=targets)],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.kills
def test_killed_at_random_moments_a_run_ends_with_the_same_answers(finished, tmp_path):
    copy_workflow(tmp_path)
    rng = random.Random(int.from_bytes(os.urandom(4)))
    for round_ in range(4):
        process = start(tmp_path)
        try:
            process.wait(timeout=rng.uniform(4, 25))
            break
        except subprocess.TimeoutExpired:
            # In turn the whole machine, as it were, and snakemake alone, whose jobs live on as orphans.
            (os.killpg if round_ % 2 == 0 else os.kill)(process.pid, signal.SIGKILL)
            process.wait()
    snakemake(tmp_path)
    assert planned(tmp_path) == {}
    assert_same_answers(tmp_path, finished)


def test_a_second_run_beside_the_first_is_turned_away_until_that_is_killed(run):
    lock = run / "results/tiny/.lock"
    lock.unlink()
    drawn = [
        f"figure_{name}"
        for name, entry in entries().items()
        if entry.each in ("run", "population") and any(run.glob(f"results/tiny/figures/{name}*.pdf"))
    ]
    first = start(run, "--forcerun", *drawn, targets=["figures"])
    try:
        while not lock.exists() or not lock.read_text():
            assert first.poll() is None
            time.sleep(0.1)
        output = snakemake(run, "--forcerun", "figure_cost", check=False)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert f"process {first.pid} on" in output
    assert "is working on this run" in output
    assert "Traceback" not in output
    snakemake(run, "--forcerun", "figure_cost", targets=["figures"])


STAMPS = "results/tiny/stamps/exp_gauss/test/0.h5"
ESTIMATES = "results/tiny/estimates/exp_gauss/test/0.01/hsm-regauss.parquet"


def damage_truncate(folder):
    path = folder / STAMPS
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return STAMPS, "an HDF5 file of stamps", "simulate_stamps"


def damage_foreign(folder):
    (folder / STAMPS).write_text("not HDF5")
    return STAMPS, "an HDF5 file of stamps", "simulate_stamps"


def damage_missing(folder):
    with h5py.File(folder / STAMPS, "a") as file:
        del file["noise_id"]
    return STAMPS, "noise_id", "simulate_stamps"


def damage_index(folder):
    index = str(Path(STAMPS).with_name("index.json"))
    (folder / index).write_text("{")
    return index, "checksum", "index_stamps"


@pytest.mark.parametrize(
    "damage",
    [
        damage_truncate,
        *(
            pytest.param(one, marks=pytest.mark.slow)
            for one in (damage_foreign, damage_missing, damage_index)
        ),
    ],
)
def test_damaged_stamps_are_named_with_the_rule_to_run_again(run, damage):
    path, field, rule = damage(run)
    output = snakemake(run, "--force", targets=[ESTIMATES], check=False)
    assert path in output
    assert field in output
    assert f"rule '{rule}'" in output
    # It is told once; its traceback is for developers, in a file beside the log.
    assert output.count("error: ") == 1
    assert "Traceback (most recent call last)" not in output
    assert len(list((run / "results/tiny/logs").rglob("*.traceback"))) == 1
    # The command that the message gives mends it.
    assert f"snakemake --forcerun {path}" in output
    snakemake(run, "--forcerun", path, targets=[ESTIMATES])


def test_a_nan_pixel_costs_one_galaxy(run):
    with h5py.File(run / STAMPS, "a") as file:
        file["images"][3, 10, 10] = np.nan
    before = pd.read_parquet(run / ESTIMATES)
    snakemake(run, "--force", targets=[ESTIMATES])
    after = pd.read_parquet(run / ESTIMATES)
    assert after.flag[3] == 1
    assert np.isnan(after.g1[3])
    pd.testing.assert_frame_equal(after.drop(index=3), before.drop(index=3))


def test_a_model_of_another_variant_is_refused(run):
    models = run / "results/tiny/models/exp_gauss"
    (models / "whitened/seed1/model.pt").write_bytes((models / "shearnet/seed1/model.pt").read_bytes())
    target = "results/tiny/estimates/exp_gauss/test/0.01/whitened.seed1.parquet"
    output = snakemake(run, "--force", targets=[target], check=False)
    assert "whitened/seed1/model.pt" in output
    assert "variant" in output
    assert "rule 'train'" in output
    assert not (run / target).exists()


def test_files_of_another_level_estimator_or_run_are_refused(run):
    estimates = run / "results/tiny/estimates/exp_gauss"
    # Of the network that is in no ensemble, whose job would be the only one to say it.
    for one, other in (
        ("test/0.01/refined", "test/1e-05/refined"),
        ("shear/1e-05/refined", "shear/1e-05/whitened"),
    ):
        shutil.copyfile(estimates / f"{other}.seed1.parquet", estimates / f"{one}.seed1.parquet")
    table = run / "results/tiny/metrics/trends.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:4]))
    wanted = [f"results/tiny/{name}" for name in ("metrics/accuracy.csv", "metrics/shear_bias.csv")]
    wanted.append("results/tiny/figures/trends_exp_gauss.pdf")
    output = snakemake(run, "--keep-going", "--force", targets=wanted, check=False)
    for said in (
        "test/0.01/refined.seed1.parquet: noise: found '1e-05', expected '0.01'. Run rule 'predict' again",
        "refined.seed1.parquet: estimator: found 'whitened', expected 'refined'. "
        "Run rule 'predict_shear' again",
        "trends.csv: checksum: found content that changed, expected the content that was written. "
        "Run rule 'evaluate_residuals' again",
    ):
        assert said in " ".join(output.split())


def test_a_failing_job_is_shown_with_its_log_and_the_others_go_on(run):
    module = run / "src/shearbench/figures/cost.py"
    module.write_text(module.read_text() + "\ndef draw(*tables):\n    raise ValueError('no ink')\n")
    (run / "results/tiny/figures/accuracy.png").unlink()
    output = snakemake(run, "--forcerun", "figure_accuracy", check=False)
    assert "no ink" in output
    assert "figure_cost" in output
    assert (run / "results/tiny/figures/accuracy.png").exists()
