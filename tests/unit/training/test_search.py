"""Searches: the variant of a trial, bad spaces, and trials that are pruned, killed and shared by jobs."""

from __future__ import annotations

import math
import re
import threading
import time
from pathlib import Path

import pytest
import yaml
from test_task import FluxTask

from shearbench.config.plain_yaml import read_file
from shearbench.config.reading import DEFAULT, load, resolve
from shearbench.config.searches import plan_searches, read_searches, search_base
from shearbench.errors import ConfigError, ShearbenchError
from shearbench.options import merge
from shearbench.training.recipe import Recipe
from shearbench.training.search import Dimension, Search, recipe_of, values_of, variant_of
from shearbench.training.task import Job
from shearbench.training.train import train
from shearbench.training.variants import resolve_variant

pytest.importorskip("optuna", reason="optuna is not installed: pip install -r requirements.lock")
from shearbench.training.trials import (
    budget,
    importances,
    opened,
    recipe_text,
    run_trials,
    trials_table,
)

ROOT = Path(__file__).parents[3]
SMALL = ROOT / "tests/data/searches/tiny.yaml"
RATE = {"low": 1e-4, "high": 1e-1, "log": True}
SPACE = {
    "training.learning_rate": RATE,
    "training.loss": ["mse", "mae"],
    "options.width": {"low": 8, "high": 64},
}
RATE_KEY = "training.learning_rate"
EPOCHS = 4


@pytest.fixture(scope="module")
def config():
    return load(ROOT / DEFAULT, ROOT / "config/tiny.yaml")


def search_of(**options):
    return Search(
        **{"name": "tuned", "base": "shearnet", "trials": 12, "prune_after": 3, "space": SPACE, **options}
    )


def base_of(**training):
    return resolve_variant("shearnet", {"training": training}, Recipe(epochs=EPOCHS))


# The mapping from values to a variant


def test_a_trial_is_the_base_with_the_values_of_its_trial_and_nothing_else():
    base = resolve_variant("refined", {}, Recipe())
    values = {
        "training.learning_rate": 0.01,
        "training.augmentation": ["d4", "shift"],
        "options.first.options.width": 8,
    }
    found = variant_of(base, values).model_dump(mode="json")
    wanted = base.model_dump(mode="json")
    wanted["training"] |= {"learning_rate": 0.01, "augmentation": ["d4", "shift"]}
    wanted["options"]["first"]["options"]["width"] = 8
    assert found == wanted


def test_an_option_that_the_base_does_not_list_is_not_in_the_space():
    search = search_of(space={"options.first.options.width": [8, 16]})
    assert values_of(resolve_variant("refined", {}, Recipe()), search) is None


def test_the_base_is_the_first_trial_only_if_all_its_values_are_in_the_space():
    base = base_of()
    assert values_of(base, search_of()) == {
        "training.learning_rate": 2e-3,
        "training.loss": "mse",
        "options.width": 16,
    }
    for key, dimension in (
        ("options.width", {"low": 20, "high": 40}),
        ("options.width", {"low": 8, "high": 32, "step": 3}),
        ("training.loss", ["mae", "huber"]),
    ):
        assert values_of(base, search_of(space={**SPACE, key: dimension})) is None


@pytest.mark.parametrize(
    ("dimension", "whole", "ends"),
    [
        ({"low": 16, "high": 64, "step": 16}, True, [16, 64]),
        ({"low": 0, "high": 0.5, "step": 0.1}, False, [0, 0.5]),
        ([[], ["d4"]], False, [[], ["d4"]]),
    ],
)
def test_dimensions(dimension, whole, ends):
    found = Dimension.model_validate(dimension)
    assert (found.whole, found.ends) == (whole, ends)
    assert Dimension(**found.model_dump()) == found, "as a job gets it"
    assert all(map(found.has, ends))


def test_the_recipe_is_a_variant_that_can_be_pasted(config, tmp_path):
    """Also if the run itself changes the training of all networks, or the base is a variant of the run."""
    own = {"variants": {"own": {"base": "whitened", "training": {"ema": 0.99}}}}
    run = resolve(merge(config.dump(), own))
    search = Search(
        name="x", base="own", trials=3, training={"epochs": 5}, space={"training.batch_size": [32, 64]}
    )
    base = search_base(search, run)
    used = {"trials": 3, "core_minutes": 1.25}
    entry = recipe_of("found", base, search, {"training.batch_size": 32}, used)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(entry))
    pasted = resolve(merge(run.dump(), read_file(path)))
    found = pasted.variants["found"]
    assert found.model_dump() == variant_of(base, {"training.batch_size": 32}).model_dump()
    assert found.training.ema == 0.99
    assert found.searched.model_dump() == used
    assert resolve(pasted.dump()).variants["found"].searched == found.searched


# Bad searches: one clear line each, before any job starts


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("options.widht", [8, 16], "space.options.widht: there is no such key (did you mean 'width'?)"),
        ("training.lr", [1, 2], "space.training.lr: there is no such key"),
        (RATE_KEY, {"low": 2, "high": 1}, "low: found 2, expected less than high, which is 1"),
        (RATE_KEY, {"low": 0, "high": 1}, f"space.{RATE_KEY}: found 0, expected at least 1e-12"),
        (RATE_KEY, {"low": 0, "high": 1, "log": True}, "log: a range in the logarithm has a low above zero"),
        (RATE_KEY, {"low": "small", "high": 1}, f"space.{RATE_KEY}.low: found 'small', expected a valid"),
        (RATE_KEY, {"low": 0, "high": 1, "step": 0}, f"space.{RATE_KEY}.step: found 0, expected"),
        (RATE_KEY, {"low": 1e-3}, "low: a range needs low and high"),
        (RATE_KEY, {"low": 1e-3, "hihg": 1}, "hihg: there is no such key (did you mean 'high'?)"),
        (RATE_KEY, {"low": 1e-3, "values": [1, 2]}, "values: a list of choices has no range"),
        (RATE_KEY, True, f"space.{RATE_KEY}: found True"),
        ("options.width", {"low": 8, "high": 20, "step": 5}, "step: 5 does not divide high minus low"),
        ("options.width", {"low": 8, "high": 20.5}, "options.width: found 20.5, expected a valid integer"),
        ("training.loss", ["mse", "msw"], "space.training.loss: found 'msw'"),
        ("training.loss", ["mse"], "expected two or more different choices"),
        ("training.loss", ["mse", "nll"], "training.loss: 'nll' needs the covariance"),
        ("training.batch_size", [64, 512], "training.batch_size: 512 is more than the 256 stamps"),
        ("population.flux", [1, 2], "space.population.flux"),
        ("training", [{}, {"epochs": 2}], "space.training"),
    ],
)
def test_a_bad_space_is_one_clear_line_before_any_job(tmp_path, config, key, value, line):
    wrong_search(tmp_path, config, {"space": {key: value}}, line)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"space": {}}, "space: found {}, expected at least 1 entry"),
        ({"base": "shernet"}, "there is no network 'shernet' (did you mean 'shearnet'?)"),
        ({"population": "exp_gaus"}, "'exp_gaus' is not in this run (did you mean 'exp_gauss'?)"),
        ({"training": {"epoch": 3}}, "training.epoch: there is no such key (did you mean 'epochs'?)"),
        ({"trials": None}, "trials: a search needs a budget"),
        ({"trials": 0}, "trials: found 0, expected at least 1"),
        ({"name": "other"}, "name: found 'other', expected bad, the name of the file"),
        (
            {"space": {"options.body": [{}, []], "options.body.width": [1, 2]}},
            "space.options.body.width: it is a part of options.body",
        ),
    ],
)
def test_a_bad_search_is_one_clear_line_before_any_job(tmp_path, config, changes, line):
    wrong_search(tmp_path, config, changes, line)


def wrong_search(tmp_path, config, changes, line):
    """Check that the fault of a search is told in one line, and stops no other search."""
    good = {"base": "shearnet", "trials": 3, "space": {"options.width": [8, 16]}}
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(good))
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump({**good, **changes}))
    plan = plan_searches(tmp_path, config)
    assert list(plan.known) == ["good"]
    text = plan.wrong["bad"]
    assert text.count("\n") == 0, text
    assert text.startswith(str(tmp_path / "bad.yaml"))
    assert line in text


def test_a_list_of_variants_is_a_search_of_each(tmp_path, config):
    space = {"training.learning_rate": [1e-3, 2e-3], "options.width": [8, 16]}
    content = {"base": ["shearnet", "whitened", "nobody"], "trials": 3, "space": space}
    (tmp_path / "many.yaml").write_text(yaml.safe_dump(content))
    plan = plan_searches(tmp_path, config)
    assert {name: search.base for name, search in plan.known.items()} == {
        "many-shearnet": "shearnet",
        "many-whitened": "whitened",
    }
    assert "nobody" in plan.wrong["many-nobody"]
    identity = plan.known["many-shearnet"].identity
    assert {**identity, "base": "whitened", "name": "many-whitened"} == plan.known["many-whitened"].identity
    for bases in ([], ["shearnet", "shearnet"]):
        (tmp_path / "many.yaml").write_text(yaml.safe_dump({**content, "base": bases}))
        wrong = plan_searches(tmp_path, config).wrong
        assert "expected one or more different variants" in wrong["many"]


def test_all_faults_of_a_space_are_told_at_once(tmp_path, config):
    space = {"options.widht": [8, 16], "training.loss": ["mse", "msw"], "training.epochs": [1, 2]}
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump({"base": "shearnet", "trials": 3, "space": space}))
    assert plan_searches(tmp_path, config).wrong["bad"].count("\n") == 1


@pytest.mark.parametrize("path", sorted(ROOT.glob("config/searches/*.yaml")), ids=lambda path: path.stem)
def test_the_searches_of_the_repository_fit_the_run_that_they_name(path):
    command = re.fullmatch(
        r"# snakemake --cores all (?:--configfile (\S+) -- )?search_(\S+)", path.read_text().splitlines()[0]
    )
    assert command
    config = load(ROOT / DEFAULT, *([ROOT / command[1]] if command[1] else []))
    plan = plan_searches(path.parent, config)
    assert command[2] in plan.known
    found = [search.name for search in read_searches(path)]
    assert {*found} <= {*plan.known}, plan.wrong
    for name in found:
        assert values_of(plan.bases[name], plan.known[name]) is not None, "its first trial is the base"


# Trials, with Optuna and an error that is computed


class Killed(BaseException):
    pass


def error_of(variant):
    best = abs(math.log10(variant.training.learning_rate) + 2.3)
    return best + 0.1 * (variant.training.loss == "mse") + abs(variant.options["width"] - 40) / 100


class Trainer:
    """It tells an error that falls from epoch to epoch, and is killed in a trial and an epoch."""

    def __init__(self, killed_in=None, seconds=6.0, diverges=lambda variant: False):
        self.killed_in, self.seconds, self.diverges = killed_in, seconds, diverges
        self.started = []

    def __call__(self, variant, job):
        self.started.append(variant)
        found, history = error_of(variant), []
        before = int(Path(job.checkpoint).read_text()) if Path(job.checkpoint).exists() else 0
        for epoch in range(1, EPOCHS + 1):
            if (len(self.started), epoch) == self.killed_in:
                raise Killed
            loss = found + 1 / epoch
            history.append({"epoch": epoch, "seconds": self.seconds * epoch, "validation_loss": loss})
            if epoch > before:
                Path(job.checkpoint).write_text(str(epoch))
                job.watch(history)
        return math.nan if self.diverges(variant) else found + 1 / EPOCHS


def run(search, journal, trainer, **options):
    run_trials(search, base_of(), journal, "digest", trainer, **options)
    return trials_table(opened(journal, search), search)


def test_the_first_trial_is_the_base_and_bad_trials_end_early(tmp_path):
    search, trainer = search_of(), Trainer()
    table = run(search, tmp_path / "a.journal", trainer)
    assert len(table) == len(trainer.started) == 12
    assert list(table["trial"]) == list(range(12))
    assert trainer.started[0] == base_of()
    assert set(table["state"]) == {"complete", "pruned"}
    complete, pruned = (table[table["state"] == state] for state in ("complete", "pruned"))
    assert (complete["epochs"] == EPOCHS).all()
    assert (pruned["epochs"] < EPOCHS).all()
    assert pruned["trial"].min() >= 3, "prune_after"
    assert table["core_minutes"].sum() == pytest.approx(0.1 * table["epochs"].sum())
    assert table["options.width"].between(8, 64).all()
    assert not list(tmp_path.glob("*.pt*")), "states of trainings"
    study = opened(tmp_path / "a.journal", search)
    best = complete.loc[complete["validation_loss"].idxmin()]
    text = recipe_text(study, search, base_of())
    assert f"trial {best['trial']}, validation loss {best['validation_loss']:.5g}; shearnet itself" in text
    entry = yaml.safe_load(text)["variants"]["tuned-searched"]
    assert entry["training"]["learning_rate"] == best["training.learning_rate"]
    assert (
        entry["searched"]
        == budget(study)
        == {"trials": 12, "core_minutes": pytest.approx(table["core_minutes"].sum())}
    )
    assert importances(study)["importance"].sum() == pytest.approx(1)
    # A larger budget goes on, and one that is spent starts nothing.
    assert run(search, tmp_path / "a.journal", Trainer()).equals(table)
    longer = run(search_of(trials=14), tmp_path / "a.journal", trainer)
    assert len(longer) == 14
    assert longer[:12].equals(table)


def test_the_loss_of_a_trial_that_ended_early_is_its_lowest(tmp_path):
    def evaluate(variant, job):
        losses = enumerate([0.5, 0.2, 0.9], 1)
        job.watch([{"epoch": epoch, "seconds": 1.0, "validation_loss": loss} for epoch, loss in losses])
        return math.nan

    table = run(search_of(trials=1), tmp_path / "a.journal", evaluate)
    assert table[["state", "validation_loss"]].to_numpy().tolist() == [["diverged", 0.2]]


def test_without_pruning_all_trials_are_complete(tmp_path):
    table = run(search_of(trials=8, prune_after=None), tmp_path / "a.journal", Trainer())
    assert set(table["state"]) == {"complete"}


def test_a_killed_search_goes_on_without_losing_a_finished_trial(tmp_path):
    search = search_of(trials=6)
    whole = run(search, tmp_path / "whole.journal", Trainer())
    journal = tmp_path / "killed.journal"
    with pytest.raises(Killed):
        run(search, journal, Trainer(killed_in=(3, 3)))
    before = trials_table(opened(journal, search), search)
    assert list(before["trial"]) == [0, 1], "the third is running"
    assert len(list(tmp_path.glob("*.pt"))) == 1
    with open(journal, "ab") as file:
        file.write(b'{"op_code":8,"wor')  # a line that the killed process wrote in part
    trainer = Trainer()
    table = run(search, journal, trainer)
    assert table[:2].equals(before)
    (killed,) = table[table["state"] == "killed"].to_dict("records")
    assert (killed["trial"], killed["epochs"]) == (2, 2)
    again = table[table["trial"] == 3].iloc[0]
    assert again["attempt"] == 2
    assert not list(tmp_path.glob("*.pt*"))
    # The trials are those of the search that was not killed, but for the numbers after the kill.
    same = [name for name in table if name not in ("trial", "attempt")]
    rest = table[table["state"] != "killed"].reset_index(drop=True)
    assert rest[same].equals(whole[same])
    assert budget(opened(journal, search)) == budget(opened(tmp_path / "whole.journal", search))


def test_a_trial_that_kills_its_job_each_time_is_given_up(tmp_path):
    search = search_of(trials=2)
    for _ in range(3):
        with pytest.raises(Killed):
            run(search, tmp_path / "a.journal", Trainer(killed_in=(1, 1)))
    table = run(search, tmp_path / "a.journal", Trainer())
    assert list(table["state"]) == ["killed", "killed", "killed", "complete"]
    assert list(table["attempt"]) == [1, 2, 3, 1]
    assert budget(opened(tmp_path / "a.journal", search))["trials"] == 2


def test_a_damaged_record_is_named(tmp_path):
    journal = tmp_path / "a.journal"
    run(search_of(trials=1), journal, Trainer())
    journal.write_bytes(b"{no json\n" + journal.read_bytes())
    with pytest.raises(ShearbenchError, match=r"a\.journal: the record of the trials is damaged"):
        opened(journal, search_of())


def test_trials_that_diverge_or_are_refused_are_counted_and_do_not_stop_the_search(tmp_path):
    space = {
        "training.batch_size": [60, 64],
        "training.realisations": [1, 3],
        "options.width": {"low": 8, "high": 64},
    }
    search = search_of(trials=16, space=space, prune_after=None)
    base = base_of(batch_size=60)
    trainer = Trainer(diverges=lambda variant: variant.options["width"] > 40)
    run_trials(search, base, tmp_path / "a.journal", "digest", trainer)
    table = trials_table(opened(tmp_path / "a.journal", search), search)
    refused = (table["training.batch_size"] == 64) & (table["training.realisations"] == 3)
    diverged = ~refused & (table["options.width"] > 40)
    assert len(table) == 16
    assert refused.any()
    assert diverged.any()
    assert (table["state"] == "refused").equals(refused)
    assert (table["state"] == "diverged").equals(diverged)
    assert table.loc[refused, "validation_loss"].isna().all()


def test_no_trial_starts_after_the_core_minutes_are_spent(tmp_path):
    search = search_of(trials=None, core_minutes=1.9, prune_after=None)
    table = run(search, tmp_path / "a.journal", Trainer(seconds=7.5), threads=2)
    assert len(table) == 2, "1 core-minute each"
    assert budget(opened(tmp_path / "a.journal", search)) == {"trials": 2, "core_minutes": 2}


def test_a_search_without_a_complete_trial_has_no_recipe(tmp_path):
    search = search_of(trials=2)
    run(search, tmp_path / "a.journal", Trainer(diverges=lambda variant: True))
    with pytest.raises(ShearbenchError, match=r"search tuned: none of the trials is complete"):
        recipe_text(opened(tmp_path / "a.journal", search), search, base_of())


def test_several_jobs_share_the_trials_and_do_not_exceed_the_budget(tmp_path):
    search, journal, slow = search_of(trials=9), tmp_path / "a.journal", Trainer()

    def train_slowly(variant, job):
        time.sleep(0.02)
        return slow(variant, job)

    jobs = [
        threading.Thread(
            target=run_trials,
            args=(search, base_of(), journal, "digest", train_slowly),
            kwargs={"worker": worker, "workers": 3},
        )
        for worker in range(3)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    table = trials_table(opened(journal, search), search)
    assert len(table) == 9
    assert table["worker"].nunique() > 1
    assert not table.duplicated(["training.learning_rate", "options.width"]).any()


def test_a_job_takes_only_its_own_trials_for_killed_and_the_first_those_of_jobs_that_are_gone(tmp_path):
    search, journal = search_of(trials=4), tmp_path / "a.journal"
    with pytest.raises(Killed):
        run(search, journal, Trainer(killed_in=(1, 1)), worker=1, workers=2)
    other = run(search_of(trials=2), journal, Trainer(), worker=0, workers=2)
    assert "killed" not in set(other["state"]), "the other job may still train it"
    table = run(search, journal, Trainer(), worker=0, workers=1)
    assert list(table["state"]).count("killed") == 1
    assert (table["state"] == "complete").sum() + (table["state"] == "pruned").sum() == 4


@pytest.mark.trains
def test_a_training_ends_when_the_watcher_of_its_epochs_says_so_and_continues_later(tmp_path):
    class Enough(Exception):
        pass

    seen = []

    def watch(history):
        seen.append(len(history))
        if len(history) == 2:
            raise Enough

    with pytest.raises(Enough):
        train(FluxTask(), Job(seed=1, checkpoint=tmp_path / "state.pt", watch=watch))
    assert seen == [0, 1, 2]
    train(
        FluxTask(), Job(seed=1, checkpoint=tmp_path / "state.pt", watch=lambda rows: seen.append(len(rows)))
    )
    assert seen[3:] == [2, 3, 4, 5, 6]


def test_the_name_of_a_search_is_that_of_its_file():
    assert [search.name for search in read_searches(SMALL)] == ["tiny"]
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        read_searches(ROOT / "config/searches/nowhere.yaml")
