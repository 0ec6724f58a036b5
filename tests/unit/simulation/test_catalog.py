import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shearbench.data.catalogs import read_catalog, read_catalog_rows
from shearbench.errors import ContractError
from shearbench.files.tables import write_table
from shearbench.simulation.catalog import sample_catalog, shear_shape
from shearbench.simulation.populations import PRESETS, SPLITS, Population, stamp_count

SHAPES = st.complex_numbers(max_magnitude=0.9, allow_nan=False)


def sample(split="test", galaxies=200, seed=3, name="exp_gauss", **changes):
    population = Population(**{**PRESETS[name], **changes})
    return sample_catalog(population, name, split, galaxies, seed, pixel_scale=0.2)


@given(e=SHAPES, s=SHAPES)
@settings(max_examples=60, deadline=None)
def test_shear_agrees_with_galsim_and_is_undone_by_its_inverse(e, s):
    import galsim

    g1, g2 = shear_shape(e.real, e.imag, s.real, s.imag)
    together = galsim.Shear(g1=s.real, g2=s.imag) + galsim.Shear(g1=e.real, g2=e.imag)
    assert abs(complex(g1, g2) - complex(together.g1, together.g2)) < 1e-9
    back = shear_shape(g1, g2, -s.real, -s.imag)
    assert abs(complex(*back) - e) < 1e-9


@pytest.mark.parametrize("name", ["exp_gauss", "sersic_moffat", "gauss_gauss"])
def test_parameters_follow_the_population(name):
    population = Population(**PRESETS[name])
    table = sample(galaxies=20000, name=name)
    for column, (low, high) in {"hlr": population.half_light_radius_arcsec, "flux": population.flux}.items():
        assert table[column].between(low, high).all()
        assert table[column].mean() == pytest.approx((low + high) / 2, rel=0.02)
    assert np.hypot(table.e1, table.e2).max() < 0.6
    # Two components of 0.2, cut at |g| = 0.6: the variance of each is s^2 (1 - u e^-u / (1 - e^-u)), u = 4.5.
    u = 0.6**2 / (2 * 0.2**2)
    expected = 0.2 * np.sqrt(1 - u * np.exp(-u) / (1 - np.exp(-u)))
    assert table.e1.std() == pytest.approx(expected, rel=0.02)
    assert table.e2.std() == pytest.approx(expected, rel=0.02)
    assert abs(np.corrcoef(table.e1, table.e2)[0, 1]) < 0.03
    assert np.abs(table[["dx", "dy"]]).to_numpy().max() <= 0.1
    assert (table.psf_g1.std() > 0) == (name == "sersic_moffat")


def test_splits_share_no_galaxy_and_no_noise():
    tables = {split: sample(split, 300) for split in SPLITS}
    modulus = pd.concat([np.hypot(t.e1, t.e2).round(12).drop_duplicates() for t in tables.values()])
    assert modulus.is_unique
    noise = pd.concat([table.noise_id.drop_duplicates() for table in tables.values()])
    assert noise.is_unique


def test_more_galaxies_leave_the_first_ones_alone():
    few, many = sample(galaxies=50), sample(galaxies=70000)
    pd.testing.assert_frame_equal(few, many.iloc[:50])
    assert not np.isin(many.e1[65536:], many.e1[:65536]).any()


@pytest.mark.parametrize("rotations", [2, 4])
def test_the_shear_split_pairs_galaxies(rotations):
    population = Population(**PRESETS["sersic_moffat"])
    table = sample_catalog(population, "sersic_moffat", "shear", 20, 3, 0.2, shear=0.03, rotations=rotations)
    assert len(table) == 20 * rotations * 8
    assert stamp_count("shear", 20, rotations) == len(table)
    for _, galaxy in table.groupby("pair_id"):
        e = (galaxy.e1 + 1j * galaxy.e2).to_numpy().reshape(rotations, 8)
        np.testing.assert_allclose(e[:, 0].mean(), 0, atol=1e-15)  # no shape noise
        np.testing.assert_array_equal(e, e[:, :1].repeat(8, axis=1))
        assert (galaxy.groupby("rotation").noise_id.nunique() == 1).all()
        assert galaxy.rotation.nunique() == galaxy.noise_id.nunique() == 2 * rotations
        assert set(galaxy.noise_id) == set(~galaxy.noise_id)  # each field and its negative
        assert galaxy[["hlr", "flux", "sersic_n", "dx", "dy", "psf_fwhm", "psf_g1"]].nunique().max() == 1
        applied = sorted(set(zip(galaxy.shear1, galaxy.shear2)))
        assert applied == [(-0.03, 0.0), (0.0, -0.03), (0.0, 0.03), (0.03, 0.0)]
    sheared = shear_shape(table.e1, table.e2, table.shear1, table.shear2)
    np.testing.assert_allclose(table.g1, sheared[0])


@pytest.mark.parametrize("rotations", [2, 4])
def test_the_leakage_split_pairs_psfs_in_place_of_shears(rotations):
    population = Population(**PRESETS["sersic_moffat"] | {"shear_max": 0.1})
    table = sample_catalog(population, "p", "leakage", 20, 3, 0.2, rotations=rotations, psf_shape=0.04)
    assert len(table) == stamp_count("leakage", 20, rotations) == 20 * rotations * 8
    assert (table[["shear1", "shear2"]] == 0).all(axis=None)
    np.testing.assert_array_equal(table[["g1", "g2"]], table[["e1", "e2"]])
    for _, galaxy in table.groupby("pair_id"):
        e = (galaxy.e1 + 1j * galaxy.e2).to_numpy().reshape(rotations, 8)
        np.testing.assert_allclose(e[:, 0].mean(), 0, atol=1e-15)
        assert (galaxy.groupby("rotation").noise_id.nunique() == 1).all()
        assert set(galaxy.noise_id) == set(~galaxy.noise_id)
        assert galaxy[["hlr", "flux", "sersic_n", "dx", "dy", "psf_fwhm"]].nunique().max() == 1
        # The PSF's own shape, which varies in this population, is the same; to it, 0.04 is added.
        own = galaxy[["psf_g1", "psf_g2"]].to_numpy() - galaxy[["psf_shear1", "psf_shear2"]].to_numpy()
        np.testing.assert_allclose(own, own[:1].repeat(len(own), axis=0), atol=1e-15)
        applied = sorted(set(zip(galaxy.psf_shear1, galaxy.psf_shear2)))
        assert applied == [(-0.04, 0.0), (0.0, -0.04), (0.0, 0.04), (0.04, 0.0)]


def test_sheared_populations_are_sheared():
    table = sample(shear_max=0.1, galaxies=5000)
    modulus = np.hypot(table.shear1, table.shear2)
    assert 0.095 < modulus.max() <= 0.1
    assert not np.allclose(table.g1, table.e1)


@pytest.mark.parametrize("change", ["value", "repeat", "attribute"])
def test_a_changed_catalog_is_refused(tmp_path, change):
    table = sample(galaxies=20)
    attributes = dict(table.attrs)
    if change == "value":
        table.loc[3, "g1"] += 1e-12
    elif change == "repeat":
        table.loc[3, "galaxy_id"] = 2
    else:
        del attributes["digest"]
    write_table(tmp_path / "c.parquet", table, attributes)
    with pytest.raises(ContractError, match="sample_catalog"):
        read_catalog(tmp_path / "c.parquet")


def test_rows_are_read_without_the_others(tmp_path):
    table = sample(galaxies=70000)
    write_table(tmp_path / "c.parquet", table, table.attrs)
    part = read_catalog_rows(tmp_path / "c.parquet", 65000, 66000)
    pd.testing.assert_frame_equal(part, table.iloc[65000:66000].reset_index(drop=True), check_dtype=False)
    assert part.attrs == table.attrs
    with pytest.raises(ContractError, match="70000"):
        read_catalog_rows(tmp_path / "c.parquet", 69990, 70001)
    pd.testing.assert_frame_equal(read_catalog(tmp_path / "c.parquet"), table, check_dtype=False)
