"""A network as a classifier: from images of several bands to the logits of classes."""

from __future__ import annotations

import torch
from torch import Tensor

from shearbench.networks.base import Architecture
from shearbench.networks.modules import dihedral
from shearbench.networks.modules.bodies import symmetric
from shearbench.networks.terms import LEVELS
from shearbench.training.task import TrainedModule


class ClassNetwork(TrainedModule):
    """A network of the zoo with an output for each class, and the normalisation of its input.

    From each band its mean is subtracted, and the rest is divided by the standard deviation: of each pixel,
    averaged over the 8 rotations and mirrors, or with `input_scaling: global` of all pixels. The inputs that
    tell the networks the noise level are zero.

    Parameters
    ----------
    architecture : Architecture
    bands : int
    shape : (int, int)
        Rows and columns of an image.
    classes : int
    """

    def __init__(self, architecture: Architecture, bands: int, shape: tuple[int, int], classes: int) -> None:
        super().__init__()
        self.symmetrise = architecture.symmetrise
        self.per_pixel = architecture.input_scaling == "pixel"
        self.network = architecture.classifier(bands, shape, classes)
        self.register_buffer("mean", torch.zeros(bands, *shape))
        self.register_buffer("spread", torch.ones(bands, *shape))

    mean: Tensor
    spread: Tensor

    @property
    def learned(self) -> tuple[str, ...]:
        """Names of the submodules that contain all weights; see `TrainedModule.learned`."""
        return ("network",)

    @torch.no_grad()
    def fit_scaling(self, images: Tensor) -> None:
        """Measure the normalisation from the training images alone, [n, bands, ny, nx] of any type."""
        count, mean = len(images), torch.zeros_like(self.mean, dtype=torch.float64)
        square = torch.zeros_like(mean)
        for part in images.split(1000):
            values = part.to(self.mean.device, torch.float64)
            mean += values.sum(0) / count
            square += values.square().sum(0) / count
        if not self.per_pixel:
            mean, square = (one.mean((1, 2), keepdim=True).expand_as(self.mean) for one in (mean, square))
        mean, square = symmetric(mean), symmetric(square)
        spread = (square - mean.square()).clamp_min(0).sqrt()
        typical = spread.square().mean().sqrt()
        self.mean.copy_(mean)
        # The lower limit is for pixels that hardly vary, and for images that are all equal.
        self.spread.copy_(spread.clamp_min(1e-3 * typical).clamp_min(1e-6))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [n, classes] of images [n, bands, ny, nx]."""
        # Convolutions are faster with the bands of a pixel side by side.
        images = ((images - self.mean) / self.spread).contiguous(memory_format=torch.channels_last)
        level = images.new_zeros(len(images), LEVELS)
        if self.symmetrise == "always" or (self.symmetrise == "test" and not self.training):
            turned = (dihedral.transform_images(images, k).contiguous() for k in range(dihedral.ORDER))
            return torch.stack([self.network(one, level) for one in turned]).mean(0)
        return self.network(images, level)
