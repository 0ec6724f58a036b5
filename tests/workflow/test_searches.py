"""A search from its file to its recipe, killed and continued."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import planned, snakemake

from shearbench.config.reading import DEFAULT, load

DATA = Path(__file__).parents[1] / "data/searches"


@pytest.mark.slow
def test_a_search_makes_a_recipe_that_the_next_run_compares(run: Path):
    shutil.rmtree(run / "config/searches", ignore_errors=True)
    shutil.copytree(DATA, run / "config/searches")
    snakemake(run, "--config", "search_workers=2", targets=["search_tiny"])
    results = run / "results/tiny"
    trials = pd.read_csv(results / "metrics/searches/tiny/trials.csv")
    assert len(trials) == 4
    assert (results / "figures/search_tiny.png").exists()
    # A larger budget continues it.
    file = run / "config/searches/tiny.yaml"
    file.write_text(file.read_text().replace("trials: 4", "trials: 5"))
    snakemake(run, targets=["search_tiny"])
    longer = pd.read_csv(results / "metrics/searches/tiny/trials.csv")
    assert longer[:4].equals(trials)
    assert len(longer) == 5
    assert planned(run, targets=["search_tiny"]) == {}
    # The recipe is a configuration. A fault of a search is told before any job starts.
    recipe = results / "searches/tiny.yaml"
    config = load(run / DEFAULT, run / "config/tiny.yaml", recipe)
    assert config.variants["tiny-searched"].searched.trials == 5
    file.write_text(file.read_text().replace("options.width", "options.widht"))
    said = snakemake(run, targets=["search_tiny"], check=False)
    assert "space.options.widht: there is no such key (did you mean 'width'?)" in said
