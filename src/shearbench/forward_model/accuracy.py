"""The smallest grid of frequencies that renders a population to a wanted accuracy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd
from shearbench.forward_model.fourier import Grid, Psfs, Renderer, light_reach

_WINGS = (1, 2, 4, 8, 32)
_REACHES = (0.5, 0.7, 1.0, 1.5, 2.2)  # of what `light_reach` says
_BANDWIDTHS = (*np.arange(1.0, 2.0, 0.0625).tolist(), 2.0, 2.5, 3.0)


@dataclass(frozen=True)
class Extremes:
    """The stamps and the extreme galaxies of a population, for which a grid is to be good.

    Attributes
    ----------
    profile, shape, pixel_scale
        As for `Renderer`.
    psf : mapping
        As for `Renderer.psf`; or profile ``image``, taken for a Gaussian of its width.
    hlr, psf_fwhm, n : (float, float)
        Smallest and largest, arcsec; n for Sersic galaxies only.
    g_max, psf_g_max : float
        Largest reduced shear of galaxies and of PSFs.
    """

    profile: str
    shape: tuple[int, int]
    pixel_scale: float
    psf: Mapping[str, Any]
    hlr: tuple[float, float]
    g_max: float
    psf_fwhm: tuple[float, float]
    psf_g_max: float = 0.0
    n: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def of(
        cls,
        catalog: pd.DataFrame,
        profile: str,
        shape: tuple[int, int],
        pixel_scale: float,
        psf: Mapping[str, Any],
    ) -> Extremes:
        """Return the extremes among the rows of a catalog."""

        def ends(column: str) -> tuple[float, float]:
            return catalog[column].min(), catalog[column].max()

        def largest(prefix: str) -> float:
            g1, g2 = catalog[[f"{prefix}g1", f"{prefix}g2"]].to_numpy(np.float64).T
            return float(np.hypot(g1, g2).max())

        return cls(
            profile,
            shape,
            pixel_scale,
            psf,
            hlr=ends("hlr"),
            g_max=largest(""),
            psf_fwhm=ends("psf_fwhm"),
            psf_g_max=largest("psf_"),
            n=ends("sersic_n"),
        )

    def render(self, grid: Grid) -> Tensor:
        """Return float64 images of unit flux: each extreme, stretched along both axes and the diagonal."""
        renderer = Renderer(self.profile, self.shape, self.pixel_scale, grid, torch.float64)
        parameters, psfs = self._cases(renderer)
        with torch.no_grad():
            return torch.stack([renderer(parameters, psf) for psf in psfs])

    def bandwidths(self, tolerance: float) -> dict[float, float]:
        """Return bandwidths, from 1 to the first that leaves less than a tolerance, and what each leaves.

        What is left is largest where all frequencies are in phase, at the centre of a galaxy.
        """
        if self.psf["profile"] == "image":
            return {1.0: 0.0}
        # The smallest galaxies under the smallest PSFs reach the highest frequencies.
        sharpest = replace(self, hlr=(self.hlr[0],) * 2, psf_fwhm=(self.psf_fwhm[0],) * 2)
        grid = Grid(max(self.shape), _BANDWIDTHS[-1] + 1)
        renderer = Renderer(self.profile, self.shape, self.pixel_scale, grid, torch.float64)
        parameters, psfs = sharpest._cases(renderer)
        k, width = grid.frequencies()
        with torch.no_grad():
            parts = [renderer.spectrum(parameters, psf).abs() for psf in psfs]
        within = torch.cat(parts).cumsum(1).cumsum(2).diagonal(dim1=1, dim2=2) * (width[0] / math.pi) ** 2 / 2
        errors = {}
        for bandwidth in _BANDWIDTHS:
            last = int(np.searchsorted(k, bandwidth * math.pi)) - 1
            errors[bandwidth] = float((within[:, -1] - within[:, last]).max())
            if errors[bandwidth] < tolerance:
                break
        return errors

    def _cases(self, renderer: Renderer) -> tuple[Tensor, list[Psfs]]:
        offset = self.pixel_scale / 2
        cases = [
            (1, offset, offset, size, self.g_max * cos, self.g_max * sin, index)
            for size in sorted(set(self.hlr))
            for cos, sin in ((1, 0), (-1, 0), (0, 1))
            for index in sorted(set(self.n))
        ]
        spec = {"profile": "gaussian"} if self.psf["profile"] == "image" else self.psf
        shears = sorted({-self.psf_g_max, self.psf_g_max})
        psfs = [renderer.psf(spec, fwhm, g) for fwhm in sorted(set(self.psf_fwhm)) for g in shears]
        return torch.tensor(cases, dtype=torch.float64)[:, : len(renderer.names)], psfs


def choose_bandwidth(extremes: Extremes, tolerance: float) -> float:
    """Return the smallest bandwidth that leaves out less than a tolerance, see `choose_grid`."""
    return max(extremes.bandwidths(tolerance))


def choose_grid(extremes: Extremes, tolerance: float) -> Grid:
    """Return the cheapest grid whose images are exact to a tolerance over a population.

    Its extreme galaxies are rendered with several bandwidths, and with several periods, and compared with a
    far larger grid. Of the grids whose two errors add up to no more than the tolerance, the one with the
    least to compute is taken.

    Parameters
    ----------
    extremes : Extremes
    tolerance : float
        Largest error of a pixel, as a fraction of the galaxy's flux.

    Returns
    -------
    Grid
        The largest grid there is if none is good enough: for galaxies much larger than the stamp.
    """
    errors = extremes.bandwidths(tolerance / 10)
    sizes, reach = _sizes(extremes.shape), light_reach(extremes.g_max)
    grids = [
        Grid(size, bandwidth, wings, share * reach)
        for size, bandwidth, wings, share in itertools.product(sizes, errors, _WINGS, _REACHES)
        if wings * size >= 4 / 3 * max(extremes.shape)
    ]
    grids.sort(key=lambda grid: grid.cost(max(extremes.shape)))
    largest = Grid(sizes[-1], 1.0, _WINGS[-1], 3 * reach)
    exact = extremes.render(largest)
    by_period: dict[Grid, float] = {}
    for grid in grids:
        if errors[grid.bandwidth] > tolerance:
            continue
        period = grid._replace(bandwidth=1.0)
        if period not in by_period:
            by_period[period] = float((extremes.render(period) - exact).abs().max())
        if errors[grid.bandwidth] + by_period[period] <= tolerance:
            return grid
    return largest._replace(bandwidth=list(errors)[-1])


def _sizes(shape: tuple[int, int]) -> list[int]:
    """Return padded sizes worth trying: 1/3 to 10/3 of the stamp."""
    return [math.ceil(max(shape) * sixths / 6) for sixths in range(2, 21)]
