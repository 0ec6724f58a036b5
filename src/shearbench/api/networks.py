"""A trained network as a function of arrays: of shapes, or of classes."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shearbench.data.labelled_images import LabelledImages
from shearbench.data.own_stamps import unit_psf
from shearbench.errors import ShearbenchError
from shearbench.measurement.own_stamps import geometry_of, measure_arrays, noise_range
from shearbench.tasks.morphology.prediction import classify
from shearbench.tasks.morphology.train import Classifier as ClassifierFile
from shearbench.tasks.morphology.train import load_classifier as read_classifier
from shearbench.tasks.shear.model_file import TrainedNetwork, load_model


class Network:
    """A trained network that measures stamps.

    ``shapes, errors = network(images, psf, sigma)``; see `load_network` and `FinishedRun.network`.

    Parameters
    ----------
    model : TrainedNetwork

    Attributes
    ----------
    name : str
        Name of the variant.
    population : str
        The population on which the network was trained.
    seed : int
        Seed of the training.
    size : int
        Rows and columns of the stamps that the network measures.
    pixel_scale : float
        Pixel scale of these stamps [arcsec].
    noise_range : (float, float)
        Lowest and highest noise of the training [flux per pixel].
    about : dict
        All that the model file says of the network.
    module : torch.nn.Module
        The network itself, in evaluation mode, on the CPU.
    """

    def __init__(self, model: TrainedNetwork) -> None:
        self._model = model
        self.about: dict[str, Any] = model.about
        self.module = model.network
        self.name: str = model.about["variant"]
        self.population: str = model.about["population"]
        self.seed: int = model.about["seed"]
        self.size, self.pixel_scale = geometry_of(model)
        self.noise_range = noise_range(model)

    def __repr__(self) -> str:
        low, high = self.noise_range
        return (
            f"<Network {self.name}, seed {self.seed}, trained on {self.population}: "
            f"{self.size} x {self.size} pixels of {self.pixel_scale:g} arcsec, noise {low:g} to {high:g}>"
        )

    def __call__(
        self, images: ArrayLike, psf: ArrayLike, sigma: ArrayLike, threads: int = 1
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Measure stamps, on a GPU if one is visible.

        Parameters
        ----------
        images : array, shape (n, size, size) or (size, size)
            Flux per pixel with its noise, without background, the galaxy at the centre. The row index
            increases with y, the column index with x.
        psf : array, shape (m, m) or (n, m, m)
            The PSF convolved with the pixel, centred: one for all stamps, or one for each. Its flux does not
            count, and its size m may differ from that of the stamps.
        sigma : float, or array of shape (n,)
            Standard deviation of the noise of a pixel.
        threads : int
            Number of CPU threads.

        Returns
        -------
        shapes : ndarray of float64, shape (n, 2) or (2,)
            Reduced shear g1, g2. NaN for a stamp that has NaN or infinite pixels, and for all stamps if the
            training diverged.
        errors : ndarray of float64, shape (n, 2) or (2,)
            The 1-sigma errors, calibrated on validation stamps.

        Raises
        ------
        ShearbenchError
            An array has the wrong shape, a PSF has no flux, or a noise is not positive.
        """
        images, psf, sigma = (np.asarray(one, dtype=float) for one in (images, psf, sigma))
        single = images.ndim == 2
        stamps = images[None] if single else images
        if stamps.ndim != 3 or stamps.shape[1:] != (self.size, self.size):
            raise ShearbenchError(
                f"images: found the shape {images.shape}, expected (n, {self.size}, {self.size}) or "
                f"({self.size}, {self.size}), the size of the stamps that {self.name} was trained on"
            )
        n = len(stamps)
        if psf.ndim not in (2, 3) or psf.shape[-1] != psf.shape[-2] or (psf.ndim == 3 and len(psf) != n):
            raise ShearbenchError(f"psf: found the shape {psf.shape}, expected (m, m) or ({n}, m, m)")
        if sigma.ndim > 1 or (sigma.ndim == 1 and len(sigma) != n):
            raise ShearbenchError(f"sigma: found the shape {sigma.shape}, expected one number or ({n},)")
        if not (np.isfinite(sigma) & (sigma > 0)).all():
            raise ShearbenchError("sigma: the noise must be positive and finite")
        if not np.isfinite(psf).all() or not (psf.sum((-2, -1)) > 0).all():
            raise ShearbenchError("psf: its pixels must be finite, and its flux positive")
        psfs = [unit_psf(one.astype(np.float32), self.size) for one in psf.reshape(-1, *psf.shape[-2:])]
        shapes, errors = np.full((2, n, 2), np.nan)
        good = np.flatnonzero(np.isfinite(stamps.sum((1, 2))))
        if len(good) and not self.about["diverged"]:
            found = measure_arrays(
                self._model,
                stamps[good].astype(np.float32),
                psfs[0] if psf.ndim == 2 else np.stack(psfs)[good],
                np.broadcast_to(sigma, n)[good],
                threads=threads,
            )
            shapes[good] = np.stack([found.g1, found.g2], 1)
            errors[good] = np.stack([found.g1_err, found.g2_err], 1)
        return (shapes[0], errors[0]) if single else (shapes, errors)


def load_network(path: str | os.PathLike[str]) -> Network:
    """Read a trained network: a model file of a run, or a file of ``snakemake networks``.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    Network

    Raises
    ------
    ContractError
        The file is damaged or is not a network.
    OSError
        The file cannot be read.
    """
    return Network(load_model(path))


class Classifier:
    """A trained classifier of images.

    ``probabilities = classifier(images)``; see `load_classifier` and `FinishedRun.classifier`.

    Parameters
    ----------
    model : shearbench.tasks.morphology.train.Classifier

    Attributes
    ----------
    name : str
        Name of the variant.
    seed : int
        Seed of the training.
    classes : tuple of str
        Names of the classes, in the order of the probabilities.
    shape : (int, int, int)
        Rows, columns and bands of an image.
    about : dict
        All that the model file says of the network.
    module : torch.nn.Module
        The network itself, in evaluation mode, on the CPU.
    """

    def __init__(self, model: ClassifierFile) -> None:
        self._model = model
        self.about, self.module = model.about, model.network
        self.name: str = model.about["variant"]
        self.seed: int = model.about["seed"]
        self.classes: tuple[str, ...] = tuple(model.about["classes"])
        self.shape: tuple[int, int, int] = (*model.about["shape"], model.about["bands"])

    def __repr__(self) -> str:
        rows, columns, bands = self.shape
        return (
            f"<Classifier {self.name}, seed {self.seed}: {len(self.classes)} classes, "
            f"images of {rows} x {columns} pixels in {bands} bands>"
        )

    def __call__(self, images: ArrayLike, angle: float = 0.0, threads: int = 1) -> NDArray[np.float32]:
        """Classify images, on a GPU if one is visible.

        Parameters
        ----------
        images : array, shape (n, rows, columns, bands) or (rows, columns, bands)
            In the type and the units of the images that the network was trained on, such as uint8.
        angle : float
            Turn each image counterclockwise by this angle before [degrees].
        threads : int
            Number of CPU threads.

        Returns
        -------
        ndarray of float32, shape (n, classes) or (classes,)
            Probability of each class. NaN for an image that has NaN or infinite pixels.

        Raises
        ------
        ShearbenchError
            The images have the wrong shape.
        """
        images = np.asarray(images)
        single = images.ndim == 3
        every = images[None] if single else images
        if every.ndim != 4 or every.shape[1:] != self.shape:
            expected = ", ".join(map(str, self.shape))
            raise ShearbenchError(
                f"images: found the shape {images.shape}, expected (n, {expected}) or ({expected}), rows, "
                f"columns and bands of the images that {self.name} was trained on"
            )
        found = np.full((len(every), len(self.classes)), np.nan, np.float32)
        good = np.flatnonzero(np.isfinite(every).all((1, 2, 3)))
        if len(good):
            labels = np.zeros(len(good), np.int64)  # not used in the classification
            found[good] = classify(
                self._model, LabelledImages(every[good], labels, self.classes), (angle,), threads
            )[0]
        return found[0] if single else found


def load_classifier(path: str | os.PathLike[str]) -> Classifier:
    """Read a trained classifier: a model file of a run.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    Classifier

    Raises
    ------
    ContractError
        The file is damaged or is no classifier.
    OSError
        The file cannot be read.
    """
    return Classifier(read_classifier(path))
