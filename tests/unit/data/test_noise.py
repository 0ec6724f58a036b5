import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shearbench.data.noise import unit_noise

PINNED = np.array(
    [
        [-0.1267736852169037, -0.09826371818780899, 1.4578784704208374],
        [-0.9078994989395142, 0.3865087926387787, -0.27998775243759155],
    ],
    dtype=np.float32,
)


@given(
    seed=st.integers(0, 2**63 - 1),
    ids=st.lists(st.integers(0, 2**62), min_size=1, max_size=6, unique=True),
    data=st.data(),
)
@settings(max_examples=30, deadline=None)
def test_a_field_depends_on_seed_and_id_alone(seed, ids, data):
    whole = unit_noise(seed, np.array(ids), (7, 5))
    order = data.draw(st.permutations(range(len(ids))))
    np.testing.assert_array_equal(unit_noise(seed, np.array(ids)[order], (7, 5)), whole[order])


def test_pixels_are_pinned():
    # The noise is part of every published number: it must not change with a version of numpy.
    field = unit_noise(12345, np.array([7]), (2, 3))[0]
    generator = np.random.Generator(np.random.Philox(key=np.array([12345, 7], dtype=np.uint64)))
    np.testing.assert_array_equal(field, generator.standard_normal((2, 3), dtype=np.float32))
    np.testing.assert_allclose(
        field,
        PINNED,
        rtol=0,
        atol=0,
        err_msg="numpy draws other normals than the release these were pinned with",
    )


def test_fields_are_unit_normal_and_independent():
    fields = unit_noise(1, np.arange(400), (48, 48)).astype(np.float64)
    n = fields.size
    assert abs(fields.mean()) < 5 / np.sqrt(n)
    assert abs(fields.var() - 1) < 5 * np.sqrt(2 / n)
    assert abs((fields**4).mean() - 3) < 5 * np.sqrt(96 / n)
    neighbours = (fields[:-1] * fields[1:]).mean()
    assert abs(neighbours) < 5 / np.sqrt(n)
    assert abs((fields[:, :, :-1] * fields[:, :, 1:]).mean()) < 5 / np.sqrt(n)


def test_the_complement_of_an_id_gives_the_negative():
    ids = np.array([7, ~7, 0, ~0])
    fields = unit_noise(3, ids, (5, 4))
    np.testing.assert_array_equal(fields[[1, 3]], -fields[[0, 2]])
    np.testing.assert_array_equal(fields[::2], unit_noise(3, ids[::2], (5, 4)))


@pytest.mark.parametrize("other", [{"seed": 2, "noise_id": 5}, {"seed": 1, "noise_id": 6}])
def test_another_seed_or_id_gives_other_noise(other):
    first = unit_noise(1, np.array([5]), (4, 4))
    assert not (first == unit_noise(other["seed"], np.array([other["noise_id"]]), (4, 4))).any()
