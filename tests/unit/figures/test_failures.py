"""An estimator that fails on most galaxies is named wherever its results are shown."""

from __future__ import annotations

import csv

import pandas as pd
from test_figures import accuracy_table, leakage_table, shear_table, texts

from shearbench.evaluation.failures import failing, sentences, sentences_of_run
from shearbench.figures import accuracy, shear_bias
from shearbench.paper.latex import escape
from shearbench.paper.tables import accuracy_tex, estimators_tex, shear_bias_tex

NAME = "hsm-regauss"


def tables():
    """Return accuracy and shear bias where one estimator fails on most galaxies at one noise level."""
    single, pairs = accuracy_table(), shear_table()
    single.loc[(single.estimator == NAME) & (single.noise == single.noise.max()), "n_failed"] = 1001
    single.loc[(single.estimator == "mixture-exp") & (single.noise == single.noise.max()), "n_failed"] = 1000
    pairs.loc[(pairs.estimator == NAME) & (pairs.noise == 1e-2), "n_failed"] = 501
    return single, pairs


def test_more_than_half_is_most_and_seeds_are_added_up():
    single, pairs = tables()
    (one,) = failing(single.to_dict("records"))
    assert (one.estimator, one.n_failed, one.n) == (NAME, 1001, 2000)
    (one,) = failing(pairs.to_dict("records"))
    assert (one.estimator, one.noise, one.n_failed, one.n) == (NAME, 1e-2, 501, 1001)
    seeds = [
        {"population": "p", "noise": 1, "estimator": "w", "label": "w", "seed": seed, "n": 10, "n_failed": k}
        for seed, k in ((1, 2), (2, 9))
    ]
    assert failing(seeds)[0][-2:] == (11, 20)
    assert failing([]) == []


def test_tables_figures_and_the_end_of_the_run_say_it(tmp_path):
    single, pairs = tables()
    label = single.loc[single.estimator == NAME, "label"].iloc[0]
    noise = f"{single.noise.max():g}"
    said = f"{label} fails on most galaxies of exp_gauss: 1001 of 2000 at noise {noise}"
    assert sentences(failing(single.to_dict("records"))) == [said]
    assert escape(said) in accuracy_tex(single)
    assert escape(said) in estimators_tex(single, pairs, leakage_table())
    assert "501 of 1001 at noise 0.01" in shear_bias_tex(pairs)
    assert f"{label} (fails on most)" in texts(accuracy.draw(single))
    assert f"{label} (fails on most)" in texts(shear_bias.draw(pairs, "exp_gauss"))
    assert sentences_of_run(tmp_path) == []
    single.to_csv(tmp_path / "accuracy.csv", index=False, quoting=csv.QUOTE_MINIMAL)
    pairs.to_csv(tmp_path / "shear_bias.csv", index=False)
    first, second = sentences_of_run(tmp_path)
    assert "1001 of 2000" in first
    assert "501 of 1001" in second


def test_nothing_is_said_where_nothing_fails():
    single, pairs = accuracy_table().assign(n_failed=0), shear_table()
    assert "fails on most" not in accuracy_tex(single) + shear_bias_tex(pairs) + texts(accuracy.draw(single))
    assert failing(pd.DataFrame(columns=single.columns).to_dict("records")) == []
