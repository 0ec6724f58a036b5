"""A second noise field for each stamp, for estimators that cancel what noise does to their response."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shearbench.data.noise import unit_noise
from shearbench.data.stamps import StampBatch

_SEED = 0x72656E6F697365  # larger than any run's seed, so independent of the noise in the stamps


def second_noise(batch: StampBatch) -> NDArray[np.float32]:
    """Return noise like that of a batch and independent of it, shape (n, ny, nx).

    Stamps that share their noise (the partners under opposite shears) share this too, and where one's noise
    is the negative of another's, so is this.
    """
    return np.float32(batch.sigma) * unit_noise(_SEED, batch.noise_id, batch.images.shape[1:])
