"""A second noise field for each stamp, with which estimators correct their shear response for noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shearbench.data.observing import Observing
from shearbench.data.stamps import StampBatch

_SEED = 0x72656E6F697365  # larger than any run's seed, so independent of the noise in the stamps


def second_noise(batch: StampBatch) -> NDArray[np.float32]:
    """Return noise like that of a batch and independent of it, shape (n, ny, nx).

    Stamps with the same noise (partners with different shears) also get the same second noise, and stamps
    with noise of opposite signs get second noise of opposite signs.
    """
    shape = (batch.images.shape[1], batch.images.shape[2])
    noise = Observing(correlation=batch.correlation).unit_noise(_SEED, batch.noise_id, shape)
    return np.float32(batch.sigma) * noise
