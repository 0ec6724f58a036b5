"""Galaxies of two components and of users' catalogues, compared with GalSim and with the rows."""

from __future__ import annotations

from pathlib import Path

import galsim
import galsim.des
import numpy as np
import pandas as pd
import pytest
from astropy.table import Table

from shearbench.bounds.fisher import fisher, jacobians
from shearbench.config.reading import DEFAULT, check_variants, load
from shearbench.data.external import external_files
from shearbench.errors import ConfigError
from shearbench.plan.run import Run
from shearbench.simulation.catalog import catalogue_galaxies, cosmos_galaxies, sample_catalog
from shearbench.simulation.galsim_stamps import draw_stamps
from shearbench.simulation.populations import PRESETS, SPLITS, Population

COSMOS = str(Path(__file__).parents[2] / "data/galsim/real_galaxy_catalog_23.5_example.fits")
MODEL = str(Path(__file__).parents[2] / "data/psfex/superbit_cut.psf")
ROOT = Path(__file__).parents[3]
SIDE, SCALE = 48, 0.2
TWO = {"profile": "bulge-disc", "bulge_fraction": [0.1, 0.6], "bulge_sersic_n": 2.5}
COLUMNS = {"half_light_radius": "HLR", "flux": "FLUX", "g1": "G1", "g2": "G2", "sersic_n": "N"}


def sample(options, galaxies=4, split="test", name="p"):
    return sample_catalog(Population(**options), name, split, galaxies, 3, SCALE)


def test_bulge_and_disc_are_those_of_galsim():
    catalog = sample(TWO)
    ((images, _),) = draw_stamps(catalog, Population(**TWO), (SIDE, SIDE), SCALE)
    for row, image in zip(catalog.itertuples(), images):
        assert 0.1 <= row.bulge_fraction <= 0.6
        assert 0.2 <= row.bulge_hlr / row.hlr <= 0.5
        bulge = galsim.Sersic(2.5, half_light_radius=row.bulge_hlr).withFlux(row.bulge_fraction * row.flux)
        disc = galsim.Exponential(half_light_radius=row.hlr).withFlux((1 - row.bulge_fraction) * row.flux)
        galaxy = galsim.Add(bulge, disc).shear(g1=row.g1, g2=row.g2).shift(row.dx, row.dy)
        expected = galsim.Convolve(galaxy, galsim.Gaussian(fwhm=0.6)).drawImage(nx=SIDE, ny=SIDE, scale=SCALE)
        np.testing.assert_allclose(image, expected.array, atol=1e-6 * row.flux)


def test_the_bound_of_bulge_and_disc_is_that_of_their_image():
    catalog = sample(TWO, 1)
    ((stamps, _),) = draw_stamps(catalog, Population(**TWO), (SIDE, SIDE), SCALE)
    images, slopes, names = jacobians(catalog, SCALE, (SIDE, SIDE))
    np.testing.assert_allclose(images, stamps, atol=1e-5)
    matrices, _ = fisher(catalog, SCALE, (SIDE, SIDE))
    flat = slopes.reshape(1, 6, -1)
    np.testing.assert_allclose(matrices, flat @ flat.transpose(0, 2, 1), rtol=1e-6)
    # A step in a parameter; the bulge grows with the disc.
    step = 1e-3
    for at, column in ((0, "flux"), (3, "hlr"), (4, "g1")):
        ends = []
        for sign in (1, -1):
            moved = catalog.copy()
            moved[column] += sign * step
            if column == "hlr":
                moved["bulge_hlr"] *= moved.hlr / catalog.hlr
            moved.attrs = catalog.attrs
            ends.append(jacobians(moved, SCALE, (SIDE, SIDE))[0])
        difference = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(slopes[:, at], difference, atol=2e-4 * np.abs(difference).max())
    assert names[-1] == "g2"


def table_of_galaxies(count=60):
    rng = np.random.default_rng(2)
    hlr = rng.uniform(0.3, 0.9, count)
    g = rng.uniform(-0.3, 0.3, (2, count))
    # Flux and index follow from the size, so that a mixture of rows shows.
    return Table({"HLR": hlr, "FLUX": 1e4 * hlr, "N": np.round(4 * hlr, 1), "G1": g[0], "G2": g[1]})


def options_of(path, **changes):
    of_catalogue = {"catalogue_file": str(path), "catalogue_columns": COLUMNS, "flux_scale": 1e-4}
    limits = {"half_light_radius_arcsec": [0.4, 1], "flux": [0.1, 10], "sersic_n": [0.5, 6]}
    return {"profile": "sersic", "sersic_n_step": 0.1, **limits, **of_catalogue, **changes}


@pytest.mark.parametrize("suffix", ["fits", "parquet", "csv", "csv.gz"])
def test_parameters_are_drawn_together_from_the_rows_of_a_table(tmp_path, suffix):
    path, table = tmp_path / f"galaxies.{suffix}", table_of_galaxies()
    if suffix == "parquet":
        table.to_pandas().to_parquet(path)
    elif suffix == "fits":
        table.write(path)
    else:
        table.to_pandas().to_csv(path, index=False)
    options = options_of(path)
    drawn = {split: sample(options, 300, split) for split in SPLITS}
    rows = {split: set(one.catalogue_row) for split, one in drawn.items()}
    assert rows.pop("leakage") == rows["shear"]
    assert sum(map(len, rows.values())) == len(set.union(*rows.values())) == (table["HLR"] >= 0.4).sum()
    test = drawn["test"]
    of_row = table[test.catalogue_row.to_numpy()]
    np.testing.assert_allclose(test.hlr, of_row["HLR"], rtol=1e-12)
    np.testing.assert_allclose(test.flux, of_row["FLUX"] * 1e-4, rtol=1e-12)
    np.testing.assert_allclose(test.sersic_n, of_row["N"], rtol=1e-12)
    np.testing.assert_allclose(np.hypot(test.e1, test.e2), np.hypot(of_row["G1"], of_row["G2"]), rtol=1e-9)
    turned = np.angle((test.e1 + 1j * test.e2) / (of_row["G1"] + 1j * of_row["G2"]))
    assert abs(np.exp(1j * turned).mean()) < 0.2  # a random orientation
    if suffix == "csv":
        few = test.iloc[:2]
        ((images, _),) = draw_stamps(few, Population(**options), (SIDE, SIDE), SCALE)
        row = few.iloc[1]
        galaxy = galsim.Sersic(row.sersic_n, half_light_radius=row.hlr, flux=row.flux)
        galaxy = galaxy.shear(g1=row.g1, g2=row.g2).shift(row.dx, row.dy)
        scene = galsim.Convolve(galaxy, galsim.Gaussian(fwhm=0.6))
        np.testing.assert_allclose(images[1], scene.drawImage(nx=SIDE, ny=SIDE, scale=SCALE).array, atol=1e-6)


def test_columns_that_are_not_named_are_drawn_as_ever(tmp_path):
    path = tmp_path / "galaxies.csv"
    table_of_galaxies().to_pandas().to_csv(path, index=False)
    given = options_of(path, profile="exponential", catalogue_columns={"half_light_radius": "HLR"})
    plain = {key: value for key, value in given.items() if not key.startswith("catalogue")}
    with_table, without = sample(given, 50), sample(plain, 50)
    same = [column for column in without if column not in ("hlr", "galaxy_id")]
    pd.testing.assert_frame_equal(with_table[same], without[same])
    assert not with_table.hlr.equals(without.hlr)


def test_a_catalogue_that_does_not_fit_names_the_file_and_the_key(tmp_path):
    path, table = tmp_path / "galaxies.csv", table_of_galaxies().to_pandas()
    table.assign(NAME="x").to_csv(path, index=False)

    def refused(match, **changes):
        with pytest.raises(ConfigError, match=match):
            catalogue_galaxies("populations.p", Population(**options_of(path, **changes)))

    refused(
        r"populations\.p\.catalogue_columns\.flux: .*galaxies\.csv has no column 'FLX' \(did you mean 'FLUX'",
        catalogue_columns=COLUMNS | {"flux": "FLX"},
    )
    refused("columns are HLR, FLUX, N, G1, G2, NAME", catalogue_columns=COLUMNS | {"g1": "E1"})
    refused(
        r"catalogue_columns\.g2: the column 'NAME' .* expected one number",
        catalogue_columns=COLUMNS | {"g2": "NAME"},
    )
    refused(
        r"populations\.p: only 0 of the 60 galaxies of .*galaxies\.csv have half_light_radius_arcsec within",
        half_light_radius_arcsec=[2, 3],
    )
    refused("flux within", flux_scale=1.0)
    refused(
        r"populations\.p\.catalogue_file: .*no\.csv is no csv table", catalogue_file=str(tmp_path / "no.csv")
    )
    refused("suffix '.txt'", catalogue_file="galaxies.txt")
    broken = tmp_path / "broken.fits"
    broken.write_bytes(b"no table")
    refused("broken.fits is no fits table", catalogue_file=str(broken))
    # A galaxy without a number is left out.
    table.assign(FLUX=[np.nan, *table.FLUX[1:]]).to_csv(path, index=False)
    _, kept = catalogue_galaxies("p", Population(**options_of(path, half_light_radius_arcsec=[0.1, 1])))
    assert kept.tolist() == list(range(1, 60))


def test_images_that_a_catalogue_names_and_that_are_absent_are_seen_before_any_job():
    options = {**PRESETS["cosmos"], "profile": "cosmos-real", "catalogue_file": COSMOS}
    with pytest.raises(ConfigError, match=r"populations\.p\.catalogue_file: .*\.fits cannot be read"):
        external_files("p", Population(**options))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"profile": "exponential"},
            "catalogue_columns.sersic_n: galaxies of profile 'exponential' take none",
        ),
        ({"catalogue_file": None}, "catalogue_file: must be given with"),
        ({"catalogue_columns": {}}, "catalogue_file: must be given with"),
        ({"catalogue_columns": {"g1": "G1"}}, "catalogue_columns.g1: must be given together"),
        ({"catalogue_columns": COLUMNS | {"bulge_fraction": "B"}}, "catalogue_columns.bulge_fraction"),
        ({"catalogue_flux": True}, "catalogue_flux: is for the cosmos profiles"),
        ({"bulge_fraction": [0.5, 1.5]}, "bulge_fraction: needs 0 <= low"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        Population(**options_of("galaxies.csv", **changes))


def test_fluxes_of_cosmos_are_those_of_its_galaxies():
    options = {**PRESETS["cosmos"], "catalogue_file": COSMOS, "catalogue_flux": True, "flux_scale": 0.01}
    limits = {"flux": [0.1, 100], "half_light_radius_arcsec": [0.1, 2]}
    table = sample(options | limits, 40)
    catalog = galsim.COSMOSCatalog(
        Path(COSMOS).name, dir=str(Path(COSMOS).parent), use_real=False, exclusion_level="none"
    )
    compared = 0
    for row in table.itertuples():
        if not catalog.getParametricRecord(row.cosmos_index)["use_bulgefit"]:
            galaxy = catalog.makeGalaxy(row.cosmos_index, gal_type="parametric")
            assert row.flux == pytest.approx(0.01 * galaxy.flux)
            compared += 1
    assert compared > 5
    assert table.flux.between(0.1, 100).all()
    real = str(Path(COSMOS).parent / "AEGIS_F606w_catalog.fits")
    catalog = galsim.RealGalaxyCatalog(Path(real).name, dir=str(Path(real).parent))
    fluxes = [galsim.RealGalaxy(catalog, index=index).flux for index in range(catalog.nobjects)]
    np.testing.assert_allclose(cosmos_galaxies(real, "cosmos-real")["flux"], fluxes, rtol=1e-5)


def test_populations_without_a_density_have_no_bayes_floor(tmp_path):
    path = tmp_path / "galaxies.csv"
    table_of_galaxies().to_pandas().to_csv(path, index=False)
    config = load(ROOT / DEFAULT)
    populations = {
        "exp_gauss": Population(),
        "two": Population(**TWO),
        "rows": Population(**options_of(path)),
    }
    assert Run(config.model_copy(update={"populations": populations}), None).with_posterior == ["exp_gauss"]


def test_superbit_is_the_fourth_test_of_shearnet(tmp_path):
    config = load(ROOT / DEFAULT, ROOT / "config/superbit.yaml")
    check_variants({f"variants.{name}": one for name, one in config.variants.items()}, config)
    assert (config.stamps.size_pixels, config.stamps.pixel_scale_arcsec) == (53, 0.141)
    counts, noise = 12258.97, 12.719674
    assert config.noise_levels[0] == pytest.approx(noise / counts, rel=1e-4)
    population = config.populations["superbit"]
    assert population.flux_scale == pytest.approx(1 / counts, rel=1e-5)
    assert population.centroid_shift_pixels * 0.141 == pytest.approx(0.2, rel=1e-4)
    # A catalogue and a model in place of those that the configuration names.
    path = tmp_path / "galaxies.fits"
    table = table_of_galaxies()
    table["FLUX"] = counts * np.linspace(0.2, 3, len(table))
    table.write(path)
    psf = population.psf.model_copy(update={"psfex_files": (MODEL,)})
    given = population.model_copy(update={"catalogue_file": str(path), "psf": psf})
    catalog = sample_catalog(given, "superbit", "test", 2, 3, 0.141)
    ((images, _),) = draw_stamps(catalog, given, (53, 53), 0.141)
    for row, image in zip(catalog.itertuples(), images):
        at = table[row.catalogue_row]
        assert row.flux * counts == pytest.approx(at["FLUX"], rel=1e-5)
        psf = galsim.des.DES_PSFEx(MODEL, wcs=galsim.PixelScale(0.1408))
        psf = psf.getPSF(galsim.PositionD(row.psf_x, row.psf_y))
        galaxy = galsim.Exponential(half_light_radius=at["HLR"], flux=row.flux)
        galaxy = galaxy.shear(g1=row.g1, g2=row.g2).shift(row.dx, row.dy)
        scene = galsim.Convolve(psf, galaxy)
        expected = scene.drawImage(nx=53, ny=53, scale=0.141, method="no_pixel").array
        np.testing.assert_allclose(image, expected, atol=1e-6 * row.flux)
