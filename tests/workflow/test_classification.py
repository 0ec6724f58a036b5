"""The classification by morphology, from images to figures; and a user's file in the published format."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import preloaded
import pytest
import yaml
from checkout import ROOT, copy_workflow

import shearbench as sb
from shearbench.data.labelled_images import read_splits
from shearbench.errors import ShearbenchError
from shearbench.figures.catalogue import entries

FIGURES = [name for name, entry in entries().items() if entry.each == "morphology"]


def snakemake(folder: Path, *options: str, target: str = "morphology", check: bool = True) -> str:
    """Run snakemake on the tiny configuration of the classification, and return all that it printed."""
    arguments = ["--cores", "2", *options, "--configfile", "config/morphology_tiny.yaml", "--", target]
    status, printed = preloaded.run(folder, *arguments)
    if check:
        assert status == 0, printed[-8000:]
    return printed


def configure(folder: Path, **changes: object) -> None:
    """Change options of the section ``morphology``."""
    path = folder / "config/morphology_tiny.yaml"
    config = yaml.safe_load(path.read_text())
    config["morphology"].update(changes)
    path.write_text(yaml.safe_dump(config))


@pytest.fixture(scope="module")
def classified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the tiny classification has run to its end."""
    folder = tmp_path_factory.mktemp("classified")
    copy_workflow(folder)
    snakemake(folder)
    return folder


def test_all_tables_and_figures_are_made(classified):
    results = classified / "results/morphology_tiny"
    summary = pd.read_csv(results / "metrics/morphology.csv")
    assert summary["variant"].tolist() == ["small-cnn", "equivariant"]
    assert (summary["n_images"] == 15).all()
    assert np.isfinite(summary.drop(columns=["variant", "architecture"]).filter(regex="^(?!.*scatter)")).all(
        axis=None
    )
    for name in FIGURES:
        assert (results / f"figures/{name}.png").stat().st_size > 1000
    assert (results / "tables/morphology.tex").read_text().count("equivariant") == 2
    angles = pd.read_csv(results / "metrics/morphology_angles.csv")
    invariant = angles[(angles["variant"] == "equivariant") & (angles["angle_deg"] == 90)]
    assert invariant["agreement"].item() > 0.9  # one of 15 images may be a tie, which rounding decides
    assert not list(results.rglob("seed*.pt")), "the states of finished trainings are removed"


def test_a_classifier_is_a_function_of_images(classified, monkeypatch):
    run = sb.load_run(classified / "results/morphology_tiny")
    variant, seed = run.trained_classifiers[0]
    classifier = run.classifier(variant)
    assert repr(classifier).startswith(f"<Classifier {variant}, seed {seed}: 10 classes, images of ")
    folder = run.folder / "morphology"
    images = read_splits(folder / "images.h5", **run.plan.images_with_classes)[2].images
    found = pd.read_parquet(folder / f"predictions/{variant}.seed{seed}.parquet")
    for angle in sorted(set(found["angle_deg"]))[:2]:
        expected = found.loc[found["angle_deg"] == angle, [f"p{k}" for k in range(10)]]
        np.testing.assert_allclose(classifier(images, angle), expected, atol=1e-6)
    broken = images[:2].astype(float)
    broken[1, 0, 0, 0] = np.nan
    both = classifier(broken)
    np.testing.assert_allclose(both[0], classifier(broken[0]), atol=1e-6)
    assert np.isnan(both[1]).all()
    with pytest.raises(ShearbenchError, match=r"images: found the shape \(3,\)"):
        classifier([1, 2, 3])
    with pytest.raises(ShearbenchError, match=f"no trained classifier other; it has {variant}"):
        run.classifier("other")
    # The lines of the documentation.
    (code,) = re.findall("```python\n(.*?)```", (ROOT / "docs/morphology.md").read_text(), re.DOTALL)
    monkeypatch.chdir(classified)
    exec(code.replace("results/morphology", "results/morphology_tiny"), {})


def test_nothing_is_made_again_and_a_new_recipe_trains_one_classifier(classified):
    assert "Nothing to be done" in snakemake(classified, "--dry-run")
    change = "morphology={variants: {small-cnn: {training: {label_smoothing: 0.2}}}}"
    output = snakemake(classified, "--dry-run", "--config", change)
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE))
    assert jobs["train_classifier"] == "1"
    assert "simulate_morphology" not in jobs


@pytest.mark.slow
def test_a_file_in_the_published_format_is_classified(tmp_path):
    copy_workflow(tmp_path)
    rng = np.random.default_rng(1)
    with h5py.File(tmp_path / "Galaxy10.h5", "w") as file:
        file["images"] = rng.integers(0, 256, (80, 69, 69, 3), dtype=np.uint8)
        file["ans"] = np.repeat(np.arange(10, dtype=np.uint8), 8)
    configure(tmp_path, images={"file": "Galaxy10.h5"}, variants={"small-cnn": {"training": {"epochs": 1}}})
    snakemake(tmp_path, target="results/morphology_tiny/tables/morphology.tex")
    results = tmp_path / "results/morphology_tiny"
    assert pd.read_csv(results / "metrics/morphology_classes.csv")["n_images"].tolist() == [1] * 10
    assert not (results / "morphology/images.h5").exists()

    # A bad file, or one that is gone, is said before any job starts.
    with h5py.File(tmp_path / "Galaxy10.h5", "r+") as file:
        file["ans"][0] = 10
    for said in ("'ans' has the label 10", "there is no such file"):
        output = snakemake(tmp_path, "--dry-run", check=False)
        assert re.search(rf"morphology.images.file: Galaxy10.h5: {said}", output), output[-3000:]
        assert "Traceback" not in output
        (tmp_path / "Galaxy10.h5").unlink(missing_ok=True)


def test_a_run_without_the_section_says_so(tmp_path):
    copy_workflow(tmp_path)
    (tmp_path / "config/morphology_tiny.yaml").write_text("run: none\n")
    output = snakemake(tmp_path, "--dry-run", check=False)
    assert "morphology: this configuration has no such section; use --configfile" in output
