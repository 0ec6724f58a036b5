"""The files made by others that a run reads (PSF images, galaxy catalogues), and digests of their contents.

The workflow uses this module when it plans, where GalSim, NumPy and astropy may not be installed.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import math
import os
import re
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from shearbench.errors import ConfigError

if TYPE_CHECKING:
    from shearbench.simulation.populations import Population

_CARD, _BLOCK = 80, 2880  # bytes of a FITS header's card, and of a block
_BYTES = {"L": 1, "B": 1, "A": 1, "I": 2, "J": 4, "K": 8, "E": 4, "D": 8, "C": 8, "M": 16, "P": 8, "Q": 16}
# A file that changed more recently than this may change again without a new modification time.
_SETTLED_NS = 2 * 10**9
_LARGE = 10**9  # bytes: reading more takes seconds, and is announced
LEAST_FWHM = 2.2
"""Pixels of a PSF image; `narrow_psf` says what a lower one means."""
COSMOS_PIXEL = 0.03
"""Arcsec; of the HST images that GalSim's Sersic fits were made to."""
PIFF_MISSING = "`piff` needs the package piff, which is not installed here: pip install piff"
LEAST_GALAXIES = 4
"""Of a catalogue in a population's range: one for each split."""
_MOST_PIXELS = 10**6  # of PSF images that are looked at while planning: a second
_NUMBERS = {"8": "B", "16": "h", "32": "i", "64": "q", "-32": "f", "-64": "d"}  # FITS's BITPIX in `struct`


def external_files(name: str, population: Population) -> list[str]:
    """Return the files that GalSim reads to draw a population.

    These are the PSF images or models, the catalogue of galaxies and its companions, and the images that it
    names.

    Parameters
    ----------
    name : str
        The population's name, for error messages.
    population : Population

    Returns
    -------
    list of str
        Paths as the configuration gives them; files named by a catalogue are in the catalogue's folder.

    Raises
    ------
    ConfigError
        A file cannot be read, the PSF file has no images, a PSFEx model cannot be used, the package piff is
        not installed and needed, or the catalogue of real galaxies is no FITS table with the columns that
        name its images.
    """
    at = f"populations.{name}"
    files = []
    if population.psf.image_file is not None:
        key = f"{at}.psf.image_file"
        _readable(key, population.psf.image_file)
        check_images(key, population.psf.image_file)
        files.append((key, population.psf.image_file))
    for path in population.psf.psfex_files:
        key = f"{at}.psf.psfex_files"
        _readable(key, path)
        psfex_range(key, path, population.psf.psfex_margin_pixels)
        files.append((key, path))
    for path in population.psf.piff_files:
        files.append((f"{at}.psf.piff_files", path))
    if population.psf.piff_files and find_spec("piff") is None:
        raise ConfigError(f"{at}.psf.profile: {PIFF_MISSING}")
    if population.catalogue_file is not None:
        key = f"{at}.catalogue_file"
        files.append((key, population.catalogue_file))
        files += [(key, path) for path in _companions(population.catalogue_file)]
        if population.profile == "cosmos-real":
            _readable(key, population.catalogue_file)
            files += [(key, path) for path in _named_images(key, population.catalogue_file)]
    for key, path in files:
        _readable(key, path)
    return [path for _, path in files]


def observed_files(name: str, stamps: str, psf: str | None) -> list[str]:
    """Return the files of a user's stamps.

    Parameters
    ----------
    name : str
        Name of the observation, for error messages.
    stamps, psf : str
        Paths as the configuration gives them.

    Raises
    ------
    ConfigError
        A file cannot be read.
    """
    files = {"stamps": stamps, **({} if psf is None else {"psf": psf})}
    for key, path in files.items():
        _readable(f"observations.{name}.{key}", path)
    return list(files.values())


def checkpoint_files(name: str, folder: str) -> list[str]:
    """Return the files of a checkpoint of ShearNet, which is a folder.

    Parameters
    ----------
    name : str
        Name of the checkpoint, for error messages.
    folder : str
        Path as the configuration gives it.

    Raises
    ------
    ConfigError
        The folder is not there, or is not one of a checkpoint.
    """
    key, path = f"frameworks.checkpoints.{name}.folder", Path(folder)
    if not (path / "_METADATA").is_file():
        raise ConfigError(
            f"{key}: found {folder}, expected the folder of a checkpoint of ShearNet, which has a file "
            "_METADATA (docs/frameworks.md)"
        )
    return sorted(str(file) for file in path.rglob("*") if file.is_file())


def check_images(key: str, path: str) -> None:
    """Check that a FITS file holds images, not only tables such as a PSFEx model.

    Parameters
    ----------
    key : str
        The key of the configuration that names the file, for the message.
    path : str

    Raises
    ------
    ConfigError
        The file is no FITS file, is a PSFEx model, or has no image.
    """
    kinds = []
    try:
        with _opened(path) as file:
            while file.peek(1):
                header = _header(file)
                file.seek(file.tell() + -(-_data_bytes(header) // _BLOCK) * _BLOCK)
                kinds.append(header.get("XTENSION", "IMAGE"))
                if {"POLNAXIS", "PSFNAXIS"} <= {*header}:
                    raise ConfigError(
                        f"{key}: {path} is a PSFEx model, expected images of PSFs. For a model, use "
                        "`profile: psfex` and `psfex_files`"
                    )
                if kinds[-1] == "IMAGE" and int(header["NAXIS"]) >= 2:
                    return
    except (OSError, ValueError, KeyError, EOFError, zlib.error) as error:
        raise ConfigError(f"{key}: {path} is no FITS file of PSF images ({error!r})") from None
    raise ConfigError(f"{key}: {path} has no image, only {', '.join(kinds)}; expected images of PSFs")


def psfex_range(key: str, path: str, margin: float = 0.0) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the positions on the detector to which a PSFEx model was fitted.

    Parameters
    ----------
    key : str
        The key of the configuration that names the file, for the message.
    path : str
    margin : float
        Distance of positions from the ends of that range [pixels].

    Returns
    -------
    ((float, float), (float, float))
        Lowest and highest x, lowest and highest y [pixels].

    Raises
    ------
    ConfigError
        The file is no PSFEx model that GalSim reads, which is a polynomial in x and y on the detector, or
        the margin leaves no positions.
    """
    try:
        with _opened(path) as file:
            header = _header(file)
            file.seek(file.tell() + -(-_data_bytes(header) // _BLOCK) * _BLOCK)
            header = _header(file)
        names = [header["POLNAME1"], header["POLNAME2"]]
        degree, counted = int(header["POLDEG1"]), [header[k] for k in ("POLNAXIS", "POLNGRP", "PSFNAXIS")]
        terms = (degree + 1) * (degree + 2) // 2
        if counted != ["2", "1", "3"] or int(header["PSFAXIS3"]) != terms or float(header["PSF_SAMP"]) <= 0:
            raise ValueError("it is no polynomial in two coordinates")
        if [name[:1] + name[-5:] for name in names] != ["XIMAGE", "YIMAGE"]:
            raise ValueError(f"its coordinates are {', '.join(names)}, not those on the image")
        found = [
            (float(header[f"POLZERO{k}"]), abs(float(header[f"POLSCAL{k}"])) / 2 - margin) for k in (1, 2)
        ]
    except (OSError, ValueError, KeyError, EOFError, zlib.error) as error:
        raise ConfigError(
            f"{key}: {path} is no PSFEx model that GalSim reads, one polynomial in x and y ({error!r})"
        ) from None
    if min(half for _, half in found) < 0:
        raise ConfigError(
            f"{key}: {path} was fitted to positions within "
            f"{2 * min(half + margin for _, half in found):.0f} pixels, of which psfex_margin_pixels, "
            f"{margin:g}, leaves none; use a smaller margin"
        )
    (x, half_x), (y, half_y) = found
    return (x - half_x, x + half_x), (y - half_y, y + half_y)


def narrow_psf(path: str, width: float) -> str | None:
    """Return the sentence that warns of a PSF of few pixels, or None where there is no need.

    Parameters
    ----------
    path : str
        Of the PSF images.
    width : float
        FWHM of the narrowest of them [pixels].
    """
    if not width < LEAST_FWHM:
        return None
    return (
        f"psf.image_file: {path}: the FWHM of a PSF is about {width:.1f} pixels of its image. Below "
        f"{LEAST_FWHM:g} pixels the PSF is undersampled: adaptive moments (HSM, AnaCal, metacalibration) may "
        "fail, and mixture fits have a bias m of -1e-2 for small galaxies; use images with smaller pixels"
    )


def gaussian_fwhm(total: Any, squares: Any) -> Any:
    """Return the FWHM of the Gaussian with the sum and the sum of squares of an image [pixels].

    Adaptive moments do not converge for so few pixels.
    """
    return 2.355 * total / (4 * math.pi * squares) ** 0.5


def narrowest_psf(path: str) -> float:
    """Return the FWHM of the narrowest image of a file of PSFs, of the first million pixels [pixels].

    Infinity where the images have no plain numbers, or no flux; the job that reads them is exact.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, struct.error, zlib.error):
        return _narrowest(path)
    return math.inf


def _narrowest(path: str) -> float:
    width, left = math.inf, _MOST_PIXELS
    with _opened(path) as file:
        while file.peek(1) and left > 0:
            header = _header(file)
            start, size = file.tell(), _data_bytes(header)
            axes = [int(header[f"NAXIS{axis}"]) for axis in range(1, int(header["NAXIS"]) + 1)]
            if header.get("XTENSION", "IMAGE") == "IMAGE" and len(axes) >= 2 and size:
                pixels, number = axes[0] * axes[1], struct.Struct(">" + _NUMBERS[header["BITPIX"]])
                zero, scale = float(header.get("BZERO", 0)), float(header.get("BSCALE", 1))
                for _ in range(min(math.prod(axes[2:]), -(-left // pixels))):
                    plane = [zero + scale * v for (v,) in number.iter_unpack(file.read(pixels * number.size))]
                    total, squares = sum(plane), sum(value * value for value in plane)
                    left -= pixels
                    if total > 0:  # NaN is refused by the job
                        width = min(width, gaussian_fwhm(total, squares))
            file.seek(start + -(-size // _BLOCK) * _BLOCK)
    return width


def check_enough_galaxies(key: str, population: Population) -> None:
    """Raise a ConfigError where a catalogue of Sersic fits has too few galaxies in the population's range.

    Real galaxies, whose images have to be measured first, are counted by the job.

    Parameters
    ----------
    key : str
        The population's key in the configuration.
    population : Population
    """
    if population.profile != "cosmos-parametric" or population.catalogue_file is None:
        return
    path = population.catalogue_file
    try:
        if "fit_status" not in _columns(path)[1]:  # as GalSim decides whether it is the table of fits
            path = path.replace(".fits", "_fits.fits")
        table, columns, width = _columns(path)
        form, _, start = columns["sersicfit"]
        fit = struct.Struct({"D": ">8d", "E": ">8f"}[form])
        fits = [fit.unpack_from(table, at) for at in range(start, len(table), width)]
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise ConfigError(
            f"{key}.catalogue_file: {population.catalogue_file} is no GalSim catalogue with "
            f"Sersic fits ({error!r})"
        ) from None
    low, high = population.half_light_radius_arcsec
    kept = 0
    for values in fits:
        q = min(max(values[3], 0.05), 1.0)
        size = values[1] * COSMOS_PIXEL * q**0.5
        kept += low <= size <= high and (1 - q) / (1 + q) < population.shape_max
    if kept < LEAST_GALAXIES:
        raise ConfigError(
            f"{key}: only {kept} of the {len(fits)} galaxies of {population.catalogue_file} have a "
            f"half-light radius within {[low, high]} arcsec and |g| < {population.shape_max}, and "
            f"{LEAST_GALAXIES} are needed; widen half_light_radius_arcsec"
        )


def _opened(path: str | os.PathLike[str]) -> Any:
    return gzip.open(path) if os.fspath(path).endswith(".gz") else open(path, "rb")


def _readable(key: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ConfigError(
            f"{key}: {path} cannot be read ({error.strerror}); give the path of a readable file"
        ) from None


def _companions(catalogue: str) -> list[str]:
    """Return the tables of fits and of selections beside a catalogue, as far as they exist."""
    paths = [catalogue.replace(".fits", f"_{kind}.fits") for kind in ("fits", "selection")]
    return [path for path in paths if path != catalogue and os.path.isfile(path)]


def _named_images(key: str, catalogue: str) -> list[str]:
    """Return the image, PSF and noise files that the columns of a catalogue of real galaxies name."""
    try:
        columns = text_columns(catalogue)
        named = [*columns["gal_filename"], *columns["psf_filename"], *columns.get("noise_filename", [])]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{key}: {catalogue} is no GalSim catalogue of real galaxies ({error!r})"
        ) from error
    return [os.path.join(os.path.dirname(catalogue), file) for file in dict.fromkeys(named)]


def text_columns(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Read the text columns of the first extension of a FITS file.

    Parameters
    ----------
    path : path-like
        A FITS file, possibly compressed by gzip.

    Returns
    -------
    dict of str to list of str
        The values of each column, without blanks at their ends; keys are column names in small letters.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        The file is not FITS, is cut short, or its first extension is no binary table.
    """
    table, found, width = _columns(path)
    texts = {}
    for name, (form, length, start) in found.items():
        if form == "A":
            cells = [table[at : at + length] for at in range(start, len(table), width)]
            texts[name] = [cell.split(b"\0")[0].decode("ascii").strip() for cell in cells]
    return texts


def _columns(path: str | os.PathLike[str]) -> tuple[bytes, dict[str, tuple[str, int, int]], int]:
    """Return the first table of a FITS file, form, bytes and place of each column, and the bytes of a row."""
    with _opened(path) as file:
        header = _header(file)
        file.seek(file.tell() + -(-_data_bytes(header) // _BLOCK) * _BLOCK)
        header = _header(file)
        if header.get("XTENSION") != "BINTABLE":
            raise ValueError(f"the first extension is {header.get('XTENSION')}, not a binary table")
        width, rows = int(header["NAXIS1"]), int(header["NAXIS2"])
        table = file.read(width * rows)
    if len(table) < width * rows:
        raise ValueError("the file is cut short")
    columns: dict[str, tuple[str, int, int]] = {}
    start = 0
    for index in range(1, int(header["TFIELDS"]) + 1):
        form = re.fullmatch(r"(\d*)([A-Z]).*", header[f"TFORM{index}"])
        if form is None or form[2] not in {*_BYTES, "X"}:
            raise ValueError(f"column {index} has the unknown form {header[f'TFORM{index}']}")
        repeat = int(form[1] or 1)
        length = -(-repeat // 8) if form[2] == "X" else repeat * _BYTES[form[2]]
        columns[header.get(f"TTYPE{index}", "").lower()] = (form[2], length, start)
        start += length
    return table, columns, width


def _header(file: IO[bytes]) -> dict[str, str]:
    """Read a FITS header and return the values of its cards as text, without quotes."""
    values: dict[str, str] = {}
    while len(block := file.read(_BLOCK)) == _BLOCK:
        for at in range(0, _BLOCK, _CARD):
            card = block[at : at + _CARD].decode("ascii")
            if card.rstrip() == "END":
                return values
            if card[8:10] == "= ":
                text = re.match(r"\s*'([^']*)'", card[10:])
                values[card[:8].strip()] = text[1].strip() if text else card[10:].partition("/")[0].strip()
    raise ValueError("it has no FITS header")


def _data_bytes(header: dict[str, str]) -> int:
    axes = [int(header[f"NAXIS{axis}"]) for axis in range(1, int(header["NAXIS"]) + 1)]
    if not axes:
        return 0
    pixels = 1
    for length in axes:
        pixels *= length
    return abs(int(header["BITPIX"])) // 8 * (pixels + int(header.get("PCOUNT", 0)))


def contents(
    paths: Iterable[str], cache: str | os.PathLike[str], say: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """Return digests of the contents of files.

    Digests are kept in a cache. A file is read again only if its path, size, inode, or time of modification
    or of status change differs from the cache.

    Parameters
    ----------
    paths : iterable of str
    cache : path-like
        A JSON file; made if it does not exist, and replaced if it is damaged.
    say : callable
        Called with a message before more than 1 GB is read.

    Returns
    -------
    list of dict
        For each file ``path`` as given, ``bytes`` (its size) and ``sha256``, in the order of `paths`.

    Raises
    ------
    OSError
        A file cannot be read.
    """
    paths = list(dict.fromkeys(paths))
    known = _known(cache)
    states = {path: _state(path) for path in paths}
    changed = [path for path in paths if known.get(_key(path), [None])[:-1] != states[path]]
    if (size := sum(os.stat(path).st_size for path in changed)) > _LARGE:
        say(f"Reading {size / 1e9:.1f} GB of {len(changed)} files of catalogues and PSF images, once.")
    with ThreadPoolExecutor(max_workers=4) as pool:  # hashing releases the interpreter's lock
        digests = dict(zip(changed, pool.map(_sha256, changed)))
    found = {path: digests.get(path) or known[_key(path)][-1] for path in paths}
    settled = {
        _key(path): [*states[path], digest]
        for path, digest in digests.items()
        if states[path] == _state(path) and time.time_ns() - max(states[path][:2]) > _SETTLED_NS
    }
    if settled:
        _keep(cache, {**known, **settled})
    return [{"path": path, "bytes": states[path][2], "sha256": found[path]} for path in paths]


def _key(path: str) -> str:
    return str(Path(path).resolve())


def _state(path: str) -> list[int]:
    status = os.stat(path)
    return [status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino]


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _known(cache: str | os.PathLike[str]) -> dict[str, list[Any]]:
    """Return the valid entries of the cache: each has four numbers and a digest."""
    try:
        entries = json.loads(Path(cache).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(entries, dict):
        return {}
    return {
        path: entry
        for path, entry in entries.items()
        if isinstance(entry, list)
        and [type(value) for value in entry] == [int] * 4 + [str]
        and re.fullmatch("[0-9a-f]{64}", entry[-1])
    }


def _keep(cache: str | os.PathLike[str], entries: dict[str, list[Any]]) -> None:
    """Write the cache; errors are ignored, because the cache only saves time."""
    with contextlib.suppress(OSError):
        Path(cache).parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=Path(cache).parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(entries, file)
        os.replace(temporary, cache)
