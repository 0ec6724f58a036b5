"""The sampling of catalogs: one row for each stamp, with its true parameters and its noise realisation."""

from __future__ import annotations

import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from shearbench.data.catalogs import COLUMNS, content_digest
from shearbench.data.external import COSMOS_PIXEL, LEAST_GALAXIES, psfex_range
from shearbench.data.galaxy_tables import read_galaxy_table
from shearbench.data.observing import Observing
from shearbench.errors import ConfigError
from shearbench.simulation.populations import PAIRED, SPLITS, Neighbours, Population, Psf

_BLOCK = 65536  # galaxies of one random stream; whole blocks are drawn, so the first n do not depend on n
# The split of each galaxy of a finite catalogue, in a cycle of 20: 60, 10, 15 and 15 per cent. The first four
# galaxies go to different splits, so that no split is empty.
_DEAL = np.array([0, 1, 2, 3, *[0] * 11, 1, 2, 2, 3, 3])


def shear_shape(
    e1: ArrayLike, e2: ArrayLike, s1: ArrayLike, s2: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the shape of a galaxy of intrinsic shape e after a shear s: (e + s) / (1 + s* e).

    Parameters
    ----------
    e1, e2 : ndarray
        Intrinsic reduced-shear shape, |e| < 1.
    s1, s2 : float or ndarray
        Reduced shear, |s| < 1.

    Returns
    -------
    g1, g2 : ndarray

    Notes
    -----
    Seitz & Schneider 1997, A&A 318, 687, eq. 2.13.
    """
    e = np.asarray(e1) + 1j * np.asarray(e2)
    s = np.asarray(s1) + 1j * np.asarray(s2)
    g = (e + s) / (1 + np.conj(s) * e)
    return g.real, g.imag


def sample_catalog(
    population: Population,
    name: str,
    split: str,
    galaxies: int,
    seed: int,
    pixel_scale: float,
    shear: float = 0.02,
    rotations: int = 2,
    psf_shape: float = 0.05,
    first_block: int = 0,
) -> pd.DataFrame:
    """Draw the galaxies of one split.

    Every split has its own random streams, so no galaxy, and no rotated copy of one, is in two splits; but of
    a catalogue of galaxies, the splits ``shear`` and ``leakage`` use the same part. The first galaxies of a
    split do not depend on the number of galaxies.

    Parameters
    ----------
    population : Population
    name : str
        Name of the population; part of the seed.
    split : {'train', 'validation', 'test', 'shear', 'leakage'}
    galaxies : int
        Number of galaxies. In the shear split, each has ``rotations * 8`` stamps: the intrinsic shape is
        rotated in steps of 180/rotations degrees; each rotated galaxy is sheared by (+s, 0), (-s, 0), (0, +s)
        and (0, -s); each of these has a noise field, and the same field with the opposite sign. All other
        parameters are the same, and so is the noise of the four shears. The column ``rotation`` numbers the
        rotations and signs of the noise together. The mean over rotations cancels the intrinsic shapes. The
        mean over the signs of the noise cancels its effect of first order; effects of second order, such as
        the noise bias, remain.

        The leakage split is made in the same way. The shape of the PSF takes the place of the shear: to each
        component of it, plus and minus `psf_shape` is added (a PSF that is an image is sheared by this), and
        the galaxies are not sheared. The columns ``psf_shear1, psf_shear2`` are what was added.
    seed : int
        The run's seed.
    pixel_scale : float
        Arcsec.
    shear : float
        The applied shear s of the shear split.
    rotations : {2, 4}
        Rotations of the splits ``shear`` and ``leakage``.
    psf_shape : float
        Reduced shear added to the shape of the PSF in the leakage split.
    first_block : int
        Number of the first random stream; with another number, other galaxies of the same split are drawn.

    Returns
    -------
    pandas.DataFrame
        The catalog's columns (see `COLUMNS`); attributes ``population, split, seed, psf, digest``.

    Raises
    ------
    ConfigError
        A file of galaxies or PSF images cannot be read, or too few galaxies of the catalogue are within the
        limits of size and shape.
    """
    blocks = [
        _sample_block(population, name, split, block, seed, pixel_scale)
        for block in range(first_block, first_block + (galaxies + _BLOCK - 1) // _BLOCK)
    ]
    table = pd.concat(blocks, ignore_index=True).iloc[:galaxies].reset_index(drop=True)
    table["pair_id"] = np.arange(galaxies, dtype=np.int64)
    if split == "shear":
        table, plus_minus = in_pairs(table, rotations)
        table["shear1"], table["shear2"] = shear * plus_minus
    elif split == "leakage":
        table, plus_minus = in_pairs(table, rotations)
        table["psf_shear1"], table["psf_shear2"] = psf_shape * plus_minus
        table["psf_g1"] += table["psf_shear1"]
        table["psf_g2"] += table["psf_shear2"]
    n = len(table)
    table["galaxy_id"] = np.arange(n, dtype=np.int64)
    paired = split in PAIRED
    realisation = table["pair_id"] * rotations + table["rotation"] // 2 if paired else table["galaxy_id"]
    noise_id = realisation.to_numpy(np.int64) + (SPLITS.index(split) << 40)
    table["noise_id"] = np.where(table["rotation"] % 2 == 0, noise_id, ~noise_id)
    table["g1"], table["g2"] = shear_shape(table["e1"], table["e2"], table["shear1"], table["shear2"])
    extra = [column for column in table.columns if column not in COLUMNS]
    table = table[COLUMNS + extra]
    table.attrs = {
        "population": name,
        "split": split,
        "seed": seed,
        "psf": {
            "profile": population.psf.profile if population.psf.has_formula else "image",
            "beta": population.psf.moffat_beta,
        },
        "digest": content_digest(table),
    }
    for attribute, value in observing_of(population).attributes.items():
        table.attrs[attribute] = value
    return table


def observing_of(population: Population) -> Observing:
    """Return how the pixels of a population's stamps are observed."""
    masks, noise = population.masks, population.noise
    return Observing(masks.fraction, masks.columns, noise.correlation_pixels, noise.variation)


def _uniform(rng: np.random.Generator, bounds: tuple[float, float], n: int) -> NDArray[np.float64]:
    return bounds[0] + (bounds[1] - bounds[0]) * rng.random(n)


def _sample_block(
    population: Population, name: str, split: str, block: int, seed: int, pixel_scale: float
) -> pd.DataFrame:
    """Draw a whole block of galaxies. Do not change the order of the draws: catalogs depend on it."""
    entropy = [seed, zlib.crc32(name.encode()), SPLITS.index(split), block]
    rng = np.random.default_rng(np.random.SeedSequence(entropy))
    n = _BLOCK
    # The modulus of two normal components within a disc: a Rayleigh distribution, cut at shape_max, which is
    # sampled by the inverse of its cumulative distribution.
    width, limit = population.shape_sigma, population.shape_max
    mass = -np.expm1(-(limit**2) / (2 * width**2)) if width > 0 else 1.0
    modulus = width * np.sqrt(-2 * np.log1p(-mass * rng.random(n)))
    angle = 2 * np.pi * rng.random(n)
    shift = 2 * population.centroid_shift_pixels * pixel_scale
    applied = population.shear_max * np.sqrt(rng.random(n)) * np.exp(2j * np.pi * rng.random(n))
    steps = np.round(_uniform(rng, population.sersic_n, n) / population.sersic_n_step)
    columns: dict[str, Any] = {
        "e1": modulus * np.cos(angle),
        "e2": modulus * np.sin(angle),
        "hlr": _uniform(rng, population.half_light_radius_arcsec, n),
        "flux": _uniform(rng, population.flux, n),
        "sersic_n": {"gaussian": np.full(n, 0.5), "exponential": np.ones(n)}.get(
            population.profile, np.clip(steps * population.sersic_n_step, *population.sersic_n).round(6)
        ),
        "profile": population.profile,
        "dx": shift * (rng.random(n) - 0.5),
        "dy": shift * (rng.random(n) - 0.5),
        "shear1": applied.real if split not in PAIRED else np.zeros(n),
        "shear2": applied.imag if split not in PAIRED else np.zeros(n),
        "rotation": np.zeros(n, dtype=np.int64),
        "psf_fwhm": _uniform(rng, population.psf.fwhm_arcsec, n),
        "psf_g1": population.psf.shape_sigma * rng.standard_normal(n),
        "psf_g2": population.psf.shape_sigma * rng.standard_normal(n),
    }
    if population.psf.profile == "image":
        from shearbench.simulation.galsim_stamps import psf_images

        assert population.psf.image_file is not None
        columns["psf_index"] = rng.integers(0, len(psf_images(population.psf.image_file)), n)
    elif population.psf.profile == "psfex":
        columns.update(_psfex_columns(population.psf, rng, n))
    elif population.psf.profile == "piff":
        columns.update(_piff_columns(population.psf, rng, n))
    if any(population.psf.shape_mean):
        columns["psf_g1"] += population.psf.shape_mean[0]
        columns["psf_g2"] += population.psf.shape_mean[1]
    if population.catalogue_file is not None:
        columns.update(_catalogue_columns(population, name, split, seed, angle, rng, n))
    if population.profile == "bulge-disc":
        fraction = _uniform(rng, population.bulge_fraction, n)
        size = columns["hlr"] * _uniform(rng, population.bulge_size, n)
        columns.setdefault("bulge_fraction", fraction)
        columns.setdefault("bulge_hlr", size)
        columns |= {"sersic_n": np.ones(n), "bulge_n": np.full(n, population.bulge_sersic_n)}
    if population.neighbours.fraction:
        columns.update(_neighbour_columns(population.neighbours, columns, rng, n))
    return pd.DataFrame(columns)


def _neighbour_columns(
    neighbours: Neighbours, columns: dict[str, Any], rng: np.random.Generator, n: int
) -> dict[str, Any]:
    """Draw the neighbour of each galaxy: size, index and modulus of the shape are those of another galaxy.

    A galaxy without a neighbour has one of flux zero.
    """
    other = rng.integers(0, n, n)
    turn, direction = np.exp(2j * np.pi * rng.random((2, n)))
    e = (columns["e1"] + 1j * columns["e2"])[other] * turn
    place = _uniform(rng, neighbours.distance_arcsec, n) * direction
    there = rng.random(n) < neighbours.fraction
    return {
        "near_flux": there * columns["flux"] * _uniform(rng, neighbours.flux_ratio, n),
        "near_dx": place.real,
        "near_dy": place.imag,
        "near_hlr": columns["hlr"][other],
        "near_n": columns["sersic_n"][other],
        "near_e1": e.real,
        "near_e2": e.imag,
    }


def _psfex_columns(psf: Psf, rng: np.random.Generator, n: int) -> dict[str, Any]:
    """Draw a PSFEx model and a position on its detector [pixels] for each galaxy."""
    ranges = np.array(
        [psfex_range("psf", path, psf.psfex_margin_pixels) for path in psf.psfex_files]
    )  # [file, axis, end]
    index = rng.integers(0, len(psf.psfex_files), n)
    low, high = ranges[index].transpose(2, 1, 0)
    x, y = low + (high - low) * rng.random((2, n))
    return {"psf_index": index, "psf_x": x, "psf_y": y}


def _piff_columns(psf: Psf, rng: np.random.Generator, n: int) -> dict[str, Any]:
    """Draw a Piff model, one of its chips and a position on it [pixels] for each galaxy."""
    from shearbench.simulation.piff_models import chip_ranges

    index, which, place = rng.integers(0, len(psf.piff_files), n), rng.random(n), rng.random((n, 2))
    chip = np.empty(n, np.int64)
    for number, path in enumerate(psf.piff_files):
        ranges = chip_ranges(path)
        mine = index == number
        chosen = (len(ranges) * which[mine]).astype(int)
        chip[mine] = np.array(list(ranges))[chosen]
        low, high = np.array(list(ranges.values()))[chosen].transpose(2, 0, 1)
        place[mine] = low + (high - low) * place[mine]
    return {"psf_index": index, "psf_chip": chip, "psf_x": place[:, 0], "psf_y": place[:, 1]}


def _catalogue_columns(
    population: Population,
    name: str,
    split: str,
    seed: int,
    angle: NDArray[np.float64],
    rng: np.random.Generator,
    n: int,
) -> dict[str, Any]:
    """Draw galaxies of a catalogue, each with a random orientation.

    No galaxy is in two splits, except that leakage is measured on the same part of it as the shear bias.
    """
    source, kept = catalogue_galaxies(f"populations.{name}", population)
    shuffled = np.random.default_rng([seed, zlib.crc32(b"cosmos splits")]).permutation(kept)
    dealt = np.resize(_DEAL, len(shuffled))
    part = SPLITS.index("shear" if split == "leakage" else split)
    pick = rng.choice(shuffled[dealt == part], n)
    found: dict[str, Any] = {column: values[pick] for column, values in source.items() if column != "e"}
    if "e" in source:
        e = source["e"][pick] * np.exp(1j * angle)
        found |= {"e1": e.real, "e2": e.imag}
    if not population.profile.startswith("cosmos"):
        return {**found, "catalogue_row": pick.astype(np.int64)}
    return {
        **found,
        "profile": "real" if population.profile == "cosmos-real" else "sersic",
        "cosmos_index": pick.astype(np.int64),
        "angle": angle / 2,  # turned by this angle [rad], the catalogue's galaxy has the shape e
    }


def catalogue_galaxies(key: str, population: Population) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    """Return the galaxies of a population's catalogue, and the rows of those within its limits.

    Parameters
    ----------
    key : str
        Key of the population in the configuration, for error messages.
    population : Population
        With a `catalogue_file`.

    Returns
    -------
    galaxies : dict
        One value per row of the file, as far as the catalogue gives it: ``e``, the complex reduced-shear
        shape, and the columns ``hlr``, ``flux``, ``sersic_n``, ``bulge_fraction``, ``bulge_hlr`` of catalogs.
    kept : ndarray of int64
        Rows whose values are finite and within the limits of the population.

    Raises
    ------
    ConfigError
        The catalogue cannot be read, lacks a column, or has too few galaxies within the limits.
    """
    if population.profile.startswith("cosmos"):
        source = dict(cosmos_galaxies(str(population.catalogue_file), population.profile))
        flux = source.pop("flux")
        if population.catalogue_flux:
            source["flux"] = flux * population.flux_scale
    else:
        source = _table_of_user(key, population)
    limits = {
        "hlr": ("half_light_radius_arcsec", *population.half_light_radius_arcsec),
        "flux": ("flux", *population.flux),
        "bulge_fraction": ("bulge_fraction", 0.0, 1.0),
        "bulge_hlr": ("bulge_size", 1e-3 * population.half_light_radius_arcsec[0], np.inf),
    }
    if population.profile == "sersic":
        limits["sersic_n"] = ("sersic_n", *population.sersic_n)
    limits = {column: limit for column, limit in limits.items() if column in source}
    good = np.ones(len(next(iter(source.values()))), bool)
    for column, (_, low, high) in limits.items():
        good &= np.isfinite(source[column]) & (source[column] >= low) & (source[column] <= high)
    words = [f"{option} within {[low, high]}" for option, low, high in limits.values()]
    if "e" in source:
        good &= np.abs(source["e"]) < population.shape_max
        words.append(f"|g| < {population.shape_max:g} (shape_max)")
    kept = np.flatnonzero(good)
    if len(kept) < LEAST_GALAXIES:
        raise ConfigError(
            f"{key}: only {len(kept)} of the {len(good)} galaxies of {population.catalogue_file} have "
            f"{', '.join(words)}, and {LEAST_GALAXIES} are needed; widen these limits"
        )
    return source, kept


def _table_of_user(key: str, population: Population) -> dict[str, NDArray[Any]]:
    """Return the columns of a user's catalogue by the names that catalogs give them."""
    named = population.catalogue_columns.named
    found: dict[str, NDArray[Any]] = dict(read_galaxy_table(key, str(population.catalogue_file), named))
    source: dict[str, NDArray[Any]] = {}
    if "g1" in found:
        source["e"] = found.pop("g1") + 1j * found.pop("g2")
    if "flux" in found:
        source["flux"] = found.pop("flux") * population.flux_scale
    if "sersic_n" in found:
        step, (low, high) = population.sersic_n_step, population.sersic_n
        n = found.pop("sersic_n")
        near = np.clip(np.round(n / step) * step, low, high).round(6)
        source["sersic_n"] = np.where((n >= low) & (n <= high), near, np.nan)
    names = {"half_light_radius": "hlr", "bulge_half_light_radius": "bulge_hlr"}
    return {**source, **{names.get(option, option): values for option, values in found.items()}}


@lru_cache(maxsize=2)
def cosmos_galaxies(path: str, profile: str) -> dict[str, NDArray[Any]]:
    """Return shapes and sizes of the galaxies of a COSMOS-like catalogue.

    Parameters
    ----------
    path : str
        The catalogue's FITS file. A file beside it, whose name ends in ``_fits``, holds the Sersic fits.
    profile : {'cosmos-parametric', 'cosmos-real'}
        'cosmos-parametric': size, index and shape are those of the single-Sersic fit, which is drawn.
        'cosmos-real': shape and size are those of the adaptive moments (Hirata & Seljak 2003, MNRAS 343, 459)
        of the HST image, which includes the HST PSF; the Sersic index is set to 1.

    Returns
    -------
    dict
        One value per galaxy of the file: ``e``, the complex reduced-shear shape, ``hlr`` [arcsec],
        ``sersic_n``, and ``flux`` (counts of the Hubble telescope in one second).

    Raises
    ------
    ConfigError
        The catalogue cannot be read.
    """
    import galsim

    folder, name = str(Path(path).parent), Path(path).name
    try:
        if profile == "cosmos-parametric":
            catalog = galsim.COSMOSCatalog(name, dir=folder, use_real=False, exclusion_level="none")
            records = [catalog.getParametricRecord(i) for i in range(len(catalog))]
            fit = np.array([record["sersicfit"] for record in records])
            q = np.clip(fit[:, 3], 0.05, 1.0)
            return {
                "flux": np.array([record["flux"][0] for record in records], np.float64),
                "e": (1 - q) / (1 + q) * np.exp(2j * fit[:, 7]),
                # The fits are in pixels, along the major axis.
                "hlr": fit[:, 1] * COSMOS_PIXEL * np.sqrt(q),
                # GalSim rounds the index in the same way, and limits it to the range that it can draw.
                "sersic_n": np.clip(np.round(fit[:, 2] / 0.05) * 0.05, 0.3, 6.2).round(6),
            }
        real = galsim.RealGalaxyCatalog(name, dir=folder)
        moments = [
            galsim.hsm.FindAdaptiveMom(real.getGalImage(i), strict=False) for i in range(real.nobjects)
        ]
        scale = np.array([real.getGalImage(i).scale for i in range(real.nobjects)])
        flux = [float(real.getGalImage(i).array.sum(dtype=np.float64)) for i in range(real.nobjects)]
    except (OSError, KeyError, galsim.GalSimError) as error:
        raise ConfigError(f"catalogue_file: {path} is no GalSim catalogue of galaxies ({error})") from error
    good = np.array([m.moments_status == 0 for m in moments])
    shape = np.array(
        [complex(m.observed_shape.g1, m.observed_shape.g2) if ok else 1 for m, ok in zip(moments, good)]
    )
    sigma = np.array([m.moments_sigma for m in moments])
    # The hlr is that of the Gaussian with these moments. Galaxies whose measurement failed have |e| = 1,
    # which excludes them.
    ones = np.ones(len(moments))
    return {"e": shape, "hlr": sigma * scale * 1.17741, "sersic_n": ones, "flux": np.array(flux)}


def in_pairs(table: pd.DataFrame, rotations: int) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """Return each galaxy in several orientations, under four shears or PSFs, with noise of both signs.

    Parameters
    ----------
    table : pandas.DataFrame
        Galaxies with their intrinsic shape in the columns ``e1, e2``.
    rotations : int
        Number of orientations, whose intrinsic shapes have the mean zero.

    Returns
    -------
    table : pandas.DataFrame
        ``rotations * 8`` rows for each galaxy; those that differ in the sign of the noise are adjacent.
    signs : ndarray, shape (2, rows)
        The signs of both components of the shear, or of the PSF's shape: (+, 0), (-, 0), (0, +), (0, -).
    """
    n = len(table)
    paired = table.loc[np.repeat(np.arange(n), rotations * 8)].reset_index(drop=True)
    rotation, member, sign = (np.tile(index.ravel(), n) for index in np.indices((rotations, 4, 2)))
    e = (paired["e1"] + 1j * paired["e2"]).to_numpy() * np.exp(2j * np.pi * rotation / rotations)
    paired["rotation"] = 2 * rotation + sign
    paired["e1"], paired["e2"] = e.real, e.imag
    if "angle" in paired:
        paired["angle"] += np.pi * rotation / rotations
    if "near_flux" in paired:  # galaxy and neighbour are turned together
        for first, second, spin in (("near_e1", "near_e2", 2), ("near_dx", "near_dy", 1)):
            value = (paired[first] + 1j * paired[second]).to_numpy()
            value = value * np.exp(1j * spin * np.pi * rotation / rotations)
            paired[first], paired[second] = value.real, value.imag
    return paired, np.array([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]])[:, member]
