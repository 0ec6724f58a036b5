"""External files of a run: their list, and the detection of changed contents."""

import gzip
import json
import os
import shutil
import time
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path

import galsim
import numpy as np
import pytest

from shearbench.data import external
from shearbench.data.external import contents, external_files, text_columns
from shearbench.errors import ConfigError
from shearbench.simulation.catalog import cosmos_galaxies
from shearbench.simulation.galsim_stamps import psf_images
from shearbench.simulation.populations import PRESETS, Population

DATA = Path(__file__).parents[2] / "data/galsim"


def population(**changes):
    return Population(**{**PRESETS["cosmos"], **changes})


def old(path, seconds=60):
    """Set the modification time of a file to the past."""
    then = time.time_ns() - seconds * 10**9
    os.utime(path, ns=(then, then))


@pytest.fixture
def reads(monkeypatch):
    """Count the files whose contents are read."""
    paths = []
    real = external._sha256
    monkeypatch.setattr(external, "_sha256", lambda path: paths.append(path) or real(path))
    monkeypatch.setattr(external, "_SETTLED_NS", 0)
    return paths


def test_a_catalogue_of_fits_brings_the_tables_beside_it():
    path = str(DATA / "real_galaxy_catalog_23.5_example.fits")
    stem = path.removesuffix(".fits")
    found = external_files("c", population(catalogue_file=path))
    assert found == [path, f"{stem}_fits.fits", f"{stem}_selection.fits"]


def test_a_catalogue_of_real_galaxies_brings_the_images_that_its_columns_name():
    path = str(DATA / "AEGIS_F606w_catalog.fits")
    found = external_files("c", population(profile="cosmos-real", catalogue_file=path))
    catalog = galsim.RealGalaxyCatalog("AEGIS_F606w_catalog.fits", dir=str(DATA))
    named = {*catalog.gal_file_name, *catalog.psf_file_name, *(f.strip() for f in catalog.noise_file_name)}
    assert set(found) == {path, *named}
    assert len(named) == 5


def test_columns_of_text_are_those_that_astropy_reads(tmp_path):
    for name in ("AEGIS_F606w_catalog.fits", "real_galaxy_catalog_23.5_example_fits.fits"):
        with galsim.fits.pyfits.open(DATA / name) as hdus:
            table = hdus[1].data
            texts = [column.name for column in hdus[1].columns if "A" in column.format]
            expected = {column.lower(): [text.strip() for text in table[column]] for column in texts}
        assert text_columns(DATA / name) == expected
        packed = tmp_path / f"{name}.gz"
        packed.write_bytes(gzip.compress((DATA / name).read_bytes()))
        assert text_columns(packed) == expected


@pytest.mark.parametrize("end", [0, 100, 5000, 12000])
def test_a_table_that_is_cut_short_is_an_error(tmp_path, end):
    whole = (DATA / "AEGIS_F606w_catalog.fits").read_bytes()
    path = tmp_path / "cut.fits"
    path.write_bytes(whole[:end])
    with pytest.raises(ValueError, match=r"FITS header|cut short"):
        text_columns(path)
    with pytest.raises(ConfigError, match=r"populations\.c\.catalogue_file: .*cut\.fits is no GalSim cat"):
        external_files("c", population(profile="cosmos-real", catalogue_file=str(path)))


def test_files_that_are_not_there_are_named_with_their_key(tmp_path):
    with pytest.raises(ConfigError, match=r"populations\.p\.psf\.image_file: nowhere\.fits cannot be read"):
        external_files("p", Population(psf={"profile": "image", "image_file": "nowhere.fits"}))
    shutil.copy(DATA / "AEGIS_F606w_catalog.fits", tmp_path)
    path = str(tmp_path / "AEGIS_F606w_catalog.fits")
    with pytest.raises(ConfigError, match=r"populations\.r\.catalogue_file: .*AEGIS_F606w_images_01\.fits"):
        external_files("r", population(profile="cosmos-real", catalogue_file=path))


def test_contents_are_told_in_the_order_given(tmp_path):
    paths = []
    for name in "cab":
        path = tmp_path / name
        path.write_bytes(name.encode() * 3)
        paths.append(str(path))
    found = contents(paths, tmp_path / "cache.json")
    assert found == [
        {"path": path, "bytes": 3, "sha256": sha256(name.encode() * 3).hexdigest()}
        for path, name in zip(paths, "cab")
    ]


def test_files_are_read_once_and_again_where_they_changed(tmp_path, reads):
    paths = [str(tmp_path / name) for name in ("one", "two")]
    cache = tmp_path / "deep/cache.json"
    for path in paths:
        Path(path).write_bytes(b"abc")
    contents(paths, cache)
    contents(paths, cache)
    assert sorted(reads) == paths
    # Other bytes, as many, and the time of modification set back: the time of change tells.
    status = os.stat(paths[0])
    Path(paths[0]).write_bytes(b"abd")
    os.utime(paths[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert contents(paths, cache)[0]["sha256"] == sha256(b"abd").hexdigest()
    assert reads[2:] == paths[:1]
    # Another file under the same name.
    (tmp_path / "new").write_bytes(b"xyz")
    os.replace(tmp_path / "new", paths[1])
    assert contents(paths, cache)[1]["sha256"] == sha256(b"xyz").hexdigest()


def test_a_file_that_was_just_written_is_read_again(tmp_path, reads, monkeypatch):
    monkeypatch.setattr(external, "_SETTLED_NS", 10**15)
    path = tmp_path / "new"
    path.write_bytes(b"abc")
    contents([str(path)], tmp_path / "cache")
    contents([str(path)], tmp_path / "cache")
    assert len(reads) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"PATH": 3}',
        '{"PATH": [1, 2, 3, 4, "x"]}',
        '{"PATH": [1]}',
        '{"PATH": []}',
        "\0",
    ],
)
def test_a_cache_that_cannot_be_used_is_made_anew(tmp_path, reads, text):
    path, cache = tmp_path / "file", tmp_path / "cache.json"
    path.write_bytes(b"abc")
    cache.write_text(text.replace("PATH", str(path)))
    for _ in range(2):
        assert contents([str(path)], cache)[0]["sha256"] == sha256(b"abc").hexdigest()
    assert len(reads) == 1
    assert list(json.loads(cache.read_text())) == [str(path)]


def test_no_cache_can_be_written_and_all_is_as_it_should_be(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    old(path)
    (tmp_path / "blocked").write_text("a file where a folder is needed")
    assert contents([str(path)], tmp_path / "blocked/cache.json")[0]["bytes"] == 3


def test_many_bytes_are_announced(tmp_path, monkeypatch):
    monkeypatch.setattr(external, "_LARGE", 1000)
    path = tmp_path / "images.fits"
    path.write_bytes(np.zeros(2000, np.uint8).tobytes())
    said = []
    contents([str(path)], tmp_path / "cache", said.append)
    assert len(said) == 1
    assert "1 files" in said[0]


PSFEX = [("EXTNAME", "PSF_DATA"), ("POLNAXIS", 2), ("POLGRP1", 1), ("PSF_FWHM", 3.2), ("PSF_SAMP", 0.5)]
PSFEX += [("PSFNAXIS", 3), ("PSFAXIS1", 25), ("PSFAXIS2", 25), ("PSFAXIS3", 6)]


def table(path, cards=()):
    """Write a FITS file whose one extension is a table of numbers."""
    fits = galsim.fits.pyfits
    column = fits.Column("PSF_MASK", "625E", array=np.zeros((6, 625), np.float32))
    extension = fits.BinTableHDU.from_columns([column])
    extension.header.update(cards)
    fits.HDUList([fits.PrimaryHDU(), extension]).writeto(path)


def image_population(path):
    return Population(psf={"profile": "image", "image_file": str(path)})


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_a_psf_of_few_pixels_is_seen_while_planning(tmp_path, dtype):
    for width in (0.7, 0.4):
        profile = galsim.Moffat(beta=3.5, fwhm=width, flux=10000)
        image = profile.drawImage(nx=24, ny=25, scale=0.2).array.astype(dtype)
        path = str(tmp_path / f"{width}.fits")
        galsim.fits.writeCube([galsim.Image(image)] * 3, path)
        total, squares = image.sum(dtype=float), (image.astype(float) ** 2).sum()
        found = external.narrowest_psf(path)
        assert found == pytest.approx(external.gaussian_fwhm(total, squares))
        assert (external.narrow_psf(path, found) is None) == (found >= external.LEAST_FWHM)


def test_a_catalogue_with_too_few_galaxies_in_range_is_refused_while_planning():
    path = str(DATA / "real_galaxy_catalog_23.5_example.fits")
    given = {"profile": "cosmos-parametric", "catalogue_file": path}
    source = cosmos_galaxies(path, "cosmos-parametric")
    sizes = np.sort(source["hlr"][np.abs(source["e"]) < population(**given).shape_max])
    for count, refused in ((3, True), (4, False)):
        some = population(**given, half_light_radius_arcsec=[sizes[0] - 1e-6, sizes[count - 1] + 1e-6])
        with (
            pytest.raises(ConfigError, match=f"populations.c: only {count} of") if refused else nullcontext()
        ):
            external.check_enough_galaxies("populations.c", some)
    with pytest.raises(ConfigError, match="no GalSim catalogue with Sersic fits"):
        external.check_enough_galaxies("c", population(catalogue_file=str(DATA / "AEGIS_F606w_catalog.fits")))


def test_a_psfex_model_and_other_tables_are_no_images(tmp_path):
    table(tmp_path / "model.psf", PSFEX)
    with pytest.raises(ConfigError, match=r"populations.p.psf.image_file: .*model.psf is a PSFEx model"):
        external_files("p", image_population(tmp_path / "model.psf"))
    with pytest.raises(ConfigError, match="PSFEx model"):
        psf_images(str(tmp_path / "model.psf"))
    table(tmp_path / "table.fits")
    with pytest.raises(ConfigError, match=r"table.fits has no image, only IMAGE, BINTABLE"):
        external_files("p", image_population(tmp_path / "table.fits"))
    (tmp_path / "text.fits").write_text("no FITS")
    with pytest.raises(ConfigError, match=r"text.fits is no FITS file of PSF images"):
        external_files("p", image_population(tmp_path / "text.fits"))


def test_images_in_an_extension_in_a_cube_or_compressed_are_images(tmp_path):
    fits = galsim.fits.pyfits
    pixels = np.ones((2, 8, 8), np.float32)
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(pixels[0])]).writeto(tmp_path / "second.fits")
    fits.PrimaryHDU(pixels).writeto(tmp_path / "cube.fits.gz")
    for name, count in (("second.fits", 1), ("cube.fits.gz", 2)):
        assert external_files("p", image_population(tmp_path / name)) == [str(tmp_path / name)]
        assert psf_images(str(tmp_path / name)).shape == (count, 8, 8)
