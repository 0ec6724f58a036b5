"""Stamps of users: their layouts, and the stamps that cannot be used."""

from __future__ import annotations

import hashlib
import sys
import types

import h5py
import numpy as np
import pytest
from astropy.io import fits

from shearbench.data.own_stamps import Cause, OwnStamps, in_words
from shearbench.errors import ShearbenchError

N, SIDE = 5, 12


@pytest.fixture
def arrays():
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    psf = np.exp(-(x**2 + y**2) / 4).astype(np.float32)
    return {"images": rng.normal(size=(N, SIDE, SIDE)).astype(np.float32), "psf": psf, "sigma": np.ones(N)}


def write(path, arrays, scale=0.2):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
        if scale:
            file.attrs["pixel_scale_arcsec"] = scale
    return path


def batches(stamps, **how):
    return list(stamps.batches(np.flatnonzero(stamps.cause == 0), **how))


def test_hdf5_and_fits_give_the_same_batches_and_are_not_changed(tmp_path, arrays):
    arrays["id"] = np.arange(100, 100 + N)
    write(tmp_path / "s.h5", arrays)
    hdus = [fits.PrimaryHDU(arrays["images"]), fits.ImageHDU(arrays["psf"], name="PSF")]
    hdus[0].header["PIXSCALE"] = 0.2
    columns = [
        fits.Column("sigma", "D", array=arrays["sigma"]),
        fits.Column("id", "K", array=arrays["id"]),
    ]
    fits.HDUList([*hdus, fits.BinTableHDU.from_columns(columns)]).writeto(tmp_path / "s.fits")
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()}
    found = [OwnStamps(tmp_path / name) for name in ("s.h5", "s.fits")]
    for stamps in found:
        assert stamps.ids.tolist() == arrays["id"].tolist()
        assert stamps.pixel_scale == 0.2
        ((rows, batch),) = batches(stamps)
        np.testing.assert_array_equal(batch.images, arrays["images"])
        assert batch.psf.sum() == pytest.approx(1)
        assert batch.psf.shape == (SIDE, SIDE)
        assert (batch.sigma, batch.images.dtype) == (1.0, np.float32)
        assert rows.tolist() == list(range(N))
    assert {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()} == before


def test_noise_of_each_stamp_makes_batches_of_equal_noise(tmp_path, arrays):
    arrays["sigma"] = np.array([1.0, 2.0, 1.0, 2.0, 3.0])
    stamps = OwnStamps(write(tmp_path / "s.h5", arrays), flux_scale=10)
    assert [(rows.tolist(), batch.sigma) for rows, batch in batches(stamps)] == [
        ([0, 2], 10),
        ([1, 3], 20),
        ([4], 30),
    ]
    np.testing.assert_allclose(batches(stamps)[0][1].images, 10 * arrays["images"][[0, 2]], rtol=1e-6)
    assert [rows.tolist() for rows, _ in batches(stamps, equal_noise=False)] == [[0, 1, 2, 3, 4]]


def test_a_number_for_the_noise_and_a_file_for_the_psf(tmp_path, arrays):
    write(tmp_path / "s.h5", {"images": arrays["images"]}, scale=None)
    fits.PrimaryHDU(np.pad(arrays["psf"], 2)).writeto(tmp_path / "psf.fits")
    stamps = OwnStamps(tmp_path / "s.h5", psf=tmp_path / "psf.fits", sigma=0.5, pixel_scale=0.3)
    ((_, batch),) = batches(stamps)
    np.testing.assert_allclose(batch.psf, arrays["psf"] / arrays["psf"].sum(), rtol=1e-5)
    assert (batch.sigma, batch.pixel_scale) == (0.5, 0.3)


def test_bad_stamps_are_flagged_with_their_cause(tmp_path, arrays):
    arrays["images"][0, 3, 3] = np.nan
    arrays["psf"] = np.tile(arrays["psf"], (N, 1, 1))
    arrays["psf"][1] = 0
    weight = np.full((N, SIDE, SIDE), 4.0)
    weight[2, 0, 0] = -1
    weight[3, 0, 0] = 0
    del arrays["sigma"]
    stamps = OwnStamps(write(tmp_path / "s.h5", {**arrays, "weight": weight}))
    expected = [Cause.BAD_PIXELS, Cause.BAD_PSF, Cause.BAD_NOISE, Cause.MASKED, Cause.GOOD]
    assert stamps.cause.tolist() == list(map(int, expected))
    assert stamps.sigma[4] == 0.5
    assert [rows.tolist() for rows, _ in batches(stamps)] == [[4]]
    assert in_words(int(Cause.BAD_PSF | Cause.MASKED)) == (
        "no PSF, or one that is NaN or has no flux; masked pixels"
    )
    assert in_words(0) == ""
    assert sum(stamps.causes().values()) == 4


@pytest.mark.parametrize("level", [-1.0, 0.0, np.nan])
def test_impossible_noise_is_flagged(tmp_path, arrays, level):
    arrays["sigma"][2] = level
    stamps = OwnStamps(write(tmp_path / "s.h5", arrays))
    assert np.flatnonzero(stamps.cause).tolist() == [2]
    assert stamps.cause[2] == Cause.BAD_NOISE


def test_stamps_that_are_not_square_are_flagged(tmp_path, arrays):
    arrays["images"] = arrays["images"][:, 2:]
    stamps = OwnStamps(write(tmp_path / "s.h5", arrays))
    assert (stamps.cause == Cause.NOT_SQUARE).all()
    assert batches(stamps) == []


def test_stamps_of_another_size_are_resized_about_their_centre(tmp_path, arrays):
    stamps = OwnStamps(write(tmp_path / "s.h5", arrays))
    assert stamps.fits(SIDE, 0.2).all()
    assert not stamps.fits(SIDE, 0.21).any()
    assert not stamps.fits(10, 0.2).any()
    assert stamps.fits(10, 0.2, resize=True).all()
    assert not stamps.fits(11, 0.2, resize=True).any(), "its centre would move by half a pixel"
    ((_, batch),) = batches(stamps, side=10)
    np.testing.assert_array_equal(batch.images, arrays["images"][:, 1:-1, 1:-1])
    ((_, batch),) = batches(stamps, side=14)
    np.testing.assert_array_equal(batch.images[:, 1:-1, 1:-1], arrays["images"])
    assert (batch.images[:, 0] == 0).all()


@pytest.mark.parametrize("side", [9, 11, 17])
def test_an_odd_psf_is_centred_on_even_stamps(tmp_path, arrays, side):
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    arrays["psf"] = np.exp(-(x**2 + y**2) / 4)
    ((_, batch),) = batches(OwnStamps(write(tmp_path / "s.h5", arrays)))
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    expected = np.exp(-(x**2 + y**2) / 4)
    # The small one has lost the wings of the PSF.
    np.testing.assert_allclose(batch.psf, expected / expected.sum(), atol=3e-3 if side == 9 else 3e-4)


def test_a_meds_file_has_cutouts_of_several_sizes(tmp_path):
    meds = pytest.importorskip("meds")
    if not hasattr(meds, "MEDS"):
        pytest.skip("the package of PyPI called meds is another one")
    rng = np.random.default_rng(1)
    sizes = [12, 12, 16, 12]
    images = [rng.normal(size=(side, side)).astype(np.float32) for side in sizes]
    y, x = np.mgrid[:9, :9] - 4
    psf = np.exp(-(x**2 + y**2) / 3).astype(np.float32)
    starts = np.cumsum([0, *(side**2 for side in sizes)])[:-1]
    columns = {
        "id": np.arange(10, 14),
        "box_size": np.array(sizes),
        "ncutout": np.array([1, 1, 1, 0]),
        "start_row": starts[:, None],
        "psf_start_row": np.array([[0], [-9999], [0], [0]]),
        "psf_row_size": np.full((4, 1), 9),
        "psf_col_size": np.full((4, 1), 9),
        **{name: np.full((4, 1), 5.5) for name in ("cutout_row", "cutout_col")},
        **{name: np.full((4, 1), 0.0) for name in ("dudrow", "dvdcol")},
        **{name: np.full((4, 1), 0.2) for name in ("dudcol", "dvdrow")},
    }
    # Room for two cutouts each: FITS has no columns of one.
    columns = {
        name: np.tile(values, (1, 2)) if values.ndim == 2 else values for name, values in columns.items()
    }
    record = np.empty(4, [(name, values.dtype, values.shape[1:]) for name, values in columns.items()])
    for name, values in columns.items():
        record[name] = values
    flat = np.concatenate([image.ravel() for image in images])
    hdus = [
        fits.PrimaryHDU(),
        fits.BinTableHDU(record, name="object_data"),
        *(fits.BinTableHDU(record, name=name) for name in ("image_info", "metadata")),
        fits.ImageHDU(flat, name="image_cutouts"),
        fits.ImageHDU(np.full_like(flat, 4), name="weight_cutouts"),
        fits.ImageHDU(psf.ravel(), name="psf"),
    ]
    fits.HDUList(hdus).writeto(tmp_path / "m.fits")
    stamps = OwnStamps(tmp_path / "m.fits")
    assert stamps.ids.tolist() == [10, 11, 12, 13]
    assert stamps.pixel_scale == pytest.approx(0.2)
    assert stamps.cause[[0, 2]].tolist() == [0, 0]
    assert stamps.cause[1] == Cause.BAD_PSF
    assert stamps.cause[3] & Cause.BAD_PIXELS
    assert stamps.sigma[0] == 0.5
    found = {tuple(rows.tolist()): batch for rows, batch in batches(stamps)}
    assert set(found) == {(0,), (2,)}
    np.testing.assert_array_equal(found[2,].images[0], images[2])
    assert found[0,].psf.shape == (1, 12, 12)


def without(name):
    return lambda arrays: arrays.pop(name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without("images"), r"expected an array images \[n, ny, nx\], found psf \[12, 12\]"),
        (without("psf"), "found no PSF"),
        (without("sigma"), "found no noise 'weight'"),
        (lambda a: a.update(sigma=np.ones(3)), "found 3 noise levels for 5 images"),
        (lambda a: a.update(psf=np.ones((3, SIDE, SIDE))), r"found shape \[3, 12, 12\], expected"),
        (lambda a: a.update(psf=np.ones((11, 12))), "found a PSF of 11 by 12 pixels, expected a square"),
        (lambda a: a.update(id=np.ones(N)), "expected 5 whole numbers"),
    ],
)
def test_another_layout_is_refused_in_one_sentence(tmp_path, arrays, change, says):
    change(arrays)
    with pytest.raises(ShearbenchError, match=says):
        OwnStamps(write(tmp_path / "s.h5", arrays))


def test_a_file_of_another_kind_or_without_a_scale_is_refused(tmp_path, arrays):
    (tmp_path / "s.h5").write_text("no")
    (tmp_path / "s.fits").write_text("no")
    with pytest.raises(ShearbenchError, match="it is no HDF5 file"):
        OwnStamps(tmp_path / "s.h5")
    with pytest.raises(ShearbenchError, match="it is no FITS file"):
        OwnStamps(tmp_path / "s.fits")
    with pytest.raises(FileNotFoundError):
        OwnStamps(tmp_path / "nothing.fits")
    with pytest.raises(ShearbenchError, match="no pixel scale"):
        OwnStamps(write(tmp_path / "t.h5", arrays, scale=None))


def test_meds_needs_its_package(tmp_path, monkeypatch):
    column = fits.Column("id", "K", array=np.arange(3))
    hdu = fits.BinTableHDU.from_columns([column], name="object_data")
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "m.fits")
    # PyPI has another package of this name, which has no such class.
    monkeypatch.setitem(sys.modules, "meds", types.ModuleType("meds"))
    with pytest.raises(ShearbenchError, match="conda install -c conda-forge meds"):
        OwnStamps(tmp_path / "m.fits")
