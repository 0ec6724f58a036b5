import itertools

import galsim
import h5py
import numpy as np
import pytest

from shearbench.data.noise import unit_noise
from shearbench.data.stamps import StampSet, read_index, write_index, write_stamps
from shearbench.errors import ConfigError, ContractError
from shearbench.simulation.catalog import sample_catalog
from shearbench.simulation.galsim_stamps import draw_stamps, versions
from shearbench.simulation.populations import PRESETS, Population

SHAPE, SCALE = (32, 32), 0.25


def make(folder, name="exp_gauss", galaxies=37, cuts=(0, 37), block=16, **changes):
    """Write a split in the chunks that `cuts` says, and return their files and the catalog."""
    population = Population(**{**PRESETS[name], **changes})
    table = sample_catalog(population, name, "test", galaxies, 5, SCALE)
    paths = []
    for k, (start, stop) in enumerate(itertools.pairwise(cuts)):
        rows = table.iloc[start:stop]
        paths.append(folder / f"{k}.h5")
        write_stamps(
            paths[-1],
            draw_stamps(rows, population, SHAPE, SCALE, block=block),
            rows.galaxy_id.to_numpy(),
            rows.noise_id.to_numpy(),
            SHAPE,
            not population.psf.constant,
            {"population": name, "split": "test", "pixel_scale": SCALE, "catalog_digest": "d", **versions()},
        )
    return paths, table


@pytest.mark.parametrize("name", ["exp_gauss", "sersic_moffat", "gauss_gauss"])
def test_pixels_do_not_depend_on_chunks_or_blocks(tmp_path, name):
    for folder in ("one", "many"):
        (tmp_path / folder).mkdir()
    one, _ = make(tmp_path / "one", name, block=256)
    many, _ = make(tmp_path / "many", name, cuts=(0, 1, 14, 30, 37), block=7)
    first, second = StampSet(one), StampSet(many)
    for a, b in zip(first.noiseless(), second.noiseless()):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(first.galaxy_id, second.galaxy_id)
    whole = next(first.batches(1e-3, seed=9, size=100))
    parts = list(second.batches(1e-3, seed=9, size=5, start=3, stop=33))
    np.testing.assert_array_equal(whole.images[3:33], np.concatenate([part.images for part in parts]))
    np.testing.assert_array_equal(whole.galaxy_id[3:33], np.concatenate([part.galaxy_id for part in parts]))


def test_stamps_are_what_galsim_draws(tmp_path):
    paths, table = make(tmp_path, "sersic_moffat", galaxies=4, cuts=(0, 4))
    images, psf = StampSet(paths).noiseless()
    for row, image, seen in zip(table.itertuples(), images, psf):
        moffat = galsim.Moffat(beta=2.5, fwhm=row.psf_fwhm).shear(g1=row.psf_g1, g2=row.psf_g2)
        galaxy = galsim.Sersic(n=row.sersic_n, half_light_radius=row.hlr, flux=row.flux)
        galaxy = galaxy.shear(g1=row.g1, g2=row.g2).shift(row.dx, row.dy)
        expected = galsim.Convolve(galaxy, moffat).drawImage(nx=32, ny=32, scale=SCALE)
        np.testing.assert_array_equal(image, expected.array)
        # PSFs are drawn more precisely than GalSim's default, which is 1e-5 off.
        precise = moffat.withGSParams(maxk_threshold=1e-7, folding_threshold=1e-4)
        drawn = precise.drawImage(nx=32, ny=32, scale=SCALE).array
        np.testing.assert_allclose(seen, drawn, rtol=0, atol=2e-7)


def test_the_noise_is_sigma_times_the_unit_field(tmp_path):
    paths, _ = make(tmp_path, galaxies=6, cuts=(0, 6))
    stamps = StampSet(paths)
    clean, _ = stamps.noiseless()
    low, high = (next(stamps.batches(sigma, seed=4)) for sigma in (1e-4, 1e-1))
    field = unit_noise(4, stamps.noise_id, SHAPE)
    np.testing.assert_array_equal(high.images, clean + np.float32(1e-1) * field)
    np.testing.assert_allclose((low.images - clean) / 1e-4, field, atol=2e-3)


def test_psf_images_come_from_fits(tmp_path):
    rng = np.random.default_rng(0)
    profiles = [galsim.Moffat(beta=3, fwhm=f).shear(g1=rng.normal(0, 0.05)) for f in (0.6, 0.7, 0.9)]
    drawn = [profile.drawImage(nx=40, ny=40, scale=SCALE) for profile in profiles]
    galsim.fits.writeCube(drawn, str(tmp_path / "psf.fits"))
    psf = {"profile": "image", "image_file": str(tmp_path / "psf.fits"), "image_pixel_scale_arcsec": SCALE}
    paths, table = make(tmp_path, galaxies=12, cuts=(0, 12), psf=psf)
    images, seen = StampSet(paths).noiseless()
    assert set(table.psf_index) == {0, 1, 2}
    for row, image, one in zip(table.itertuples(), images, seen):
        np.testing.assert_allclose(one, drawn[row.psf_index].array[4:-4, 4:-4], atol=2e-4)
        galaxy = galsim.Exponential(half_light_radius=row.hlr, flux=row.flux).shear(g1=row.g1, g2=row.g2)
        scene = galsim.Convolve(galaxy.shift(row.dx, row.dy), profiles[row.psf_index])
        np.testing.assert_allclose(
            image, scene.drawImage(nx=32, ny=32, scale=SCALE).array, atol=1e-3 * row.flux
        )


def test_a_stamp_too_large_for_galsim_is_refused_with_the_keys(tmp_path):
    sharp = {"fwhm_arcsec": 0.05}
    with pytest.raises(ConfigError, match=r"at most 8192.*psf\.fwhm_arcsec.*half_light_radius_arcsec"):
        make(tmp_path, "sersic_moffat", 1, (0, 1), sersic_n=6, half_light_radius_arcsec=1.5, psf=sharp)


@pytest.mark.parametrize("content", [b"no fits", None])
def test_a_psf_file_that_is_none_is_a_clear_error(tmp_path, content):
    path = tmp_path / "psf.fits"
    if content:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"psf\.image_file: .*psf\.fits"):
        make(tmp_path, psf={"profile": "image", "image_file": str(path)})


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("truncate", "unreadable"),
        ("foreign", "unreadable"),
        ("dataset", "dataset 'psf'"),
        ("attribute", "attribute 'split'"),
        ("length", "noise_id"),
        ("other", "population"),
    ],
)
def test_a_damaged_file_is_refused_with_file_field_and_rule(tmp_path, damage, says):
    paths, _ = make(tmp_path, cuts=(0, 20, 37))
    path = paths[1]
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:3000])
    elif damage == "foreign":
        path.write_text("galaxy_id,g1\n")
    else:
        with h5py.File(path, "a") as file:
            if damage == "dataset":
                del file["psf"]
            elif damage == "attribute":
                del file.attrs["split"]
            elif damage == "length":
                del file["noise_id"]
                file["noise_id"] = np.arange(3)
            else:
                file.attrs["population"] = "cosmos"
    with pytest.raises(ContractError) as error:
        StampSet(paths)
    assert str(path) in str(error.value)
    assert says in str(error.value)
    assert "simulate_stamps" in str(error.value)


def test_a_draw_that_fails_leaves_no_file(tmp_path):
    def broken():
        yield np.zeros((2, *SHAPE), np.float32), np.zeros(SHAPE, np.float32)
        raise RuntimeError("GalSim gave up")

    with pytest.raises(RuntimeError, match="gave up"):
        write_stamps(tmp_path / "a.h5", broken(), np.arange(5), np.arange(5), SHAPE, False, {})
    assert list(tmp_path.iterdir()) == []


def test_an_index_names_the_chunks_of_a_split_wherever_the_folder_is(tmp_path):
    paths, _ = make(tmp_path / "here", cuts=(0, 20, 37))
    write_index(tmp_path / "here/index.json", paths)
    (tmp_path / "here").rename(tmp_path / "there")
    found = read_index(tmp_path / "there/index.json")
    assert found == [tmp_path / "there" / path.name for path in paths]
    assert len(StampSet(found)) == 37


@pytest.mark.parametrize("damage", ["missing", "shorter", "longer"])
def test_an_index_refuses_a_chunk_that_is_not_as_it_was(tmp_path, damage):
    paths, _ = make(tmp_path, cuts=(0, 20, 37))
    write_index(tmp_path / "index.json", paths)
    if damage == "missing":
        paths[1].unlink()
    else:
        content = paths[1].read_bytes()
        paths[1].write_bytes(content[:-1] if damage == "shorter" else content + b"x")
    with pytest.raises(ContractError, match=r"1\.h5.*index\.json.*simulate_stamps"):
        read_index(tmp_path / "index.json")


def test_no_index_is_written_of_damaged_chunks(tmp_path):
    paths, _ = make(tmp_path, cuts=(0, 20, 37))
    paths[1].write_bytes(paths[1].read_bytes()[:3000])
    with pytest.raises(ContractError, match="simulate_stamps"):
        write_index(tmp_path / "index.json", paths)
    assert not (tmp_path / "index.json").exists()


@pytest.mark.parametrize("content", ["", "{}", '{"chunks": [1]}', "[]", '{"chunks": [{"file": "0.h5"}]}'])
def test_a_file_that_is_no_index_is_refused(tmp_path, content):
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(ContractError, match="index_stamps"):
        read_index(tmp_path / "index.json")
