"""Populations: named distributions of galaxies and PSFs, and presets that every run may use.

A new population is an entry of the configuration that is based on a preset::

    populations:
      faint: {base: exp_gauss, flux: [0.1, 0.5]}
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from shearbench.options import Options

SPLITS = ("train", "validation", "test", "shear", "leakage")
PAIRED = ("shear", "leakage")
"""Splits in which each galaxy has several stamps: under opposite shears, or opposite shapes of the PSF."""


def stamp_count(split: str, galaxies: int, rotations: int) -> int:
    """Return the number of stamps of a split.

    In the splits `PAIRED`, each galaxy has ``rotations * 8`` stamps, see
    `shearbench.simulation.catalog.sample_catalog`; in the other splits, it has one.
    """
    return galaxies * rotations * 8 if split in PAIRED else galaxies


def _as_range(value: Any) -> Any:
    # A workflow that imports this one as a Snakemake module may read 1e0 as text.
    return (value, value) if isinstance(value, int | float | str) and not isinstance(value, bool) else value


Range = Annotated[tuple[float, float], BeforeValidator(_as_range)]
"""A uniform distribution ``[low, high]``; a single number gives all galaxies the same value."""


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _check_range(name: str, value: tuple[float, float], low: float, high: float = float("inf")) -> None:
    if not low < value[0] <= value[1] < high:
        raise ValueError(f"{name}: needs {low:g} < low <= high < {high:g}, got {list(value)}")


Waves = Annotated[float, Field(ge=-2, le=2)]
"""The coefficient of an aberration, in wavelengths."""


class Optical(Options):
    """A telescope without atmosphere: GalSim's `OpticalPSF`, convolved with a Gaussian."""

    diffraction_arcsec: float = Field(
        0.4, gt=0, le=10, description="wavelength over the mirror's diameter [arcsec]"
    )
    jitter_fwhm_arcsec: float = Field(
        0.4, ge=0, le=10, description="FWHM of a Gaussian by which the image is blurred; 0: none [arcsec]"
    )
    obscuration: float = Field(
        0.0, ge=0, le=0.9, description="diameter of the central obscuration over that of the mirror"
    )
    struts: int = Field(0, ge=0, le=12, description="number of struts that hold the secondary mirror")
    strut_thickness: float = Field(
        0.02, gt=0, le=0.5, description="thickness of a strut over the mirror's diameter"
    )
    defocus: Waves = Field(0.0, description="defocus [wavelengths]")
    astigmatism: tuple[Waves, Waves] = Field(
        (0.0, 0.0), description="the two components of astigmatism [wavelengths]"
    )
    coma: tuple[Waves, Waves] = Field((0.0, 0.0), description="the two components of coma [wavelengths]")
    trefoil: tuple[Waves, Waves] = Field(
        (0.0, 0.0), description="the two components of trefoil [wavelengths]"
    )
    spherical: Waves = Field(0.0, description="spherical aberration [wavelengths]")


class Psf(Options):
    """The point-spread function, without the pixel."""

    profile: Literal["gaussian", "moffat", "kolmogorov", "optical", "image", "psfex", "piff"] = Field(
        "gaussian",
        description="its form; `optical` is that of a telescope, `image` is read from a FITS file, and "
        "`psfex` and `piff` from models made by PSFEx and by Piff",
    )
    fwhm_arcsec: Range = Field(
        (0.6, 0.6),
        description="full width at half maximum, a number or a range [arcsec]. For `optical`, `image`, "
        "`psfex` and `piff`, it is only used to judge the size of stamps: give about their width",
    )
    moffat_beta: float = Field(
        2.5,
        ge=1.5,
        le=100,
        description="exponent of a Moffat profile; below 1.5 its wings are wider than GalSim can draw",
    )
    shape_sigma: float = Field(
        0.0,
        ge=0,
        lt=0.2,
        description="standard deviation of each component of the PSF's own shape g, per galaxy; not used "
        "for `image`, `psfex` and `piff`, whose PSFs have shapes of their own",
    )
    shape_mean: tuple[Annotated[float, Field(ge=-0.2, le=0.2)], Annotated[float, Field(ge=-0.2, le=0.2)]] = (
        Field(
            (0.0, 0.0),
            description="mean of the PSF's own shape, g1 and g2; not used for those three either",
        )
    )
    optical: Optical = Optical()
    image_file: str | None = Field(
        None,
        description="FITS file with PSF images, one per HDU or in a cube; each galaxy takes one at random. "
        "They hold the pixel's response, are interpolated as band-limited, may be off centre, and need a "
        "FWHM of 2.2 of their pixels or more",
    )
    image_pixel_scale_arcsec: float = Field(
        0.2,
        ge=1e-3,
        le=10,
        description="pixel scale of these images, or of the detector of the PSFEx or Piff models [arcsec]",
    )
    psfex_files: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = Field(
        (),
        description="files of PSFEx models (`.psf`), read by GalSim's `DES_PSFEx`. Each galaxy takes one at "
        "random, and a random position within the range of positions to which the model was fitted",
    )
    psfex_margin_pixels: float = Field(
        0.0, ge=0, le=1e6, description="positions are this far from the ends of that range [pixels]"
    )
    piff_files: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = Field(
        (),
        description="files of models made by Piff (`.piff`), which the package piff reads. Each galaxy takes "
        "one at random, one of its chips, and a random position within the range of the chip's stars",
    )

    @model_validator(mode="after")
    def _check(self) -> Psf:
        _check_range("fwhm_arcsec", self.fwhm_arcsec, low=0)
        if (self.profile == "image") != (self.image_file is not None):
            raise ValueError("image_file: must be given with `profile: image`, and with no other profile")
        if (self.profile == "psfex") != (self.psfex_files != ()):
            raise ValueError("psfex_files: must be given with `profile: psfex`, and with no other profile")
        if (self.profile == "piff") != (self.piff_files != ()):
            raise ValueError("piff_files: must be given with `profile: piff`, and with no other profile")
        return self

    @property
    def has_formula(self) -> bool:
        """Whether the PSF is given by FWHM and shape; otherwise its image in the stamps tells what it is."""
        return self.profile in ("gaussian", "moffat", "kolmogorov")

    @property
    def holds_pixel(self) -> bool:
        """Whether the convolution with the pixel is a part of the PSF, so that it is not convolved again."""
        return self.profile in ("image", "psfex", "piff")

    @property
    def constant(self) -> bool:
        """Whether every galaxy has the same PSF; never for PSFs from files."""
        if self.profile == "optical":
            return self.shape_sigma == 0
        return self.fwhm_arcsec[0] == self.fwhm_arcsec[1] and self.shape_sigma == 0 and not self.holds_pixel

    @property
    def largest_shape(self) -> float:
        """Modulus of the PSF's own shape that few galaxies exceed."""
        return math.hypot(*self.shape_mean) + 3 * self.shape_sigma


class Columns(Options):
    """Names of the columns of a user's catalogue; the parameters of a galaxy come from one row."""

    half_light_radius: str | None = Field(
        None,
        description="column of the half-light radius (circularised; for `bulge-disc` the disc's) [arcsec]",
    )
    flux: str | None = Field(None, description="column of the flux, which is multiplied by `flux_scale`")
    sersic_n: str | None = Field(
        None, description="column of the Sersic index; it is rounded to a multiple of `sersic_n_step`"
    )
    g1: str | None = Field(
        None,
        description="column of the first component of the shape g; each galaxy gets a random orientation",
    )
    g2: str | None = Field(None, description="column of the second component of the shape")
    bulge_fraction: str | None = Field(None, description="column of the bulge's share of the flux")
    bulge_half_light_radius: str | None = Field(
        None, description="column of the half-light radius of the bulge [arcsec]"
    )

    @property
    def named(self) -> dict[str, str]:
        """The columns that are given, by the names of their options."""
        return {option: name for option, name in self if name is not None}


class Neighbours(Options):
    """A second galaxy in some of the stamps."""

    fraction: float = Field(0.0, ge=0, le=1, description="fraction of the galaxies that have a neighbour")
    distance_arcsec: Range = Field(
        (1.5, 3.0), description="distance of the neighbour, in any direction [arcsec]"
    )
    flux_ratio: Range = Field((0.3, 1.0), description="flux of the neighbour over that of the galaxy")

    @model_validator(mode="after")
    def _check(self) -> Neighbours:
        _check_range("distance_arcsec", self.distance_arcsec, low=0, high=1e4)
        _check_range("flux_ratio", self.flux_ratio, low=1e-6, high=1e6)
        return self


class Masks(Options):
    """Pixels without a measurement, which are masked."""

    fraction: float = Field(
        0.0, ge=0, le=0.3, description="fraction of the pixels that are masked, at random"
    )
    columns: int = Field(
        0, ge=0, le=10, description="number of columns of each stamp that are masked, at random places"
    )


class Noise(Options):
    """How noise differs from white noise of one level."""

    correlation_pixels: float = Field(
        0.0,
        ge=0,
        le=1,
        description="the noise is white noise convolved with a Gaussian of this standard deviation, with the "
        "same variance of a pixel; 0: white [pixels]",
    )
    variation: float = Field(
        0.0,
        ge=0,
        le=1,
        description="standard deviation of the logarithm of the noise level from stamp to stamp, in eight "
        "steps; estimators are told the level of each stamp",
    )


class Population(Options):
    """A distribution of galaxies and their PSFs, from which catalogs are sampled."""

    profile: Literal[
        "gaussian", "exponential", "sersic", "bulge-disc", "cosmos-parametric", "cosmos-real"
    ] = Field(
        "exponential",
        description="radial profile; `bulge-disc` is an exponential disc with a Sersic bulge of the same "
        "centre and shape; the cosmos ones take galaxies of GalSim's COSMOS catalogue (their single-Sersic "
        "fits, or the HST images themselves)",
    )
    half_light_radius_arcsec: Range = Field(
        (0.5, 1.2),
        description="half-light radius (circularised; for `bulge-disc` that of the disc) [arcsec]; of a "
        "catalogue, the sizes kept",
    )
    flux: Range = Field(
        (0.5, 5.0),
        description="total flux, in the image's units; of a catalogue with fluxes, the fluxes kept",
    )
    bulge_fraction: Range = Field((0.0, 0.5), description="the bulge's share of the flux, for `bulge-disc`")
    bulge_size: Range = Field(
        (0.2, 0.5), description="half-light radius of the bulge over that of the disc, for `bulge-disc`"
    )
    bulge_sersic_n: float = Field(
        4.0, ge=0.5, le=6.2, description="Sersic index of the bulge, for `bulge-disc`"
    )
    sersic_n: Range = Field((0.7, 3.5), description="Sersic index, where the profile has one")
    sersic_n_step: float = Field(
        0.05,
        ge=1e-3,
        le=6,
        description="the index is drawn on a grid of this step, because GalSim tabulates each index anew",
    )
    shape_sigma: float = Field(
        0.2, ge=0, le=1, description="standard deviation of each component of the intrinsic g"
    )
    shape_max: float = Field(0.6, ge=0.01, lt=1, description="intrinsic shapes are kept within |g| < this")
    shear_max: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="train, validation and test galaxies are sheared by up to this, uniform in a disc",
    )
    centroid_shift_pixels: float = Field(
        0.5,
        ge=0,
        le=256,
        description="centroids are uniform within this of the stamp's centre, along each axis [pixels]",
    )
    catalogue_file: str | None = Field(
        None,
        description="for the cosmos profiles, the COSMOS (or other GalSim real-galaxy) catalogue, FITS; for "
        "others with `catalogue_columns`, a table of your own: FITS (`.fits`), Parquet or CSV",
    )
    catalogue_columns: Columns = Columns()
    catalogue_flux: bool = Field(
        False,
        description="for the cosmos profiles: fluxes are those of the catalogue, times `flux_scale`, instead "
        "of uniform within `flux`",
    )
    flux_scale: float = Field(
        1.0, ge=1e-12, le=1e12, description="the fluxes of a catalogue are multiplied by this number"
    )
    psf: Psf = Psf()
    neighbours: Neighbours = Neighbours()
    masks: Masks = Masks()
    noise: Noise = Noise()

    @model_validator(mode="after")
    def _check(self) -> Population:
        _check_range("half_light_radius_arcsec", self.half_light_radius_arcsec, low=0)
        _check_range("flux", self.flux, low=1e-12, high=1e12)
        _check_range("sersic_n", self.sersic_n, low=0.3, high=6.2)
        if not 0 <= self.bulge_fraction[0] <= self.bulge_fraction[1] <= 1:
            raise ValueError(f"bulge_fraction: needs 0 <= low <= high <= 1, got {list(self.bulge_fraction)}")
        _check_range("bulge_size", self.bulge_size, low=1e-2, high=10)
        cosmos, named = self.profile.startswith("cosmos"), self.catalogue_columns.named
        if (cosmos or bool(named)) != (self.catalogue_file is not None):
            raise ValueError(
                "catalogue_file: must be given with the cosmos profiles and with catalogue_columns, and only "
                "with them"
            )
        unused = [
            option
            for option in named
            if cosmos
            or (option == "sersic_n" and self.profile != "sersic")
            or (option.startswith("bulge") and self.profile != "bulge-disc")
        ]
        if unused:
            raise ValueError(f"catalogue_columns.{unused[0]}: galaxies of profile '{self.profile}' take none")
        if ("g1" in named) != ("g2" in named):
            raise ValueError("catalogue_columns.g1: must be given together with catalogue_columns.g2")
        if self.catalogue_flux and not cosmos:
            raise ValueError(
                "catalogue_flux: is for the cosmos profiles; for a table of your own, give "
                "catalogue_columns.flux"
            )
        return self

    def constant_psf(self, split: str) -> bool:
        """Return whether all galaxies of a split have the same PSF; those of ``leakage`` do not."""
        return self.psf.constant and split != "leakage"

    @property
    def model_profile(self) -> Literal["gaussian", "exponential", "sersic"]:
        """The forward model's profile for these galaxies: Sersic for those of the COSMOS catalogue."""
        return self.profile if self.profile in ("gaussian", "exponential") else "sersic"

    @property
    def unrenderable(self) -> str | None:
        """Why galaxies cannot be rendered from a formula while networks are trained; None if they can."""
        if self.profile == "cosmos-real":
            return f"those of {self.catalogue_file} are images"
        if self.profile == "bulge-disc":
            return "bulge and disc are two profiles"
        if self.neighbours.fraction:
            return "some have neighbours"
        return None

    @property
    def has_density(self) -> bool:
        """Whether the distribution of the stamps is known, so that the Bayes floor can be computed."""
        plain = (self.masks, self.noise) == (Masks(), Noise()) and not self.neighbours.fraction
        profiles = ("gaussian", "exponential", "sersic")
        return plain and self.profile in profiles and self.catalogue_file is None

    @property
    def extent_arcsec(self) -> float:
        """Half-light radius of the largest galaxy with the widest PSF, added in quadrature [arcsec]."""
        return float((self.half_light_radius_arcsec[1] ** 2 + (self.psf.fwhm_arcsec[1] / 2) ** 2) ** 0.5)


PRESETS: dict[str, dict[str, Any]] = {
    # The default: an exponential disc that NGMix can model exactly.
    "exp_gauss": {"profile": "exponential"},
    # No Gaussian-mixture model is right for this one: free Sersic index, Moffat PSF that varies.
    "sersic_moffat": {
        "profile": "sersic",
        "psf": {"profile": "moffat", "fwhm_arcsec": [0.6, 0.8], "moffat_beta": 2.5, "shape_sigma": 0.03},
    },
    # The population of the published comparison; NGMix's model 'gauss' is exact.
    "gauss_gauss": {"profile": "gaussian"},
    # Morphologies of the COSMOS field; needs a catalogue (galsim_download_cosmos downloads the full one).
    "cosmos": {
        "profile": "cosmos-parametric",
        "half_light_radius_arcsec": [0.15, 1.2],
        "psf": {"profile": "moffat", "fwhm_arcsec": [0.6, 0.8], "moffat_beta": 2.5, "shape_sigma": 0.03},
    },
    # The fourth test of the published ShearNet, for stamps of 53 pixels of 0.141 arcsec; needs a catalogue
    # and PSFEx models (config/superbit.yaml). Fluxes are in units of 12258.97 counts, the constant flux of
    # its other tests; its noise, 12.719674 counts, is 1.0376e-3. Centroids are within 0.2 arcsec. Galaxies
    # below 0.05 arcsec or above |g| = 0.8, which have next to no measurable shape, are left out.
    "superbit": {
        "profile": "exponential",
        "half_light_radius_arcsec": [0.05, 1.0],
        "flux": [1e-3, 1e3],
        "shape_max": 0.8,
        "centroid_shift_pixels": 1.4184,
        "catalogue_columns": {"half_light_radius": "HLR", "flux": "FLUX", "g1": "G1", "g2": "G2"},
        "flux_scale": 8.15729e-5,
        "psf": {
            "profile": "psfex",
            "fwhm_arcsec": 0.35,
            "image_pixel_scale_arcsec": 0.1408,
            "psfex_margin_pixels": 170,
        },
    },
}
