"""The batches with which all frameworks train: made by NumPy, the same numbers in the same order for all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

BLOCK = 1024
"""Stamps that are scaled at once."""

Batch = tuple[NDArray[np.float32], NDArray[np.float64], float]
"""Scaled stamps with noise [n, ny, nx], scaled shapes [n, 2] and the learning rate of the step."""


@dataclass(frozen=True)
class Scaling:
    """How stamps and shapes are scaled, with numbers from the training galaxies.

    Attributes
    ----------
    mean : ndarray of float32, shape (ny, nx)
        The mean stamp, which is subtracted.
    deviation : float
        Standard deviation of all pixels around the mean stamp, by which they are divided.
    shape : float
        Standard deviation of the shapes, by which the targets are divided.
    """

    mean: NDArray[np.float32]
    deviation: float
    shape: float

    @classmethod
    def of(cls, images: NDArray[np.float32], shapes: NDArray[np.float64]) -> Scaling:
        """Return the scaling for noiseless training stamps [n, ny, nx] and their shapes [n, 2]."""
        mean = images.mean(axis=0, dtype=np.float64).astype(np.float32)
        squares = [
            ((images[start : start + BLOCK] - mean).astype(np.float64) ** 2).sum()
            for start in range(0, len(images), BLOCK)
        ]
        return cls(mean, float(np.sqrt(sum(squares) / images.size)), float(shapes.std()))

    def images(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return stamps as the networks take them."""
        return (images - self.mean) / np.float32(self.deviation)


@dataclass(frozen=True)
class Batches:
    """All batches of a training.

    Attributes
    ----------
    images : ndarray of float32, shape (n, ny, nx)
        Stamps without noise.
    shapes : ndarray of float64, shape (n, 2)
    noise : (float, float)
        Lowest and highest noise per pixel. In each epoch, the logarithm of each stamp's noise is drawn
        uniformly between them.
    epochs, size : int
        Number of epochs, and of stamps in a batch. Stamps that do not fill a batch are left out of the epoch.
    rate : float
        Learning rate of the first step; that of later ones falls to zero as a cosine.
    seed : int
    """

    images: NDArray[np.float32]
    shapes: NDArray[np.float64]
    noise: tuple[float, float]
    epochs: int
    size: int
    rate: float
    seed: int

    @cached_property
    def scaling(self) -> Scaling:
        """The scaling of these stamps and shapes."""
        return Scaling.of(self.images, self.shapes)

    @property
    def steps(self) -> int:
        """Number of steps in an epoch."""
        return len(self.images) // self.size

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of an epoch; the first is epoch 0."""
        rng = np.random.default_rng([self.seed, 1, number])
        order = rng.permutation(len(self.images))
        low, high = np.log(self.noise)
        sigma = np.exp(rng.uniform(low, high, len(order))).astype(np.float32)
        scaling, total = self.scaling, self.epochs * self.steps
        for step in range(self.steps):
            chosen = order[step * self.size : (step + 1) * self.size]
            images = self.images[chosen]
            images += sigma[chosen, None, None] * rng.standard_normal(images.shape, np.float32)
            done = (number * self.steps + step) / total
            yield (
                scaling.images(images),
                self.shapes[chosen] / scaling.shape,
                float(self.rate * (1 + np.cos(np.pi * done)) / 2),
            )


class Checksum:
    """A checksum of the batches that a network was trained with."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, images: NDArray[np.float32], targets: NDArray[np.float64], rate: float) -> None:
        """Add a batch."""
        self._hash.update(images.tobytes())
        self._hash.update(targets.tobytes())
        self._hash.update(np.float64(rate).tobytes())

    def __str__(self) -> str:
        return self._hash.hexdigest()[:16]
