"""One unit-normal noise field for each stamp, the same for every estimator that reads it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def unit_noise(seed: int, noise_id: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Draw the unit-normal noise fields named by `noise_id`.

    Each field comes from a counter-based generator (Philox4x64-10: Salmon et al. 2011, SC'11) keyed by
    (`seed`, `noise_id`), so it depends on nothing else: not on which stamps are read together, in which
    order, or on which machine.

    Parameters
    ----------
    seed : int
        The run's seed, >= 0.
    noise_id : ndarray of int64, shape (n,)
        Which realisation each stamp has. Equal numbers give equal noise, and ``~k`` (which is negative) the
        negative of what ``k`` gives.
    shape : (int, int)
        Rows and columns of a stamp.

    Returns
    -------
    ndarray of float32, shape (n, ny, nx)
        Noise of zero mean and unit standard deviation per pixel.
    """
    ids = np.asarray(noise_id, dtype=np.int64)
    fields = np.empty((ids.size, *shape), dtype=np.float32)
    bits = np.random.Philox(key=0)
    generator = np.random.Generator(bits)
    state = bits.state
    for field, number in zip(fields, np.maximum(ids, ~ids).tolist()):
        # Setting the state is several times cheaper than making a generator for each stamp.
        state["state"]["counter"][:] = 0
        state["state"]["key"][:] = (seed, number)
        state["buffer_pos"] = 4
        state["has_uint32"] = 0
        bits.state = state
        generator.standard_normal(out=field, dtype=np.float32)
    fields[(ids < 0).ravel()] *= -1
    return fields
