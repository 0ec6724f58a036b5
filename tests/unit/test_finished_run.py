"""The figures of a finished run in Python."""

from pathlib import Path

import shearbench as sb

ROOT = Path(__file__).parents[2]


def test_the_figures_of_a_run_are_listed_with_and_without_searches(tmp_path):
    (tmp_path / "config.yaml").write_text((ROOT / "config/config.yaml").read_text())
    tables = tmp_path / "metrics"
    tables.mkdir()
    for name in ("accuracy.csv", "bayes_floor.csv"):
        (tables / name).touch()
    run = sb.load_run(tmp_path)
    assert "accuracy" in run.figures
    assert "search" not in run.figures
    (tables / "searches/recipe").mkdir(parents=True)
    for name in ("trials.csv", "importances.csv"):
        (tables / "searches/recipe" / name).touch()
    assert run.figures["search"] == ["recipe"]
