"""Filters, feature maps and class activation maps of classifiers, and their figures."""

import numpy as np
import torch

from shearbench.data.labelled_images import LabelledImages
from shearbench.diagnostics.classifiers import look_inside
from shearbench.evaluation.morphology_inside import read_inside, with_images, write_inside
from shearbench.figures import morphology_activation, morphology_inside
from shearbench.networks import architecture_kinds
from shearbench.tasks.morphology.network import ClassNetwork
from shearbench.tasks.morphology.train import Classifier

CLASSES = ("a", "b", "c")


def classifier(kind="convnet", **options):
    torch.manual_seed(1)
    return Classifier(ClassNetwork(architecture_kinds()[kind](**options), 3, (16, 16), 3), {})


def images():
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)
    return LabelledImages(pixels, np.array([2, 0, 0, 1, 2, 1, 0]), CLASSES)


def test_the_activation_adds_up_to_the_logit_of_the_answer():
    model = classifier(width=4, stages=2, pooling="average", projection=None, hidden=[])
    found = look_inside(model, images())
    assert found["rows"].tolist() == [1, 3, 0]
    with torch.no_grad():
        pixels = torch.from_numpy(images().images[found["rows"]]).permute(0, 3, 1, 2).float()
        logits = model.network.eval()(pixels)
        bias = model.network.network.head[-1].bias.detach()
    answers = torch.from_numpy(found["answers"])
    assert torch.equal(answers, logits.argmax(1))
    expected = logits.gather(1, answers[:, None])[:, 0] - bias[answers]
    np.testing.assert_allclose(found["activation"].sum((1, 2)), expected.numpy(), rtol=1e-3, atol=1e-4)


def test_filters_are_the_kernels_of_the_first_layer():
    model = classifier(width=4, stages=2, kernel=5)
    kernels = model.network.network.features[0].weight.detach().numpy()
    found = look_inside(model, images())
    assert found["filters"].shape[2:] == (5, 5)
    for one in found["filters"]:
        assert min(np.abs(one - kernel).max() for kernel in kernels) < 1e-5
    assert [found[f"features{k}"].shape[2:] for k in range(2)] == [(16, 16), (8, 8)]
    assert "activation" not in found


def test_what_is_found_is_written_read_and_drawn(tmp_path):
    models = {
        "one": classifier(width=4, stages=2, pooling="average"),
        "two": classifier("equivariant", width=1, stages=2),
        "three": classifier("dense"),
    }
    given = images()
    found = {
        name: with_images(look_inside(model, given), given.images, given.labels)
        for name, model in models.items()
    }
    write_inside(tmp_path / "inside.h5", found, CLASSES)
    classes, again = read_inside(tmp_path / "inside.h5")
    assert classes == list(CLASSES)
    assert list(again) == list(found)
    for name, arrays in found.items():
        assert set(again[name]) == set(arrays)
        for key, array in arrays.items():
            np.testing.assert_array_equal(again[name][key], array)
    for figure in (morphology_inside, morphology_activation):
        drawn = figure.draw(tmp_path / "inside.h5")
        assert sum(len(axis.images) for axis in drawn.axes) > 5
    write_inside(tmp_path / "inside.h5", {"two": found["two"]}, CLASSES)
    assert len(morphology_activation.draw(tmp_path / "inside.h5").axes) == 3
