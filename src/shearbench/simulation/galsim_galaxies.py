"""Colour images of galaxies of ten morphological classes, drawn with GalSim.

A galaxy is a sum of components, each with a colour: a red bulge, a disc, blue spiral arms. Each component is
convolved with the PSF and drawn once; the three bands (i, r, g) are sums of the drawn components with the
fluxes of the band. Noise is added in each band, and the bands become red, green and blue as in the colour
images of SDSS (Lupton et al. 2004, PASP 116, 133).

Spiral arms are logarithmic: their angle grows as ln(r) / tan(pitch), with a pitch angle of 7 to 11 degrees
for tight arms, 16 to 23 for medium and 32 to 45 for loose ones. Edge-on discs have a vertical sech^2 profile.
The isophotes of a boxy bulge are superellipses |x|^4 + |y / q|^4 = const.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import galsim
import numpy as np
from astropy.visualization import make_lupton_rgb
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from shearbench.simulation.morphology import CLASSES, SimulatedImages

_SIDE = 48  # side of the image in which the sizes below are given [pixels]
_FINE = 2  # pixels of a drawn component per pixel of the image
_PITCH = {"tight": (7.0, 11.0), "medium": (16.0, 23.0), "loose": (32.0, 45.0)}  # [degrees]
_RED, _DISC, _BLUE = (0.80, 0.40), (0.58, 0.28), (0.32, 0.12)  # g - r and r - i [mag]
_STRETCH, _SOFTENING = 6.0, 8.0  # of the colour image; the first in standard deviations of the noise
# Twice as fast as GalSim's defaults; the 8-bit images are the same but for one in a few hundred pixels.
_FAST = galsim.GSParams(
    folding_threshold=2e-2, maxk_threshold=5e-3, stepk_minimum_hlr=3, kvalue_accuracy=1e-4
)
_DARKEST = -2.5  # value of a black pixel, in standard deviations of the noise

Rng = np.random.Generator
Floats = NDArray[np.float64]


class Component(NamedTuple):
    """A component of a galaxy: its profile, its share of the flux in r, and its colours g - r and r - i."""

    profile: galsim.GSObject
    flux: float
    colour: tuple[float, float]


def draw_images(
    options: SimulatedImages, seed: int, processes: int = 1
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw all images, in an order that is random and the same for any number of processes.

    Parameters
    ----------
    options : SimulatedImages
    seed : int
    processes : int
        Number of processes; on other systems than Linux there is one.

    Returns
    -------
    images : ndarray of uint8, shape (n, size, size, 3)
    labels : ndarray of int64, shape (n,)
        Indices into `CLASSES`.
    """
    labels = np.repeat(np.arange(len(CLASSES)), options.counts())
    labels = np.random.default_rng([seed, 0]).permutation(labels)
    parts = np.array_split(np.arange(len(labels)), 4 * processes)
    arguments = [(options, seed, labels, part) for part in parts]
    # Processes that are started anew would run the script of a Snakemake job again, so they are forked.
    if processes == 1 or sys.platform != "linux":
        drawn = [_draw_part(*one) for one in arguments]
    else:
        with ProcessPoolExecutor(processes, get_context("fork")) as pool:
            drawn = list(pool.map(_draw_part, *zip(*arguments)))
    return np.concatenate(drawn), labels


def _draw_part(
    options: SimulatedImages, seed: int, labels: NDArray[np.int64], part: NDArray[np.int64]
) -> NDArray[np.uint8]:
    rngs = (np.random.default_rng([seed, 1, int(k)]) for k in part)
    return np.stack([draw_galaxy(int(labels[k]), rng, options) for k, rng in zip(part, rngs)])


def draw_galaxy(label: int, rng: Rng, options: SimulatedImages) -> NDArray[np.uint8]:
    """Draw a galaxy of a class.

    Parameters
    ----------
    label : int
        Index into `CLASSES`.
    rng : numpy.random.Generator
        Source of the galaxy's properties and of the noise.
    options : SimulatedImages

    Returns
    -------
    ndarray of uint8, shape (size, size, 3)
        Red, green and blue: the bands i, r and g.
    """
    size = options.size_pixels
    unit = size / _SIDE
    components = _MAKERS[label](rng, unit, size)
    width = unit * rng.uniform(*options.psf_fwhm_pixels)
    psf = galsim.Moffat(beta=3.5, fwhm=width, gsparams=_FAST)
    angle = rng.uniform(0, 360) * galsim.degrees
    mirrored = rng.random() < 0.5
    shift = unit * rng.uniform(-1, 1, 2)
    scatter = rng.normal(0, 0.12, 2)  # of the colours of a galaxy
    bands = np.zeros((3, size, size))
    for component in components:
        profile = component.profile
        if mirrored:
            profile = profile.transform(1, 0, 0, -1)
        placed = profile.withGSParams(_FAST).rotate(angle).shift(*shift)
        drawn = galsim.Convolve(placed, psf, gsparams=_FAST).drawImage(nx=size, ny=size, scale=1.0)
        blue, red = (colour + change for colour, change in zip(component.colour, scatter))
        fluxes = component.flux * np.array([10 ** (0.4 * red), 1.0, 10 ** (-0.4 * blue)])
        bands += fluxes[:, None, None] * drawn.array
    low, high = np.log(options.snr)
    bands *= math.exp(rng.uniform(low, high)) / np.sqrt(np.square(bands).sum((1, 2))).max()
    bands += rng.normal(size=bands.shape)
    # Fainter bands are shown brighter, so that a galaxy of average colours is white.
    bands *= np.array([0.75, 1.0, 1.7])[:, None, None]
    return make_lupton_rgb(*bands, minimum=_DARKEST, stretch=_STRETCH, Q=_SOFTENING)


def _uniform(rng: Rng, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def _sersic(index: float, radius: float, cut: float) -> galsim.GSObject:
    """Return a profile that ends at `cut` half-light radii.

    The index is rounded to tenths, because GalSim computes a table for each pair of index and cut.
    """
    return galsim.Sersic(round(index, 1), half_light_radius=radius, trunc=cut * radius)


def _of_image(values: Floats) -> galsim.GSObject:
    """Return the profile of an image with `_FINE` pixels per pixel, of unit flux."""
    image = galsim.Image(values.astype(np.float32), scale=1 / _FINE)
    return galsim.InterpolatedImage(
        image, x_interpolant="linear", flux=1.0, pad_factor=1.5, calculate_stepk=False, calculate_maxk=False
    )


def _grid(size: int) -> tuple[Floats, Floats]:
    """Return x and y [pixels] of the pixels of a component, from the centre of the image."""
    place = (np.arange(size * _FINE) - (size * _FINE - 1) / 2) / _FINE
    x, y = np.meshgrid(place, place)
    return x, y


def _taper(r: Floats, size: int) -> Floats:
    """Return a factor that falls from 1 to 0 towards the edge of the image."""
    return 1 / (1 + np.exp((r - 0.42 * size) / (0.02 * size)))


def _face_on(rng: Rng, unit: float, size: int) -> list[Component]:
    h = unit * _uniform(rng, 4.0, 6.0)
    disc = galsim.InclinedExponential(math.acos(_uniform(rng, 0.8, 1.0)) * galsim.radians, scale_radius=h)
    bulge = _sersic(2.0, h * _uniform(rng, 0.25, 0.4), 12)
    share = _uniform(rng, 0.08, 0.25)
    return [Component(disc, 1 - share, _DISC), Component(bulge, share, _RED)]


def _smooth(low: float, high: float) -> Callable[[Rng, float, int], list[Component]]:
    def make(rng: Rng, unit: float, size: int) -> list[Component]:
        ratio = _uniform(rng, low, high)
        radius = unit * _uniform(rng, 3.0, 5.5)
        profile = _sersic(_uniform(rng, 2.5, 4.5), radius, 5)
        return [Component(profile.shear(q=ratio, beta=0 * galsim.degrees), 1.0, _RED)]

    return make


def _edge_on(bulge: str) -> Callable[[Rng, float, int], list[Component]]:
    def make(rng: Rng, unit: float, size: int) -> list[Component]:
        h = unit * _uniform(rng, 5.5, 7.5)
        inclination = _uniform(rng, 85, 90) * galsim.degrees
        disc = galsim.InclinedExponential(
            inclination, scale_radius=h, scale_h_over_r=_uniform(rng, 0.07, 0.12)
        )
        if bulge == "none":
            return [Component(disc, 1.0, _DISC)]
        share, ratio = _uniform(rng, 0.35, 0.55), _uniform(rng, 0.75, 0.95)
        if bulge == "rounded":
            radius = unit * _uniform(rng, 2.6, 3.6)
            profile = _sersic(1.5, radius, 6)
            profile = profile.shear(q=ratio, beta=0 * galsim.degrees)
        else:
            x, y = _grid(size)
            radius = unit * _uniform(rng, 5.5, 7.0)
            r = ((x / radius) ** 4 + (y / (radius * ratio)) ** 4) ** 0.25
            profile = _of_image(np.exp(-(r**1.7)))
        return [Component(disc, 1 - share, _DISC), Component(profile, share, _RED)]

    return make


def _spiral(winding: str) -> Callable[[Rng, float, int], list[Component]]:
    def make(rng: Rng, unit: float, size: int) -> list[Component]:
        h = unit * _uniform(rng, 5.0, 6.5)
        x, y = _grid(size)
        ratio = _uniform(rng, 0.75, 1.0)  # of the axes of the inclined disc
        r = np.hypot(x, y / ratio)
        theta = np.arctan2(y / ratio, x)
        arms = int(rng.choice([2, 3, 4], p=[0.75, 0.15, 0.1]))
        pitch = math.radians(_uniform(rng, *_PITCH[winding]))
        inner = unit * _uniform(rng, 2.0, 3.0)  # radius at which the arms begin
        phase = arms * (theta - np.log(np.maximum(r, 0.3) / inner) / math.tan(pitch))
        # An arm is as wide as a fraction of the distance between arms; star formation makes it clumpy.
        ridge = np.exp(_uniform(rng, 2.0, 4.0) * (np.cos(phase) - 1))
        clumps = gaussian_filter(rng.normal(size=r.shape), 1.5 * unit * _FINE)
        clumps = np.exp(0.35 * clumps / clumps.std())
        onset = 1 / (1 + np.exp(-(r - inner) / (0.4 * unit)))
        spiral = _of_image(ridge * clumps * onset * np.exp(-r / (1.3 * h)) * _taper(r, size))
        disc = galsim.InclinedExponential(math.acos(ratio) * galsim.radians, scale_radius=h)
        bulge = _sersic(2.0, h * _uniform(rng, 0.2, 0.35), 12)
        in_bulge, in_arms = _uniform(rng, 0.08, 0.2), _uniform(rng, 0.35, 0.5)
        return [
            Component(disc, 1 - in_bulge - in_arms, _DISC),
            Component(bulge, in_bulge, _RED),
            Component(spiral, in_arms, _BLUE),
        ]

    return make


_MAKERS: Sequence[Callable[[Rng, float, int], list[Component]]] = (
    _face_on,
    _smooth(0.87, 1.0),
    _smooth(0.5, 0.77),
    _smooth(0.22, 0.38),
    _edge_on("rounded"),
    _edge_on("boxy"),
    _edge_on("none"),
    _spiral("tight"),
    _spiral("medium"),
    _spiral("loose"),
)
