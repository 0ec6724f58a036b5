"""Small changes of a scene, after which the right change of a measured shape is known.

Importing this module does not import torch.
"""

from __future__ import annotations

from typing import Literal

Change = Literal["shear", "psf", "shift"]

STEPS: dict[Change, float] = {"shear": 0.02, "psf": 0.02, "shift": 0.1}
"""Sizes of the changes: a reduced shear, a shape of the PSF, a shift [pixels]."""

MEANINGS = (
    "`shear`: the galaxy is sheared by 0.02. `psf`: the shape of the PSF changes by 0.02, and the answer "
    "should not. `shift`: the galaxy moves by 0.1 pixels, and the answer should not change. The difference, "
    "for a shear or a shape of the PSF as large as the standard deviation of the true shapes or a shift by "
    "a pixel,"
)
"""The changes in words, and the size that an error of the answer is stated for."""
