"""Images with classes: a file in the published format is read, and a bad one gets one clear sentence."""

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shearbench.data.labelled_images import (
    balancing_weights,
    check_labelled_images,
    read_labelled_images,
    stratified_splits,
    write_labelled_images,
)
from shearbench.errors import ConfigError
from shearbench.simulation.morphology import CLASSES


def published(path, **changes):
    """Write a small file as Galaxy10 SDSS is published: chunked, uint8, and nothing else."""
    rng = np.random.default_rng(1)
    content = {
        "images": rng.integers(0, 256, (40, 69, 69, 3), dtype=np.uint8),
        "ans": np.repeat(np.arange(10, dtype=np.uint8), 4),
        **changes,
    }
    with h5py.File(path, "w") as file:
        for name, values in content.items():
            if values is not None:
                file.create_dataset(name, data=values)
    return content


def test_a_file_in_the_published_format_is_read(tmp_path):
    content = published(tmp_path / "Galaxy10.h5")
    found = read_labelled_images(tmp_path / "Galaxy10.h5", CLASSES)
    np.testing.assert_array_equal(found.images, content["images"])
    np.testing.assert_array_equal(found.labels, content["ans"])
    assert found.labels.dtype == np.int64
    assert check_labelled_images(tmp_path / "Galaxy10.h5", CLASSES) == (40, 69, 69, 3)


def test_what_is_written_is_read_by_the_same_reader(tmp_path):
    images = np.zeros((30, 32, 32, 3), np.uint8)
    write_labelled_images(tmp_path / "made.h5", images, np.arange(30) % 10)
    found = read_labelled_images(tmp_path / "made.h5", CLASSES)
    np.testing.assert_array_equal(found.labels, np.arange(30) % 10)


WITH_NAN = np.zeros((40, 8, 8, 3), np.float32)
WITH_NAN[7, 1, 2, 0] = np.nan


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": None}, "images: .* has no data set 'images'; it has ans"),
        ({"ans": None, "answers": np.zeros(40)}, "labels: .* 'ans' .did you mean 'answers'"),
        ({"ans": np.zeros(39, np.uint8)}, "40 images and 'ans' 39 labels"),
        ({"ans": np.full(40, 10)}, "label 10, and morphology.images.classes names 10 classes"),
        ({"ans": np.full(40, -1)}, "label -1"),
        ({"ans": np.full(40, 0.5)}, "not whole numbers"),
        ({"ans": np.full(40, np.nan)}, "not whole numbers"),
        ({"ans": np.zeros((40, 10))}, r"shape \(40, 10\)"),
        ({"ans": np.arange(40) % 9}, r"class 9 \('spiral, loose arms'\) has 0 images"),
        ({"images": np.zeros((40, 8, 8), np.uint8)}, r"shape \(40, 8, 8\)"),
        ({"images": np.zeros((40, 8, 9, 3), np.uint8)}, "8 by 9 pixels, expected square"),
        ({"images": np.zeros((40, 8, 8, 3), np.int64)}, "type int64, expected uint8 or floats"),
        ({"images": WITH_NAN}, "1 of 40 images in 'images' have NaN or infinite pixels"),
    ],
)
def test_a_bad_file_gets_one_clear_sentence(tmp_path, changes, said):
    published(tmp_path / "bad.h5", **changes)
    with pytest.raises(ConfigError, match=said) as found:
        read_labelled_images(tmp_path / "bad.h5", CLASSES)
    assert "\n" not in str(found.value)
    assert "bad.h5" in str(found.value)


def test_a_missing_or_damaged_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file"):
        check_labelled_images(tmp_path / "none.h5", CLASSES)
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(ConfigError, match="cannot be read"):
        check_labelled_images(tmp_path / "text.h5", CLASSES)


@given(
    st.lists(st.integers(3, 60), min_size=1, max_size=10),
    st.sampled_from([(0.7, 0.15, 0.15), (0.98, 0.01, 0.01), (0.2, 0.2, 0.6)]),
    st.integers(0, 100),
)
@settings(max_examples=50, deadline=None)
def test_splits_are_disjoint_complete_and_stratified(counts, fractions, seed):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    parts = stratified_splits(labels, fractions, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    for part, fraction in zip(parts, fractions):
        found = np.bincount(labels[part], minlength=len(counts))
        assert found.min() >= 1
        assert np.all(np.abs(found - fraction * np.array(counts)) <= len(fractions))


def test_weights_balance_the_classes():
    labels = np.array([0] * 6 + [1] * 3 + [2])
    weights = balancing_weights(labels, 3)
    total = np.bincount(labels) * weights
    np.testing.assert_allclose(total, total[0])
    assert weights[labels].mean() == pytest.approx(1)
