"""Classification of images by a trained network, also after the images were turned."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from shearbench.data.labelled_images import LabelledImages
from shearbench.errors import ContractError
from shearbench.jobs.torch_settings import pick_device, torch_settings
from shearbench.tasks.morphology.augmentation import turned
from shearbench.tasks.morphology.train import RULE, Classifier, on_device

_BLOCK = 256  # number of images classified at once


def classify(
    model: Classifier,
    images: LabelledImages,
    angles: Sequence[float] = (0.0,),
    threads: int = 1,
    device: torch.device | None = None,
) -> NDArray[np.float32]:
    """Return the probabilities of the classes of images that were turned by some angles.

    Parameters
    ----------
    model : Classifier
    images : LabelledImages
    angles : sequence of float
        [degrees], counterclockwise.
    threads : int
        Number of CPU threads.
    device : torch.device, optional
        By default a GPU if one is visible, else the CPU.

    Returns
    -------
    ndarray of float32, shape (angles, n, classes)

    Raises
    ------
    ContractError
        The network was trained on images of another size or other classes.
    """
    wanted = (*model.about["shape"], model.about["bands"], list(model.about["classes"]))
    found = (*images.images.shape[1:], list(images.classes))
    if wanted != found:
        raise ContractError.of("images", "size, bands and classes", found, wanted, RULE)
    device = pick_device() if device is None else device
    with torch_settings(threads, 0, device), torch.inference_mode():
        network = model.network.to(device).eval()
        pixels = on_device(images, device).images
        answers = []
        for angle in angles:
            parts = []
            for block in pixels.split(_BLOCK):
                given = block.float()
                if angle % 360:
                    given = turned(given, given.new_full((len(given),), math.radians(angle % 360)))
                parts.append(network(given).softmax(1).cpu())
            answers.append(torch.cat(parts).numpy())
        network.to("cpu")
    return np.stack(answers)
