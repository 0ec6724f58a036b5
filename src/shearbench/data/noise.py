"""The noise of the stamps: a unit-normal field for each stamp, the same for all estimators."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def unit_noise(seed: int, noise_id: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Draw a unit-normal noise field for each `noise_id`.

    A field depends on (`seed`, `noise_id`) alone, the key of a counter-based generator (Philox4x64-10:
    Salmon et al. 2011, SC'11). It does not depend on the machine, nor on which stamps are read together or in
    which order.

    Parameters
    ----------
    seed : int
        The run's seed, >= 0.
    noise_id : ndarray of int64, shape (n,)
        Number of each stamp's noise realisation. Equal numbers give equal noise; ``~k``, a negative number,
        gives the noise of ``k`` with the opposite sign.
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
