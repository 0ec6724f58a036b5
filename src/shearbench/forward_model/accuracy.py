"""Renderers of a given accuracy: the choice of the smallest grid of frequencies for a population."""

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
_REACHES = (0.5, 0.7, 1.0, 1.5, 2.2)  # values of `Grid.reach` to try, over that of `light_reach`
_BANDWIDTHS = (*np.arange(1.0, 2.0, 0.0625).tolist(), 2.0, 2.5, 3.0)


@dataclass(frozen=True)
class Extremes:
    """The stamps and the extreme galaxies of a population, for which a grid must be accurate.

    Attributes
    ----------
    profile, shape, pixel_scale
        As for `Renderer`.
    psf : mapping
        As for `Renderer.psf`; a PSF of profile ``image`` is taken as a Gaussian of its width.
    hlr, psf_fwhm, n : (float, float)
        Smallest and largest half-light radius and PSF width (arcsec), and Sersic index (used for Sersic
        profiles only).
    g_max, psf_g_max : float
        Largest modulus of the reduced shear of galaxies and of PSFs.
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
        **limits: Any,
    ) -> Extremes:
        """Return the extremes among the rows of a catalog.

        Parameters
        ----------
        catalog : pandas.DataFrame
        profile, shape, pixel_scale, psf
            See the attributes.
        **limits
            Attributes that replace those of the catalog: limits of the population that it need not reach.
        """

        def ends(column: str) -> tuple[float, float]:
            return catalog[column].min(), catalog[column].max()

        def largest(prefix: str) -> float:
            g1, g2 = catalog[[f"{prefix}g1", f"{prefix}g2"]].to_numpy(np.float64).T
            return float(np.hypot(g1, g2).max())

        found: dict[str, Any] = {
            "hlr": ends("hlr"),
            "g_max": largest(""),
            "psf_fwhm": ends("psf_fwhm"),
            "psf_g_max": largest("psf_"),
            "n": ends("sersic_n"),
        }
        return cls(profile, shape, pixel_scale, psf, **(found | limits))

    def renderer(
        self, grid: Grid, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Renderer:
        """Return a renderer of these galaxies on these stamps."""
        return Renderer(self.profile, self.shape, self.pixel_scale, grid, dtype, device)

    def render(self, grid: Grid) -> Tensor:
        """Return float64 images of unit flux of the extreme galaxies and PSFs.

        Galaxies are stretched along either axis and along the diagonal.

        Returns
        -------
        Tensor, shape (number of PSFs, number of galaxies, ny, nx)
        """
        renderer = self.renderer(grid, torch.float64)
        parameters, psfs = self._cases(renderer)
        with torch.no_grad():
            return torch.stack([renderer(parameters, psf) for psf in psfs])

    def bandwidths(self, tolerance: float) -> dict[float, float]:
        """Return the error of each bandwidth, from bandwidth 1 to the first whose error is small enough.

        The error is that of a pixel as a fraction of the flux, at the centre of a galaxy, where the missing
        frequencies are in phase and the error is largest.

        Parameters
        ----------
        tolerance : float
            The list ends at the first bandwidth whose error is smaller.

        Returns
        -------
        dict of float to float
            Errors by bandwidth (in units of the Nyquist frequency).
        """
        if self.psf["profile"] == "image":
            return {1.0: 0.0}
        # The smallest galaxies under the smallest PSFs reach the highest frequencies.
        sharpest = replace(self, hlr=(self.hlr[0],) * 2, psf_fwhm=(self.psf_fwhm[0],) * 2)
        grid = Grid(max(self.shape), _BANDWIDTHS[-1] + 1)
        renderer = self.renderer(grid, torch.float64)
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


def renderer_for(
    catalog: pd.DataFrame,
    profile: str,
    shape: tuple[int, int],
    pixel_scale: float,
    tolerance: float,
    device: torch.device | str = "cpu",
    **limits: Any,
) -> Renderer:
    """Return the cheapest renderer whose images are exact to a tolerance for all galaxies of a catalog.

    Parameters
    ----------
    catalog : pandas.DataFrame
        Its attribute ``psf`` is the kind of PSF.
    profile, shape, pixel_scale, device
        As for `Renderer`.
    tolerance : float
        Largest error of a pixel, as a fraction of the galaxy's flux, see `choose_grid`.
    **limits
        Attributes of `Extremes` that replace those of the catalog, for a renderer of other galaxies of the
        population, too.

    Returns
    -------
    Renderer
        In float32.
    """
    extremes = Extremes.of(catalog, profile, shape, pixel_scale, catalog.attrs["psf"], **limits)
    return extremes.renderer(choose_grid(extremes, tolerance), device=device)


def choose_bandwidth(extremes: Extremes, tolerance: float) -> float:
    """Return the smallest bandwidth whose error is below a tolerance, see `Extremes.bandwidths`."""
    return max(extremes.bandwidths(tolerance))


def choose_grid(extremes: Extremes, tolerance: float) -> Grid:
    """Return the cheapest grid whose images are accurate to a tolerance over a population.

    A grid makes two errors: one by its bandwidth, one by its period. Both are measured on the extreme
    galaxies of the population, the second by comparison with a far larger grid. Of the grids for which their
    sum is within the tolerance, the one that takes the least time is returned.

    Parameters
    ----------
    extremes : Extremes
    tolerance : float
        Largest error of a pixel, as a fraction of the galaxy's flux.

    Returns
    -------
    Grid
        If no grid is accurate enough, the largest one. That happens if galaxies are much larger than the
        stamp.
    """
    errors = extremes.bandwidths(tolerance / 10)
    sizes, reach = _sizes(extremes.shape), light_reach(extremes.g_max)
    # An image of a PSF may have fine structure up to its edges, of which copies must stay out of the stamp.
    least = max(extremes.shape) if extremes.psf["profile"] == "image" else 0
    grids = [
        Grid(size, bandwidth, wings, share * reach)
        for size, bandwidth, wings, share in itertools.product(sizes, errors, _WINGS, _REACHES)
        if size >= least and wings * size >= 4 / 3 * max(extremes.shape)
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
    """Return the padded sizes to try: 1/3 to 10/3 of the stamp's size."""
    return [math.ceil(max(shape) * sixths / 6) for sixths in range(2, 21)]
