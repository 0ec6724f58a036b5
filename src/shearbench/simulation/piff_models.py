"""PSF models made by Piff (Jarvis et al. 2021, MNRAS 501, 1282), which the optional package piff reads.

Piff keeps the coordinate systems of chips as Python objects, so reading a file can run code that is in it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import galsim
import numpy as np

from shearbench.data.external import PIFF_MISSING
from shearbench.errors import ConfigError

Range = tuple[tuple[float, float], tuple[float, float]]


@lru_cache(maxsize=16)
def piff_model(path: str) -> Any:
    """Read a model.

    Parameters
    ----------
    path : str

    Returns
    -------
    piff.PSF

    Raises
    ------
    ConfigError
        The package piff is not installed, or cannot read the file, or the model depends on more than the
        place on the sky, such as the colour of a star.
    """
    try:
        import piff
    except ImportError as error:
        raise ConfigError(f"psf.profile: {PIFF_MISSING}") from error
    try:
        model = piff.read(path)
    except Exception as error:  # piff raises errors of many kinds
        raise ConfigError(f"psf.piff_files: {path} is no model that Piff reads ({error!r})") from error
    further = sorted({*model.interp_property_names} - {"x", "y", "u", "v"})
    if further:
        raise ConfigError(
            f"psf.piff_files: {path} depends on {', '.join(further)}, which galaxies have not; expected a "
            "model that depends on the position only"
        )
    return model


def chip_ranges(path: str) -> dict[int, Range]:
    """Return the range of positions of the stars of each chip, to which the model was fitted.

    Parameters
    ----------
    path : str

    Returns
    -------
    dict of int to ((float, float), (float, float))
        By the number of the chip: lowest x and y, highest x and y [pixels].

    Raises
    ------
    ConfigError
        See `piff_model`; or the file has no stars.
    """
    model = piff_model(path)
    # A model of a single chip may have stars that do not say which.
    only = next(iter(model.wcs))
    places: dict[int, list[tuple[float, float]]] = {}
    for star in model.stars:
        chip = star.data.properties.get("chipnum", only)
        places.setdefault(int(chip), []).append((float(star.image_pos.x), float(star.image_pos.y)))
    if not places:
        raise ConfigError(f"psf.piff_files: {path} has no stars, whose positions tell where it holds")
    found = {}
    for chip in sorted(places):
        low, high = np.min(places[chip], axis=0).tolist(), np.max(places[chip], axis=0).tolist()
        found[chip] = ((low[0], low[1]), (high[0], high[1]))
    return found


@lru_cache(maxsize=4)  # the rows of a paired split have the same PSF one after the other
def piff_psf(path: str, pixel_scale: float, chip: int, x: float, y: float) -> galsim.GSObject:
    """Return the PSF at a position, convolved with the pixel.

    Parameters
    ----------
    path : str
    pixel_scale : float
        Of the detector [arcsec]; a model that does not hold the pixel is convolved with it.
    chip : int
    x, y : float
        Position on the chip [pixels].

    Returns
    -------
    galsim.GSObject
        Of unit flux, in arcsec on the sky.
    """
    profile, method = piff_model(path).get_profile(x, y, chipnum=chip)
    return profile if method == "no_pixel" else galsim.Convolve(profile, galsim.Pixel(pixel_scale))
