"""Searches in the plan of a run: their files and digests, and the label of a variant that was searched."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from shearbench.config.plain_yaml import read_file
from shearbench.config.reading import resolve
from shearbench.config.searches import plan_searches
from shearbench.config.studies import Studies
from shearbench.errors import ConfigError
from shearbench.options import merge
from shearbench.plan.digests import Digests
from shearbench.plan.run import Run

ROOT = Path(__file__).parents[3]
SEARCH = ROOT / "tests/data/searches/tiny.yaml"
GIVEN = merge(read_file(ROOT / "config/config.yaml"), read_file(ROOT / "config/tiny.yaml"))
FOUND = {"base": "shearnet", "options": {"width": 8}}
BUDGET = {"trials": 40, "core_minutes": 61.25}


def digests_of(folder, changes=None, search=None):
    """Return the digests of the tiny run with changes to its configuration and to its search."""
    config = resolve(merge(GIVEN, changes or {}))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(merge(read_file(SEARCH), search or {})))
    run = Run(config, Studies({}, {}, {}, {}), {}, plan_searches(folder, config))
    return Digests(run, ROOT / "scripts", lambda population: [])


def test_each_file_of_a_search_has_an_origin(tmp_path):
    digests = digests_of(tmp_path, {"search_workers": 2})
    run = digests.run
    rules = {
        path: digests.origin(path) for path in (*run.search_workers("tiny"), *run.search_results("tiny"))
    }
    made = {path.removeprefix(run.folder + "/"): one and one.rule for path, one in rules.items()}
    assert made == {
        "searches/tiny/worker0.txt": "run_trials",
        "searches/tiny/worker1.txt": "run_trials",
        "searches/tiny.yaml": "search",
        "metrics/searches/tiny/trials.csv": "search",
        "metrics/searches/tiny/importances.csv": "search",
        "figures/search_tiny.pdf": None,
        "figures/search_tiny.png": None,
    }
    jobs = {digests.job(one) for one in rules.values() if one is not None}
    assert len(jobs) == 3, "two jobs that run trials, and one for the rest"


@pytest.mark.parametrize(
    ("search", "changes", "anew"),
    [
        ({"trials": 9}, {}, False),
        ({"core_minutes": 3}, {}, False),
        ({"prune_after": 2}, {}, False),
        ({"seed": 7}, {}, True),
        ({"training": {"epochs": 3}}, {}, True),
        ({"space": {"options.width": {"high": 20}}}, {}, True),
        ({}, {"training": {"schedule": "constant"}}, True),
        ({}, {"galaxies": {"train": 128}}, True),
    ],
)
def test_a_larger_budget_continues_a_search_and_other_data_or_options_begin_a_new_one(
    tmp_path, search, changes, anew
):
    before, after = digests_of(tmp_path), digests_of(tmp_path, changes, search)
    assert (before.trial("tiny") != after.trial("tiny")) == anew
    for result in ("run_trials", "search"):
        assert getattr(before, result)("tiny") != getattr(after, result)("tiny")


def test_the_budget_of_a_searched_variant_is_in_its_label_and_retrains_nothing(tmp_path):
    plain = digests_of(tmp_path, {"variants": {"found": FOUND}})
    searched = digests_of(tmp_path, {"variants": {"found": {**FOUND, "searched": BUDGET}}})
    assert "found" not in plain.run.labels
    assert searched.run.labels["found"] == "found (searched: 40 trials, 61.2 core-minutes)"
    assert plain.train("exp_gauss", "found") == searched.train("exp_gauss", "found")
    for result in ("evaluate_accuracy", "evaluate_shear_bias", "tables", "paper"):
        assert getattr(plain, result)() != getattr(searched, result)(), result
    assert searched.run.described["networks"]["found"]["searched"] == "40 trials, 61.2 core-minutes"
    assert not any("found" in label for label in searched.run.described["labels"])


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"variants": {"found": {**FOUND, "searched": {"trials": 40}}}},
            "variants.found.searched.core_minutes",
        ),
        (
            {"encoders": {"e": {**FOUND, "searched": BUDGET}}},
            "encoders.e.searched: only the section variants",
        ),
    ],
)
def test_a_wrong_budget_is_one_clear_line(changes, line):
    with pytest.raises(ConfigError) as error:
        resolve(merge(GIVEN, changes))
    assert line in str(error.value)
    assert "\n" not in str(error.value)
