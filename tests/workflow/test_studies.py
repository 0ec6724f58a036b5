"""A study from its file to its verdict."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from conftest import planned, snakemake

STUDY = """
question: How long may steps be?
base: shearnet
axis: training.learning_rate
values: {short: 1e-3, long: 1.0e+30}
seeds: [1]
training: {epochs: 1}
inside: [flow, curves, cost, shifts, batches]
"""


@pytest.mark.slow
def test_a_value_that_diverges_is_a_result(run: Path):
    for other in (run / "config/studies").glob("*.yaml"):
        other.unlink()
    (run / "config/studies/rates.yaml").write_text(STUDY)
    with open(run / "config/tiny.yaml", "a") as file:
        file.write("study_networks_per_job: 2\n")
    snakemake(run, targets=["study_rates"])
    metrics = run / "results/tiny/metrics/studies"
    table = pd.read_csv(metrics / "rates.csv")
    judged = table[table["judged"]].set_index("value")
    assert judged["n_diverged"].to_dict() == {"short": 0, "long": 1}
    assert judged["n_failed"].to_dict() == {"short": 0, "long": 96}
    assert "Without a result: long (diverged)." in (metrics / "rates_verdict.txt").read_text()
    assert "diverged" in (run / "results/tiny/tables/study_rates.tex").read_text()
    # Inside, the network that diverged is left out.
    for kind in ("flow", "curves", "cost", "shifts", "batches"):
        assert set(pd.read_csv(metrics / f"rates_{kind}.csv")["value"]) == {"short"}
    figures = {path.stem for path in (run / "results/tiny/figures").glob("*_rates.png")}
    inside = {"gradient_flow", "activation_curves", "step_cost", "shifts", "batches"}
    assert figures == {f"{name}_rates" for name in ("study", *inside)}
    assert planned(run, targets=["study_rates"]) == {}
    # The two share a job. If one changes, the other is not trained again.
    log = run / "results/tiny/logs/train/studies_1.log"
    assert log.read_text().count("1/1") == 2
    (run / "config/studies/rates.yaml").write_text(STUDY.replace("1.0e+30", "2e-3"))
    assert planned(run, targets=["study_rates"])["train_studies_1"] == 1
    judgement = [str((metrics / "rates.csv").relative_to(run))]
    snakemake(run, targets=judgement)
    kept, trained = log.read_text().split("for rates (long)")
    assert "rates (short)\nmade before" in kept
    assert "made before" not in trained
    assert (pd.read_csv(metrics / "rates.csv")["n_diverged"] == 0).all()
    assert planned(run, targets=judgement) == {}
    # Where the run itself names the network, it is an error.
    entry = "variants={long: {base: shearnet, training: {learning_rate: 1.0e+30, epochs: 1}}}"
    model = "results/tiny/models/exp_gauss/long/seed1/model.pt"
    said = snakemake(run, "--config", entry, targets=[model], check=False)
    assert "variants.long: the training with seed 1 diverged" in said
    assert not (run / model).exists()
