"""Classifiers: the zoo with a class head, augmentation, training that is killed and resumed, prediction."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from shearbench.data.labelled_images import LabelledImages
from shearbench.errors import ConfigError, ContractError
from shearbench.networks import architecture_kinds
from shearbench.networks.base import Architecture
from shearbench.networks.modules import dihedral
from shearbench.simulation.morphology import CLASSES
from shearbench.tasks.morphology.augmentation import augment, turned
from shearbench.tasks.morphology.network import ClassNetwork
from shearbench.tasks.morphology.options import ClassRecipe, objection, resolve_morphology
from shearbench.tasks.morphology.prediction import classify
from shearbench.tasks.morphology.train import (
    ClassTask,
    load_classifier,
    save_classifier,
    stratified_first,
    train_classifier,
)
from shearbench.training import loop
from shearbench.training.recipe import Recipe
from shearbench.training.task import Job
from shearbench.training.variants import variant_presets
from shearbench.training.workers import Workers

SIDE = 48


def patterns(number, seed=0, side=12):
    """Return noisy images of three classes, unequal in number: a blob, a ring, a bar at any angle."""
    rng = np.random.default_rng(seed)
    place = np.arange(side) - (side - 1) / 2
    x, y = np.meshgrid(place, place)
    r = np.hypot(x, y)
    labels = np.arange(number) % 4 % 3
    images = []
    for label in labels:
        angle = rng.uniform(0, np.pi)
        along = np.abs(x * np.cos(angle) + y * np.sin(angle))
        shape = [np.exp(-(r**2) / 4), np.exp(-((r - 4) ** 2)), np.exp(-(along**2)) * (r < 5)][label]
        images.append(100 * shape[..., None] * [1, 0.8, 0.6] + rng.normal(50, 5, (side, side, 3)))
    pixels = np.clip(images, 0, 255).astype(np.uint8)
    return LabelledImages(pixels, labels.astype(np.int64), ("blob", "ring", "bar"))


def variant(**training):
    section = resolve_morphology(
        {
            "simulation": {"size_pixels": 32},
            "variants": {"small": {"base": "small-cnn", "options": {"width": 4, "hidden": [16]}}},
            "training": {"batch_size": 16, "epochs": 3, "learning_rate": 5e-3, **training},
        }
    )
    return section.variants["small"]


def classifier(kind, **options):
    torch.manual_seed(1)
    network = ClassNetwork(architecture_kinds()[kind](**options), 3, (SIDE, SIDE), len(CLASSES))
    network.fit_scaling(torch.rand(20, 3, SIDE, SIDE))
    return network.eval()


@pytest.mark.parametrize("kind", architecture_kinds())
def test_every_architecture_of_images_classifies_three_bands(kind):
    architecture = architecture_kinds()[kind]()
    if type(architecture).build is Architecture.build:
        assert "cannot classify images" in objection(architecture, (SIDE, SIDE))
        return
    assert objection(architecture, (SIDE, SIDE)) is None
    images = 255 * torch.rand(2, 3, SIDE, SIDE)
    network = classifier(kind)
    logits = network(images)
    assert logits.shape == (2, len(CLASSES))
    for band in range(3):
        changed = images.clone()
        changed[:, band] += 20 * torch.rand(SIDE, SIDE)
        assert (network(changed) != logits).any(), "all bands are used"


@pytest.mark.parametrize(
    ("kind", "options"),
    [("equivariant", {}), ("resnet", {"symmetrise": "always"}), ("convnet", {"symmetrise": "test"})],
)
def test_invariant_classifiers_do_not_change_with_the_orientation(kind, options):
    network = classifier(kind, **options).double()
    images = torch.rand(4, 3, SIDE, SIDE).double()
    with torch.no_grad():
        logits = network(images)
        typical = logits.std(0).mean()  # from image to image
        for element in range(dihedral.ORDER):
            found = network(dihedral.transform_images(images, element))
            assert (found - logits).abs().max() < 1e-6 * typical
        if kind != "equivariant":
            network.symmetrise = "never"
            assert (network(images.rot90(1, (-2, -1))) - network(images)).abs().max() > 1e-2 * typical


def test_the_small_network_is_that_of_the_lectures():
    network = classifier("convnet", **variant_presets()["small-cnn"]["options"]).network
    convolutions = [layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert [(one.out_channels, one.kernel_size) for one in convolutions] == [(8, (5, 5)), (16, (5, 5))]
    dense = [layer.out_features for layer in network.modules() if isinstance(layer, torch.nn.Linear)]
    assert dense == [64, 32, 10]


@pytest.mark.parametrize("name", ["d4", "rotation", "shift", "brightness", "cutout", "mixup", "cutmix"])
def test_augmentations(name):
    generator = torch.Generator().manual_seed(3)
    images = 10 + torch.rand(16, 3, 20, 20, generator=generator)
    truth = torch.eye(4)[torch.arange(16) % 4]
    numbers = torch.rand(1, 16, 3, generator=generator)
    found, shares = augment(images, truth, [name], numbers)
    assert found.shape == images.shape
    assert (found - images).abs().max() > 0.1
    torch.testing.assert_close(shares.sum(1), torch.ones(16))
    if name in ("mixup", "cutmix"):
        assert (shares.amax(1) < 1).any()
    else:
        assert torch.equal(shares, truth)
    if name == "d4":
        elements = {
            next(k for k in range(8) if torch.equal(dihedral.transform_images(one, k), new))
            for one, new in zip(images, found)
        }
        assert len(elements) > 3
    if name == "mixup":  # the pixels are mixed as the classes are
        own = shares[torch.arange(16), torch.arange(16) % 4][:, None, None, None]
        torch.testing.assert_close(found, own * images + (1 - own) * images.roll(-1, 0))


def test_d4_has_all_elements_alike():
    image = torch.rand(1, 2, 6, 6).expand(800, -1, -1, -1)
    numbers = (torch.arange(800) / 800)[:, None].expand(-1, 3)[None]
    found, _ = augment(image, torch.ones(800, 1), ["d4"], numbers)
    for k in range(8):
        same = (found == dihedral.transform_images(image, k)).all((1, 2, 3))
        assert same.sum() == 100


def test_a_turn_by_a_right_angle_moves_pixels_only():
    images = torch.rand(3, 2, 9, 9)
    found = turned(images, torch.full((3,), np.pi / 2))
    torch.testing.assert_close(found, images.rot90(-1, (-2, -1)), rtol=1e-4, atol=1e-5)


def test_the_normalisation_is_that_of_the_training_images_alone():
    train = patterns(60)
    networks = []
    for validation in (patterns(20, 1), LabelledImages(*(vars(patterns(20, 2)).values()))):
        task = ClassTask(train, validation, variant(), "small")
        networks.append(task.start([1], torch.device("cpu"), Workers()).networks[0])
    assert torch.equal(networks[0].mean, networks[1].mean)
    pixels = torch.from_numpy(np.moveaxis(train.images, 3, 1)).double()
    centred = (pixels - networks[0].mean) / networks[0].spread
    # Averaged over the eight orientations, each pixel has a mean of 0 and a variance of 1.
    torch.testing.assert_close(centred.mean((0, 2, 3)), torch.zeros(3).double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(centred.square().mean(), torch.ones(()).double(), rtol=0.2, atol=0)
    assert torch.equal(networks[0].spread, networks[0].spread.rot90(1, (-2, -1)))


def test_rare_classes_weigh_more():
    task = ClassTask(patterns(80), patterns(20, 1), variant(), "small")
    weights = task.start([1], torch.device("cpu"), Workers()).weights
    torch.testing.assert_close(weights, torch.tensor([80 / 120, 80 / 60, 80 / 60]))
    task = ClassTask(patterns(80), patterns(20, 1), variant(class_weights="none"), "small")
    assert torch.equal(task.start([1], torch.device("cpu"), Workers()).weights, torch.ones(3))


def test_fewer_labels_are_a_part_of_more_and_stratified():
    labels = np.repeat(np.arange(3), [100, 60, 40])
    fewer, more = (stratified_first(labels, count) for count in (20, 100))
    assert set(fewer) < set(more)
    np.testing.assert_allclose(np.bincount(labels[fewer]), [10, 6, 4], atol=1)
    np.testing.assert_allclose(np.bincount(labels[more]), [50, 30, 20], atol=1)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"training": {"noise": 1e-3}}, "training.noise: the training of a classifier has no such option"),
        ({"training": {"realisations": 2}}, "realisations: the training of a classifier"),
        ({"training": {"loss": "mse"}}, r"training.loss: found 'mse'"),
        ({"variants": {"whitened": {}}}, "variants.whitened: the architecture 'whitened' is for shapes"),
        ({"variants": {"refined": {}}}, "cannot classify images"),
        ({"variants": {"a": {"base": "resnet", "options": {"head": "gaussian"}}}}, "options.head: it is for"),
        ({"variants": {"attention": {"options": {"patch": 7}}}}, "patch: 7 does not divide"),
        ({"variants": {"smal-cnn": {}}}, "did you mean 'small-cnn'"),
        ({"variants": {"small-cnn": {}}, "training": {"galaxies": 10**6}}, "1000000 is more than the 4200"),
        ({"fractions": {"train": 0.9}}, "their sum is 1.2, expected 1"),
        ({"angles_deg": [45]}, "0 must be one of the angles"),
        ({"images": {"classes": ["a", "b"]}}, "leave classes out, or name a file"),
        ([1], "expected a mapping"),
    ],
)
def test_a_bad_section_gets_a_clear_sentence(section, said):
    with pytest.raises(ConfigError, match=said) as found:
        resolve_morphology(section)
    assert str(found.value).startswith("morphology")


def test_the_section_is_resolved_again_from_its_dump():
    section = resolve_morphology({"variants": {"small-cnn": {"training": {"label_smoothing": 0.1}}}})
    plain = section.model_dump(mode="json")
    plain["training"] = section.training.model_dump(mode="json", exclude_unset=True)
    assert resolve_morphology(plain) == section
    assert resolve_morphology(None) is None


def test_a_recipe_of_classes_has_the_options_of_a_recipe():
    assert set(ClassRecipe.without) < set(Recipe.model_fields)


@pytest.mark.trains
def test_it_trains_is_killed_resumes_and_predicts(tmp_path):
    train, validation, test = patterns(160), patterns(40, 1), patterns(40, 2)
    whole, history = train_classifier(train, validation, variant(), "small", Job(seed=1))
    assert list(history)[-2:] == ["validation_loss", "validation_accuracy"]
    assert history["validation_loss"].min() < np.log(3)  # better than equal probabilities
    assert whole["epoch"] == history["epoch"][history["validation_loss"].idxmin()]
    state, model = tmp_path / "state.pt", tmp_path / "model.pt"
    process = subprocess.Popen([sys.executable, __file__, tmp_path])
    while not (state.exists() and torch.load(state, weights_only=True)["state"]["step"] >= 10):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not model.exists()
    subprocess.run([sys.executable, __file__, tmp_path], check=True, env={**os.environ, "FAST": "1"})
    found = load_classifier(model)
    assert found.about["epoch"] == whole["epoch"]
    assert all(torch.equal(value, whole["state"][name]) for name, value in found.network.state_dict().items())
    probabilities = classify(found, test, (0, 90, 45))
    assert probabilities.shape == (3, 40, 3)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    bands = LabelledImages(test.images[..., :2], test.labels, test.classes)
    with pytest.raises(ContractError, match="size, bands and classes"):
        classify(found, bands)


@pytest.mark.trains
@pytest.mark.parametrize("job", [{"together": 2}, {"gpus": 2}], ids=["together", "two processes"])
def test_it_trains_together_and_in_several_processes(tmp_path, monkeypatch, job):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    chosen = variant(epochs=1, augmentation=["d4", "mixup"], optimiser="sgd")
    arguments = (patterns(64), patterns(40, 1), chosen, "small")
    whole, _ = train_classifier(*arguments, Job(seed=1))
    others = {2: tmp_path / "2.pt"}
    found, _ = train_classifier(*arguments, Job(seed=1, checkpoint=tmp_path / "1.pt", others=others, **job))
    assert others[2].exists() == ("together" in job)
    for name, value in whole["state"].items():
        torch.testing.assert_close(found["state"][name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.trains
def test_early_stopping_keeps_the_best_epoch():
    chosen = variant(epochs=12, patience=1, learning_rate=0.3, optimiser="sgd", schedule="constant")
    model, history = train_classifier(patterns(64), patterns(40, 1), chosen, "small", Job(seed=1))
    best = history["validation_loss"].idxmin()
    assert model["epoch"] == history["epoch"][best]
    assert len(history) == 12 or len(history) == best + 2


def test_another_file_is_no_classifier(tmp_path):
    save_classifier(tmp_path / "other.pt", {"format": "shearbench network 1"})
    with pytest.raises(ContractError, match="found 'shearbench network 1'"):
        load_classifier(tmp_path / "other.pt")


if __name__ == "__main__":
    if "FAST" not in os.environ:
        take_step = loop.Training._step

        def slow_step(self, *arguments):
            take_step(self, *arguments)
            time.sleep(0.05)

        loop.Training._step = slow_step
    folder = Path(sys.argv[1])
    content, _ = train_classifier(
        patterns(160), patterns(40, 1), variant(), "small", Job(seed=1, checkpoint=folder / "state.pt")
    )
    save_classifier(folder / "model.pt", content)
