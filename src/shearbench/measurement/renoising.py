"""A second noise field for each stamp, with which estimators correct their shear response for noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shearbench.data.noise import unit_noise
from shearbench.data.stamps import StampBatch

_SEED = 0x72656E6F697365  # larger than any run's seed, so independent of the noise in the stamps


def second_noise(batch: StampBatch) -> NDArray[np.float32]:
    """Return noise with the standard deviation of a batch's noise and independent of it, shape (n, ny, nx).

    Stamps with the same noise (partners with different shears) also get the same second noise, and stamps
    with noise of opposite signs get second noise of opposite signs.
    """
    return np.float32(batch.sigma) * unit_noise(_SEED, batch.noise_id, batch.images.shape[1:])
