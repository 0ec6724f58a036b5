"""The page of the studies, written from their tables."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from shearbench.evaluation.beliefs import SUMMARY, holds
from shearbench.evaluation.study import study_table
from shearbench.evaluation.study_shear import study_shear_table
from shearbench.studies import Study
from shearbench.tools import studies
from shearbench.tools.studies import MACHINE, TABLES, all_studies, main, page

ROOT = Path(__file__).parents[3]


def study_of(**changes):
    return Study(
        **{
            "name": "pooling",
            "question": "Does pooling set the floor?",
            "belief": "Pooling | striding is best.",
            "source": "Somebody 2020",
            "base": "pooled",
            "values": {"max": {}, "mean, of all": {}, "strided": {}, "lost": {}},
            "expects": {"mean, of all": "helps", "strided": "makes no difference", "lost": "hurts"},
            **changes,
        }
    )


def table_of(study):
    """Return the table of a study: the second value helps, the third is like the first, the last diverges."""
    rows, lost = [], set()
    for label, ratio in zip(study.values, (10, 5, 10.1, math.nan)):
        for seed in (1, 2, 3):
            for noise in study.levels:
                rows.append(
                    {
                        "population": "exp_gauss",
                        "noise": noise,
                        "estimator": f"convnet.{label}",
                        "seed": seed,
                        "n": 100,
                        "n_failed": 0,
                        "rmse_over_crb": ratio * (1 + 0.01 * seed),
                        "rmse_over_crb_err": 0.01,
                    }
                )
            if math.isnan(ratio):
                lost.add((f"convnet.{label}", seed))
    networks = {label: f"convnet.{label}" for label in study.values}
    seconds = {(network, seed): 60.0 for network in networks.values() for seed in (1, 2, 3)}
    return study_table(study, networks, pd.DataFrame(rows), lost, seconds=seconds)


def test_the_page_has_question_belief_source_outcome_and_cost(tmp_path, monkeypatch):
    study = study_of()
    other = study_of(name="other", noise=1e-5)
    known = {"pooling": study, "other": other, "waiting": study_of(name="waiting")}
    run = tmp_path / "run"
    (run / "metrics/studies").mkdir(parents=True)
    (run / "figures").mkdir()
    for one in (study, other):
        table_of(one).to_csv(run / f"metrics/studies/{one.name}.csv", index=False)
        (run / f"figures/study_{one.name}.png").write_bytes(b"x")
    (run / "figures/studies.png").write_bytes(b"x")
    monkeypatch.setattr(studies, "all_studies", lambda: known)
    main(str(run), str(tmp_path))
    text = (tmp_path / "studies.md").read_text()
    assert "| [pooling](#pooling) | Pooling \\| striding is best. | holds | holds |" in text
    assert "| [other](#other) | Pooling \\| striding is best. | holds | not judged |" in text
    assert "(Somebody 2020)" in text
    assert "| helps | 0.5000 ± 0.0041 | helps |" in text or "| helps | 0.50" in text
    assert "diverged in 3 of 3 seeds" in text
    assert "| pooling | 4 | 3 | 12.0 |" in text
    assert "| all | 4 | | 12.0 |" in text  # both have the same networks
    assert "Not run yet: `waiting`." in text
    assert text == page(tmp_path / TABLES, known)
    for image in ("studies", "study_pooling"):
        assert (tmp_path / TABLES / f"{image}.png").exists()
    # Without a run, the same page from the same tables.
    main(str(tmp_path))
    assert (tmp_path / "studies.md").read_text() == text
    # A study of another machine is named, and its time is not added to that of this one.
    where = json.loads((tmp_path / TABLES / MACHINE).read_text())
    (tmp_path / TABLES / MACHINE).write_text(json.dumps(where | {"elsewhere": {"other": "two cores"}}))
    main(str(tmp_path))
    text = (tmp_path / "studies.md").read_text()
    assert "| other (two cores) | 4 | 3 |" in text
    assert text.count("Run by itself: two cores.") == 1
    assert "| all of this machine | 4 | | 12.0 |" in text


def test_the_page_has_biases_and_measurements_inside_where_a_study_asks_for_them(tmp_path, monkeypatch):
    study = study_of(name="mixing", shear=True, noise=1e-5, inside=["shifts"])
    monkeypatch.setattr(studies, "all_studies", lambda: {"mixing": study})
    run = tmp_path / "run"
    (run / "metrics/studies").mkdir(parents=True)
    (run / "figures").mkdir()
    table_of(study).to_csv(run / "metrics/studies/mixing.csv", index=False)
    for name in ("studies", "study_mixing", "shifts_mixing"):
        (run / f"figures/{name}.png").write_bytes(b"x")
    main(str(run), str(tmp_path))
    assert "**m and c:** not measured yet." in (tmp_path / "studies.md").read_text()
    rows = []
    for label in study.values:
        for seed in (1, 2, 3):
            errors = dict.fromkeys(("m1_err", "m2_err", "c1_err", "c2_err"), 1e-3)
            values = {"m1": 0.2 if label == "strided" else 0.0, "m2": 0.0, "c1": 0.0, "c2": 0.0}
            if label == "lost":
                values = dict.fromkeys(values, math.nan)
            about = {"estimator": f"convnet.{label}", "seed": seed, "noise": 1e-5, "calibration": "none"}
            rows.append({**about, **values, **errors, "n_pairs": 9, "n_failed": 0})
    biases = study_shear_table(
        study, {label: f"convnet.{label}" for label in study.values}, pd.DataFrame(rows)
    )
    biases.to_csv(run / "metrics/studies/mixing_shear.csv", index=False)
    main(str(run), str(tmp_path))
    text = (tmp_path / "studies.md").read_text()
    assert "biases of 3 sigma or more are seen for strided (m1 = 0.2" in text
    assert "no bias is seen for max, mean, of all." in text
    assert "there is no result for lost." in text
    assert "| strided | 1e-05 | 0.2000 ±" in text
    assert "| lost | 1e-05 |  |  |  |  |" in text
    assert f'src="{TABLES}/shifts_mixing.png"' in text
    assert "Sensitivity to a shift" in text
    assert (tmp_path / TABLES / "shifts_mixing.png").exists()
    assert text == page(tmp_path / TABLES, {"mixing": study})


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        (["helps", "no difference seen at this precision", "diverged"], "holds"),
        (["hurts", "helps", "no difference seen at this precision"], "does not hold"),
        (["no result", "one seed", "no result"], "not judged"),
        (
            ["helps", "hurts", "no difference seen at this precision"],
            'in part: holds for "mean, of all"; does not hold for strided; not seen for lost',
        ),
    ],
)
def test_whether_a_belief_holds_is_computed_from_the_outcomes(outcomes, said):
    study = study_of()
    known = {"value": list(study.expects), "outcome": outcomes, "effect": 1.01, "effect_err": 0.02}
    effects = pd.DataFrame(known, columns=SUMMARY)
    assert holds(study, effects) == said
    if said == "holds":  # a difference of 15% would not have been seen
        assert "not seen for strided" in holds(study, effects.assign(effect_err=0.1))
    assert holds(study, effects.iloc[:0]) == "not judged"


def test_the_page_in_the_documentation_is_that_of_its_tables(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs/studies.md").read_text(encoding="utf-8")
    assert text == page(ROOT / "docs" / TABLES, all_studies()), "run: python -m shearbench.tools.studies docs"
