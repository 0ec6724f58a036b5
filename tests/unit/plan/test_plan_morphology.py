"""The plan of the classification by morphology: files, origins, and what a change makes anew."""

from pathlib import Path

import pytest

from shearbench.config.plain_yaml import dump, read_file
from shearbench.config.reading import load, resolve
from shearbench.config.studies import Studies
from shearbench.errors import ConfigError
from shearbench.options import merge
from shearbench.plan.digests import Digests
from shearbench.plan.run import MORPHOLOGY, Run

ROOT = Path(__file__).parents[3]
FILES = [ROOT / "config" / name for name in ("config.yaml", "morphology_tiny.yaml")]


def digests_of(changes=None, files=FILES):
    given = {}
    for part in (*map(read_file, files), changes or {}):
        given = merge(given, part)
    run = Run(resolve(given), Studies({}, {}, {}, {}))
    return Digests(run, ROOT / "scripts", lambda name: [], labelled=lambda: [{"path": "a", "sha256": "b"}])


def test_all_files_have_an_origin_and_their_own_names():
    digests = digests_of()
    run = digests.run
    made = [
        *run.morphology_results,
        *(path for path in run.morphology_outputs if "/figures/" not in path),
    ]
    origins = [digests.origin(path) for path in made]
    assert None not in origins
    assert len({(one.rule, str(one.names)) for one in origins}) == len(made)
    assert digests.origin(f"{run.folder}/morphology/models/other/seed1/model.pt") is None
    assert digests.origin(f"{run.folder}/morphology/encoders/models/simclr/seed9/model.pt") is None
    assert len(run.figures_of_morphology) == 10
    without = digests_of({"morphology": {"contrastive": None}})
    assert len(without.run.figures_of_morphology) == 7
    assert without.origin(f"{run.folder}/metrics/morphology_labels.csv") is None
    assert without.origin(f"{run.folder}/tables/morphology_labels.tex") is None
    assert not set(run.figures) & set(run.figures_of_morphology)


def test_a_recipe_makes_its_classifier_anew_and_a_simulation_all():
    before = digests_of()
    recipe = digests_of({"morphology": {"variants": {"small-cnn": {"training": {"epochs": 3}}}}})
    images = digests_of({"morphology": {"simulation": {"number": 200}}})
    angles = digests_of({"morphology": {"angles_deg": [0, 45]}})
    assert recipe.train_classifier("small-cnn") != before.train_classifier("small-cnn")
    assert recipe.train_classifier("equivariant") == before.train_classifier("equivariant")
    assert recipe.simulate_morphology() == before.simulate_morphology()
    assert images.train_classifier("equivariant") != before.train_classifier("equivariant")
    assert angles.train_classifier("equivariant") == before.train_classifier("equivariant")
    assert angles.classify("equivariant", 1) != before.classify("equivariant", 1)
    shares = digests_of({"morphology": {"contrastive": {"labels": [0.2]}}})
    assert shares.pretrain_encoder("simclr") == before.pretrain_encoder("simclr")
    assert shares.compare_labels("simclr", 1) != before.compare_labels("simclr", 1)
    assert shares.manifest_morphology() != before.manifest_morphology()
    assert len({one.evaluate_morphology() for one in (before, recipe, images, angles)}) == 4


def test_the_section_changes_nothing_of_shear():
    with_it, without = digests_of(), digests_of(files=FILES[:1])
    for name in without.run.variants:
        assert with_it.train("exp_gauss", name) == without.train("exp_gauss", name)
    assert without.run.figures_of_morphology == {}
    assert without.origin(f"{without.run.folder}/metrics/{MORPHOLOGY[0]}") is None
    assert without.origin(f"{without.run.folder}/tables/morphology.tex") is None


def test_a_file_of_images_takes_the_place_of_the_simulation():
    digests = digests_of({"morphology": {"images": {"file": "Galaxy10.h5"}}})
    assert digests.run.labelled_images == "Galaxy10.h5"
    assert digests.simulate_morphology() != digests_of().simulate_morphology()


@pytest.mark.parametrize("name", ["morphology", "morphology_tiny"])
def test_the_configuration_is_made_again_from_its_dump(tmp_path, name):
    config = load(FILES[0], ROOT / f"config/{name}.yaml")
    (tmp_path / "again.yaml").write_text(dump(config.dump()))
    assert load(tmp_path / "again.yaml") == config


def test_faults_of_the_section_are_those_of_the_configuration():
    with pytest.raises(ConfigError, match=r"morphology.training: there is no such key|learning_rat"):
        digests_of({"morphology": {"training": {"learning_rat": 1}}})
