"""How pixels are observed: masked ones, correlated noise, and noise that varies from stamp to stamp.

All of it is a function of the run's seed and the stamp's ``noise_id``, as the noise is. It is the same for
noise of opposite signs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d
from scipy.special import ndtri

from shearbench.data.noise import unit_noise

DEPTHS = 8
"""Number of noise levels that stamps have where noise varies: quantiles of a log-normal distribution."""
WINDOW = 2  # a masked pixel is filled from those within this distance along each axis
_MASK, _DEPTH = 1, 2  # random streams of a stamp beside that of its noise
_WIDTH = 0.9  # of the weights by which a masked pixel is filled [pixels]
_RIDGE = 1e-6


@dataclass(frozen=True)
class Observing:
    """How the pixels of a population's stamps are observed.

    Attributes
    ----------
    masked_fraction : float
        Probability of a pixel to be masked.
    bad_columns : int
        Number of columns of a stamp that are masked, at random places.
    correlation : float
        Noise is white noise convolved with a Gaussian of this standard deviation [pixels], with the same
        variance of a pixel; 0: it is white.
    variation : float
        Standard deviation of the logarithm of the noise level from stamp to stamp.
    """

    masked_fraction: float = 0.0
    bad_columns: int = 0
    correlation: float = 0.0
    variation: float = 0.0

    @classmethod
    def of(cls, attributes: Mapping[Any, Any]) -> Observing:
        """Return what `attributes` of a catalog or of stamps describe; without any, the default."""
        found = attributes.get("observing", {})
        return cls(**(json.loads(found) if isinstance(found, str) else found))

    @property
    def attributes(self) -> dict[str, str]:
        """The attributes to store with stamps; none where there is nothing but white noise of one level."""
        return {} if self == Observing() else {"observing": json.dumps(asdict(self))}

    def masks(
        self, seed: int, noise_id: NDArray[np.int64], shape: tuple[int, int]
    ) -> NDArray[np.bool_] | None:
        """Return the masked pixels of stamps, shape (n, ny, nx); None if there are none."""
        if not (self.masked_fraction or self.bad_columns):
            return None
        masks = np.empty((len(noise_id), *shape), bool)
        for mask, one in zip(masks, noise_id.tolist()):
            rng = _stream(seed, one, _MASK)
            mask[:] = rng.random(shape) < self.masked_fraction
            mask[:, rng.choice(shape[1], min(self.bad_columns, shape[1]), replace=False)] = True
        return masks

    def depths(self, seed: int, noise_id: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Return the noise levels of stamps over the nominal one, shape (n,); None if all are that one."""
        if not self.variation:
            return None
        place = [int(_stream(seed, one, _DEPTH).integers(DEPTHS)) for one in noise_id.tolist()]
        return np.exp(self.variation * ndtri((np.array(place, int) + 0.5) / DEPTHS))

    def unit_noise(
        self, seed: int, noise_id: NDArray[np.int64], shape: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Return noise of unit variance for each `noise_id`, see `shearbench.data.noise.unit_noise`."""
        if not self.correlation:
            return unit_noise(seed, noise_id, shape)
        taps = kernel(self.correlation)
        # White noise beyond the edges of the stamp, so that all pixels have the same variance.
        margin = len(taps) // 2
        fields = unit_noise(seed, noise_id, (shape[0] + 2 * margin, shape[1] + 2 * margin))
        for axis in (1, 2):
            fields = correlate1d(fields, taps, axis)
        return np.ascontiguousarray(fields[:, margin : margin + shape[0], margin : margin + shape[1]])

    def covariance(self, shape: tuple[int, int]) -> NDArray[np.float64]:
        """Return the covariance of the unit noise of the pixels, shape (ny nx, ny nx)."""
        taps = kernel(self.correlation) if self.correlation else np.ones(1)
        along = np.correlate(taps, taps, "full")
        reach = len(along) // 2
        rows, columns = (
            sum(along[reach + lag] * np.eye(side, k=lag) for lag in range(-reach, reach + 1))
            for side in shape
        )
        return np.kron(rows, columns)


def _stream(seed: int, noise_id: int, stream: int) -> np.random.Generator:
    key = np.array([seed, max(noise_id, ~noise_id)], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, stream]))


@lru_cache(maxsize=4)
def kernel(correlation: float) -> NDArray[np.float64]:
    """Return the Gaussian along an axis with which white noise is convolved; its squares have the sum 1."""
    reach = int(np.ceil(4 * correlation))
    taps = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * correlation**2))
    return taps / np.sqrt((taps**2).sum())


def filled(images: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return images whose masked pixels are interpolated from the others.

    A quadratic polynomial is fitted to the good pixels within `WINDOW` of a masked one, weighted by a
    Gaussian. A pixel with no good one around it becomes NaN, so that its stamp is flagged.

    Parameters
    ----------
    images : ndarray of float32, shape (n, ny, nx)
    masks : ndarray of bool, shape (n, ny, nx)
        True where a pixel is masked.
    """
    margin = ((0, 0), (WINDOW, WINDOW), (WINDOW, WINDOW))
    values, good = np.pad(np.where(masks, 0, images), margin), np.pad(~masks, margin)
    stamp, row, column = (at[:, None] for at in np.nonzero(masks))
    dy, dx = (offset.ravel() for offset in np.indices((2 * WINDOW + 1,) * 2))
    around = (stamp, row + dy, column + dx)
    answer = images.copy()
    found = interpolated(np, values[around].astype(np.float64), good[around].astype(np.float64))
    found[~good[around].any(1)] = np.nan
    answer[masks] = found
    return answer


def polynomials() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return weights (k,) and the terms of a quadratic polynomial (k, 6) in the pixels of a window."""
    dy, dx = (offset.ravel() - WINDOW for offset in np.indices((2 * WINDOW + 1,) * 2))
    weight = np.exp(-(dx**2 + dy**2) / (2 * _WIDTH**2))
    return weight, np.stack([np.ones(len(dx)), dx, dy, dx**2, dx * dy, dy**2], 1).astype(np.float64)


def interpolated(package: Any, values: Any, good: Any, as_array: Any = np.asarray) -> Any:
    """Return the polynomials' values at the centres of windows, in float64.

    Parameters
    ----------
    package : module
        numpy or torch: the arithmetic is the same.
    values, good : array of float64, shape (m, k)
        The pixels of each window, and 1 where one is good.
    as_array : callable
        Makes an array of the package from one of NumPy.
    """
    weight, terms = (as_array(part) for part in polynomials())
    of_pixel = weight * good
    matrix = package.einsum("mk,ki,kj->mij", of_pixel, terms, terms)
    # Terms that the good pixels do not determine are zero.
    matrix = matrix + as_array(_RIDGE * np.diag([1e-6, 1, 1, 1, 1, 1]))
    right = package.einsum("mk,ki->mi", of_pixel * values, terms)
    return package.linalg.solve(matrix, right[:, :, None])[:, 0, 0]
