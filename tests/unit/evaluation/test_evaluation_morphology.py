"""Tables of the classification by morphology: metrics with errors, calibration, examples."""

import numpy as np
import pandas as pd
import pytest

from shearbench.evaluation import morphology
from shearbench.paper.tables import morphology_tex

CLASSES = ("a", "b", "c")


def answers(accuracy, seed, number=600, confidence=0.9, variant="net", angles=(0.0, 90.0)):
    """Return the table of a classifier that is right with some probability, and claims `confidence`."""
    rng = np.random.default_rng(seed)
    labels = np.arange(number) % 4 % 3  # class a is twice as frequent
    probabilities = np.empty((len(angles), number, 3), np.float32)
    for k in range(len(angles)):
        right = rng.random(number) < accuracy
        answer = np.where(right, labels, (labels + 1) % 3)
        probabilities[k] = (1 - confidence) / 2
        probabilities[k, np.arange(number), answer] = confidence
    table = morphology.predictions(probabilities, labels, angles)
    table.attrs |= {"variant": variant, "seed": seed, "epoch": 2, "parameters": 7, "architecture": "convnet"}
    return table


def history(best=0.8):
    losses = {"validation_loss": [1.0, 0.5, 0.7], "validation_accuracy": [0.5, best, 0.7]}
    return pd.DataFrame({"epoch": [1, 2, 3], "seconds": [1.0, 2, 3], "train_loss": [1.0, 0.5, 0.1], **losses})


@pytest.fixture(scope="module")
def found():
    tables = [answers(0.9, 1), answers(0.9, 2), answers(0.6, 1, variant="poor")]
    return morphology.evaluate(tables, [history(), history(), history(0.6)], CLASSES, 200)


def test_accuracies_and_their_errors_are_those_of_the_answers(found):
    summary = found["summary"].set_index("variant")
    for variant, accuracy, seeds in (("net", 0.9, 2), ("poor", 0.6, 1)):
        row = summary.loc[variant]
        binomial = np.sqrt(accuracy * (1 - accuracy) / 600)
        assert row["accuracy"] == pytest.approx(accuracy, abs=4 * binomial)
        # Two seeds are independent here, so that the mean of both has a smaller error.
        assert row["accuracy_error"] == pytest.approx(binomial / np.sqrt(seeds), rel=0.3)
        assert row["balanced_accuracy"] == pytest.approx(accuracy, abs=5 * binomial)
        assert row["n_seeds"] == seeds
        assert np.isfinite(row["accuracy_scatter"]) == (seeds > 1)
    assert summary.loc["net", "validation_accuracy"] == pytest.approx(0.8)
    assert morphology.best_variant(found["summary"]) == "net"


def test_the_metrics_of_a_matrix_by_hand():
    matrix = np.array([[8.0, 2, 0], [1, 3, 0], [0, 0, 0]])
    assert morphology.accuracy(matrix) == pytest.approx(11 / 14)
    np.testing.assert_allclose(morphology.recall(matrix), [0.8, 0.75, np.nan])
    np.testing.assert_allclose(morphology.precision(matrix), [8 / 9, 3 / 5, np.nan])
    assert morphology.balanced_accuracy(matrix) == pytest.approx(0.775)


def test_confusion_adds_up(found):
    for _, rows in found["confusion"].groupby("variant"):
        assert rows["n"].sum() == pytest.approx(600)
        np.testing.assert_allclose(rows.groupby("true")["fraction"].sum(), 1)
    classes = found["classes"]
    assert classes.loc[classes["variant"] == "net", "n_images"].tolist() == [300, 150, 150]
    diagonal = found["confusion"].query("true == predicted")
    np.testing.assert_allclose(diagonal["fraction"].to_numpy(), classes["recall"].to_numpy())


def test_calibration_tells_an_overconfident_network(found):
    summary = found["summary"].set_index("variant")
    assert summary.loc["net", "ece"] < 0.08  # it claims 0.9 and is right in 0.9
    assert summary.loc["poor", "ece"] == pytest.approx(0.3, abs=0.08)
    assert np.isfinite(summary["ece_error"]).all()
    poor = found["calibration"].query("variant == 'poor'")
    assert poor["n"].sum() == 600
    assert (poor["accuracy"] < poor["confidence"]).all()


def test_agreement_with_the_upright_image(found):
    angles = found["angles"].query("variant == 'net'").set_index("angle_deg")
    assert angles.loc[0, "agreement"] == 1
    assert angles.loc[0, "agreement_error"] == 0
    # Two independent answers agree where both are right or both are wrong.
    assert angles.loc[90, "agreement"] == pytest.approx(0.82, abs=0.05)


def test_examples_are_of_each_class_and_the_most_confident_errors_come_first(tmp_path, found):
    tables = [answers(0.9, 1), answers(0.9, 2), answers(0.6, 1, variant="poor")]
    images = np.random.default_rng(1).integers(0, 256, (600, 8, 8, 3), dtype=np.uint8)
    morphology.write_examples(tmp_path / "x.h5", images, CLASSES, tables, found)
    about, arrays = morphology.read_examples(tmp_path / "x.h5")
    assert about == {"classes": list(CLASSES), "variant": "net"}
    np.testing.assert_array_equal(arrays["examples_labels"], np.repeat([0, 1, 2], 3))
    assert (arrays["wrong_labels"] != arrays["wrong_answers"]).all()
    assert (np.diff(arrays["wrong_confidence"]) <= 0).all()


def test_a_classifier_without_errors_has_no_wrong_examples(tmp_path):
    tables = [answers(1.0, 1, number=40)]
    found = morphology.evaluate(tables, [history()], CLASSES, 20)
    images = np.zeros((40, 8, 8, 3), np.uint8)
    morphology.write_examples(tmp_path / "x.h5", images, CLASSES, tables, found)
    assert "wrong" not in morphology.read_examples(tmp_path / "x.h5")[1]
    assert found["summary"]["accuracy"].item() == 1


@pytest.mark.parametrize("bands", [1, 3, 5])
def test_images_of_any_bands_can_be_shown(bands):
    images = np.random.default_rng(1).normal(size=(4, 8, 8, bands)).astype(np.float32)
    shown = morphology.displayed(images)
    assert shown.shape == (4, 8, 8, 3)
    assert shown.max() == 255


def test_the_latex_table_has_each_classifier_with_its_errors(found):
    text = morphology_tex(found["summary"])
    assert "net & convnet & 7 &" in text
    assert text.count(r"\pm") == 8
    assert "600 test images" in text
