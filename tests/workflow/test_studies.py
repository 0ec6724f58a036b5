"""A study from its file to its verdict."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from conftest import snakemake

STUDY = """
question: How long may steps be?
base: shearnet
axis: training.learning_rate
values: {short: 1e-3, long: 1.0e+30}
seeds: [1]
training: {epochs: 1}
"""


def test_a_value_that_diverges_is_a_result(run: Path):
    (run / "config/studies/rates.yaml").write_text(STUDY)
    snakemake(run, targets=["study_rates"])
    metrics = run / "results/tiny/metrics/studies"
    table = pd.read_csv(metrics / "rates.csv")
    judged = table[table["judged"]].set_index("value")
    assert judged["n_diverged"].to_dict() == {"short": 0, "long": 1}
    assert judged["n_failed"].to_dict() == {"short": 0, "long": 96}
    assert "Without a result: long (diverged)." in (metrics / "rates_verdict.txt").read_text()
    assert "diverged" in (run / "results/tiny/tables/study_rates.tex").read_text()
    # Where the run itself names the network, it is an error.
    entry = "variants={long: {base: shearnet, training: {learning_rate: 1.0e+30, epochs: 1}}}"
    model = "results/tiny/models/exp_gauss/long/seed1/model.pt"
    said = snakemake(run, "--config", entry, targets=[model], check=False)
    assert "variants.long: the training with seed 1 diverged" in said
    assert not (run / model).exists()
