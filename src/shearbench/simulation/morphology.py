"""Options of the simulated colour images of galaxies of ten morphological classes."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import Field, model_validator

from shearbench.options import Options

CLASSES = (
    "disc, face-on, no spiral",
    "smooth, round",
    "smooth, in between",
    "smooth, cigar-shaped",
    "edge-on, rounded bulge",
    "edge-on, boxy bulge",
    "edge-on, no bulge",
    "spiral, tight arms",
    "spiral, medium arms",
    "spiral, loose arms",
)
"""The classes of Galaxy10 SDSS, in the order of its labels 0 to 9."""

Share = Annotated[float, Field(gt=0, le=1e6)]
Pixels = Annotated[float, Field(ge=0.5, le=20)]
Snr = Annotated[float, Field(ge=1, le=1e6)]


class SimulatedImages(Options):
    """Number and properties of the simulated images."""

    number: int = Field(6000, ge=100, le=10**6, description="number of images, of all classes together")
    size_pixels: int = Field(48, ge=32, le=256, description="side of an image [pixels]")
    shares: Annotated[tuple[Share, ...], Field(min_length=len(CLASSES), max_length=len(CLASSES))] = Field(
        (12, 16, 16, 6, 10, 5, 8, 10, 9, 8),
        description="number of images of each class, relative to the others; unequal, as in surveys",
    )
    psf_fwhm_pixels: tuple[Pixels, Pixels] = Field(
        (2.2, 2.8),
        description="FWHM of the Moffat PSF, a range [lowest, highest] at images of 48 pixels; it grows with "
        "the image as galaxies do",
    )
    snr: tuple[Snr, Snr] = Field(
        (80.0, 400.0),
        description="signal-to-noise ratio of a galaxy in its brightest band, a range [lowest, highest], "
        "uniform in the logarithm",
    )

    @model_validator(mode="after")
    def _ordered(self) -> SimulatedImages:
        for name in ("psf_fwhm_pixels", "snr"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: found [{low:g}, {high:g}], expected [lowest, highest]")
        return self

    def counts(self) -> list[int]:
        """Return the number of images of each class; the sum is `number`."""
        total = sum(self.shares)
        edges = [0.0]
        for share in self.shares:
            edges.append(edges[-1] + share)
        places = [round(self.number * edge / total) for edge in edges]
        return [high - low for low, high in pairwise(places)]
