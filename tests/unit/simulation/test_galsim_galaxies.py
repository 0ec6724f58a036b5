"""Simulated colour images of ten classes: reproducible, imbalanced as asked, and like their names."""

import numpy as np
import pytest

from shearbench.errors import ConfigError
from shearbench.options import validated
from shearbench.simulation.galsim_galaxies import draw_galaxy, draw_images
from shearbench.simulation.morphology import CLASSES, SimulatedImages

BRIGHT = SimulatedImages(snr=(3000, 3000))


def moments(label, number=12):
    """Return the mean axis ratio, and the mean variation along rings, of bright galaxies of a class."""
    ratios, variations = [], []
    place = np.arange(48) - 23.5
    for k in range(number):
        image = draw_galaxy(label, np.random.default_rng([9, label, k]), BRIGHT).astype(float).mean(-1)
        image = np.maximum(image - np.median(image[:4]), 0) ** 2
        x, y = np.meshgrid(place, place)
        x, y = x - (x * image).sum() / image.sum(), y - (y * image).sum() / image.sum()
        xx, yy, xy = ((one * image).sum() / image.sum() for one in (x * x, y * y, x * y))
        low, high = np.linalg.eigvalsh([[xx, xy], [xy, yy]])
        ratios.append(np.sqrt(low / high))
        ring = image[(np.hypot(x, y) > 8) & (np.hypot(x, y) < 10)]
        variations.append(ring.std() / ring.mean())
    return np.mean(ratios), np.mean(variations)


def test_the_same_seed_gives_the_same_images_in_any_number_of_processes():
    options = SimulatedImages(number=100)
    images, labels = draw_images(options, seed=1)
    again, _ = draw_images(options, seed=1, processes=2)
    other, _ = draw_images(options, seed=2)
    np.testing.assert_array_equal(images, again)
    assert (images != other).any()
    assert images.shape == (100, 48, 48, 3)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(np.bincount(labels, minlength=10), options.counts())


def test_classes_look_like_their_names():
    ratio, variation = zip(*(moments(label) for label in range(len(CLASSES))))
    round_one, between, cigar = ratio[1:4]
    assert round_one > 0.85 > between > 0.55 > cigar
    assert max(ratio[4:7]) < 0.6 < min(ratio[0], *ratio[7:])
    # A ring around the centre crosses arms in a spiral, and nothing in a disc without arms.
    assert min(variation[8:]) > 2 * variation[0]


@pytest.mark.parametrize("size", [32, 69])
def test_images_of_other_sizes(size):
    options = SimulatedImages(size_pixels=size)
    for label in range(len(CLASSES)):
        image = draw_galaxy(label, np.random.default_rng(label), options)
        assert image.shape == (size, size, 3)
        assert image[size // 2 - 3 : size // 2 + 3].mean() > image[:3].mean()


def test_bad_options_are_refused_with_their_key():
    with pytest.raises(ConfigError, match=r"snr: found \[400, 100\]"):
        validated(SimulatedImages, {"snr": [400, 100]}, ("morphology", "simulation"))
    with pytest.raises(ConfigError, match="shares"):
        validated(SimulatedImages, {"shares": [1, 2]}, ("morphology", "simulation"))
