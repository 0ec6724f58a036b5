"""Batches, training and measurement of the small network, and its rounding errors."""

import numpy as np
import pytest

from shearbench.data.shapes import Flag
from shearbench.frameworks.base import Sizes, xavier
from shearbench.frameworks.batches import Batches
from shearbench.frameworks.precision import PRECISIONS, bfloat16, float16, in_precision
from shearbench.frameworks.train import measure, outputs_of, train


class Stamps:
    """Stamps in memory, with the part of `StampSet` that a measurement uses."""

    def __init__(self, images):
        self.images, self.shape = images, images.shape[1:]

    def batches(self, sigma, seed, size):
        from types import SimpleNamespace

        class Batch(SimpleNamespace):
            def __len__(self):
                return len(self.images)

        for start in range(0, len(self.images), size):
            yield Batch(images=self.images[start : start + size])


@pytest.fixture(scope="module")
def batches():
    """Blobs that are wider in one direction by as much as their shape says."""
    rng = np.random.default_rng(1)
    shapes = rng.uniform(-0.5, 0.5, (400, 2))
    y, x = np.mgrid[-6:7, -6:7]
    radius = (x**2 + y**2) - shapes[:, :1, None] * (x**2 - y**2) - shapes[:, 1:, None] * 2 * x * y
    images = np.exp(-radius / 8).astype(np.float32)
    return Batches(images, shapes, (1e-4, 1e-3), epochs=8, size=32, rate=1e-2, seed=1)


def test_batches_are_the_same_each_time_and_new_in_each_epoch(batches):
    one, again, other = (list(batches.epoch(number)) for number in (0, 0, 1))
    assert len(one) == batches.steps == 12
    for (images, targets, rate), (same, same_targets, same_rate) in zip(one, again):
        assert (images == same).all()
        assert (targets == same_targets).all()
        assert rate == same_rate
    assert not any((a[0] == b[0]).all() for a, b in zip(one, other))
    rates = [rate for epoch in range(8) for *_, rate in batches.epoch(epoch)]
    assert rates[0] == 1e-2
    assert sorted(rates, reverse=True) == rates
    assert 0 < rates[-1] < 1e-5


def test_all_networks_of_a_seed_train_with_the_same_batches_to_the_same_loss(batches):
    sizes = Sizes((13, 13), width=4, hidden=16)
    ends, firsts = {}, []
    for name in ("numpy", "numpy-float64", "torch"):
        network, history = train(name, sizes, batches)
        ends[name] = history.iloc[-1]
        firsts.append(history["loss"].iloc[0])
        assert history["loss"].iloc[-1] < history["loss"].iloc[0] / 5
        assert list(history["views"]) == [384 * (k + 1) for k in range(8)]
    assert len({end["batches"] for end in ends.values()}) == 1
    assert len({end["parameters"] for end in ends.values()}) == 1
    assert ends["numpy"]["parameters"] == sum(np.prod(shape) for shape in sizes.weights.values())
    # Later the trainings would differ, as rounding errors grow.
    assert firsts == pytest.approx([firsts[0]] * 3, rel=1e-3)
    g, seconds = measure(outputs_of(network.forward, batches.scaling), Stamps(batches.images), 0, 0)
    assert np.std(g.g1 - batches.shapes[:, 0]) < 0.1
    assert seconds > 0
    assert not g.flag.any()


def test_impossible_shapes_are_flagged():
    stamps = Stamps(np.zeros((3, 4, 4), np.float32))
    answers = np.zeros((256, 2))
    answers[:3] = [[0.1, 0.2], [0.9, 0.9], [np.nan, 0]]
    shapes, _ = measure(lambda images: answers[: len(images)], stamps, 0, 0)
    assert shapes.flag.tolist() == [Flag.GOOD, Flag.OUT_OF_RANGE, Flag.OUT_OF_RANGE]
    assert np.isnan(shapes.g1_err).all()


def test_rounding_to_16_bits():
    assert float16(np.float32([1 + 2**-11, 1 + 2**-10, 1e-9])).tolist() == [1, 1 + 2**-10, 0]
    halves = np.float32([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-7, -1 - 2**-9, 3e38])
    expected = [1, 1 + 2**-6, 1 + 2**-7, -1]
    assert bfloat16(halves).tolist()[:4] == expected
    assert bfloat16(halves)[4] == pytest.approx(3e38, rel=2**-8)


def test_fewer_bits_are_larger_errors():
    sizes = Sizes((13, 13), width=4, hidden=16)
    weights = {name: value.astype(np.float32) for name, value in xavier(sizes, 1).items()}
    images = np.random.default_rng(1).normal(size=(50, 13, 13)).astype(np.float32)
    found = {name: in_precision(name, sizes, weights)(images) for name in PRECISIONS}
    error = {name: np.abs(value - found["float64"]).max() for name, value in found.items()}
    assert error["float64"] == 0
    assert 1e-9 < error["float32"] < 1e-5
    assert 10 * error["float32"] < error["float16"] < error["bfloat16"] < 0.2
