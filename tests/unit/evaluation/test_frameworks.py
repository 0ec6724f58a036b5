"""The tables of the comparison of frameworks, and their figures."""

import numpy as np
import pandas as pd
import pytest

from shearbench.errors import ShearbenchError
from shearbench.evaluation.frameworks import (
    FRAMEWORKS,
    frameworks_table,
    precision_row,
    precision_table,
)
from shearbench.evaluation.joining import Joined
from shearbench.figures import frameworks, frameworks_precision


def accuracy():
    networks = [("numpy", 1), ("torch", 1), ("numpy", 2), ("torch", 2), ("old", -1), ("hsm", -1)]
    rows = [
        {
            "population": "p",
            "noise": noise,
            "estimator": name,
            "label": name,
            "seed": seed,
            "n": 9,
            "n_failed": 0,
        }
        | {
            "rmse": 10 * noise,
            "rmse_err": noise,
            "crb": noise,
            "rmse_over_crb": 10.0,
            "rmse_over_crb_err": 1.0,
        }
        | {"seconds_per_stamp": 1e-3}
        for noise in (1e-5, 1e-3)
        for name, seed in networks
    ]
    return pd.DataFrame(rows)


def histories(of_torch="a1"):
    def history(batches):
        rows = {"epoch": [1, 2], "loss": [2.0, 1.0], "views": [5, 10], "train_seconds": 3.0}
        return pd.DataFrame(rows).assign(compile_seconds=0.5, memory_mb=20.0, parameters=100, batches=batches)

    return [
        ("p", name, seed, history(of_torch if (name, seed) == ("torch", 1) else f"a{seed}"))
        for name in ("numpy", "torch")
        for seed in (1, 2)
    ]


def test_accuracy_and_cost_are_in_one_table():
    table = frameworks_table(accuracy(), histories(), ["old"])
    assert list(table) == list(FRAMEWORKS)
    assert len(table) == 2 * 5
    assert set(table["estimator"]) == {"numpy", "torch", "old"}
    assert set(table.loc[table["estimator"] != "old", "loss"]) == {1.0}
    assert table.loc[table["estimator"] == "old", "train_seconds"].isna().all()
    assert frameworks.draw(table).axes
    assert frameworks.draw(table.iloc[:0]).axes


def test_networks_that_saw_other_batches_are_not_compared():
    with pytest.raises(
        ShearbenchError, match=r"seed 1 were trained with different batches \(numpy: a1, torch: b"
    ):
        frameworks_table(accuracy(), histories("b"))


def joined(estimate, good=None):
    n = len(estimate)
    empty = pd.DataFrame()
    good = np.ones(n, bool) if good is None else good
    return Joined(
        empty, empty, np.zeros((n, 2)), estimate, np.ones((n, 2)), good, np.full((n, 2), 0.2), np.ones(n)
    )


def test_the_noise_at_which_the_bound_is_as_small_as_the_rounding():
    rng = np.random.default_rng(1)
    exact = rng.normal(size=(400, 2))
    rounded = exact + 1e-3 * rng.choice([-1, 1], (400, 2))
    good = np.arange(400) != 7
    rounded[7] = 9
    about = {"population": "p", "noise": 1e-4, "precision": "float32"}
    row = precision_row(joined(rounded, good), joined(exact), about, resamples=50)
    assert row["n"] == 399
    assert row["difference"] == pytest.approx(1e-3)
    assert row["noise_of_floor"] == pytest.approx(1e-4 * 1e-3 / 0.2)
    assert row["difference_err"] < 1e-6
    same = precision_row(joined(exact), joined(exact), about | {"precision": "float64"}, resamples=50)
    assert same["difference"] == 0
    table = precision_table([same, row])
    assert frameworks_precision.draw(table).axes
    assert frameworks_precision.draw(table.iloc[:0]).axes
