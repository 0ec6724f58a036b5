"""Populations taken from catalogues of real galaxies, on the small ones that ship with GalSim."""

from pathlib import Path

import galsim
import numpy as np
import pytest

from shearbench.errors import ConfigError
from shearbench.simulation.catalog import cosmos_galaxies, sample_catalog
from shearbench.simulation.galsim_stamps import draw_stamps, galaxy_object, psf_object
from shearbench.simulation.populations import PRESETS, SPLITS, Population

DATA = Path(__file__).parents[2] / "data/galsim"
PARAMETRIC = DATA / "real_galaxy_catalog_23.5_example.fits"
REAL = DATA / "AEGIS_F606w_catalog.fits"


def population(kind="parametric", **changes):
    given = {**PRESETS["cosmos"], "profile": f"cosmos-{kind}", **changes}
    given.setdefault("catalogue_file", str(PARAMETRIC if kind == "parametric" else REAL))
    if kind == "real":
        given["half_light_radius_arcsec"] = [0.05, 1.2]
    return Population(**given)


@pytest.mark.parametrize("kind", ["parametric", "real"])
def test_no_galaxy_of_the_catalogue_is_in_two_splits(kind):
    drawn = {s: set(sample_catalog(population(kind), "c", s, 300, 1, 0.2).cosmos_index) for s in SPLITS}
    # The PSF's leakage is measured on the same galaxies as the shear bias.
    assert drawn.pop("leakage") == drawn["shear"]
    assert all(drawn.values())
    assert sum(map(len, drawn.values())) == len(set.union(*drawn.values()))


def test_parametric_shapes_are_those_galsim_draws():
    catalog = galsim.COSMOSCatalog(PARAMETRIC.name, dir=str(DATA), use_real=False, exclusion_level="none")
    ours = cosmos_galaxies(str(PARAMETRIC), "cosmos-parametric")
    for index in range(len(catalog)):
        # Where GalSim itself draws a single Sersic profile, ours must be the same galaxy.
        if catalog.getParametricRecord(index)["use_bulgefit"]:
            continue
        theirs = catalog.makeGalaxy(index, gal_type="parametric")
        shear = complex(*ours["e"][index : index + 1].view(float))
        mine = galsim.Sersic(n=ours["sersic_n"][index], half_light_radius=ours["hlr"][index])
        mine = mine.shear(g1=shear.real, g2=shear.imag).withFlux(theirs.flux)
        a, b = (g.drawImage(nx=48, ny=48, scale=0.1, method="no_pixel").array for g in (mine, theirs))
        np.testing.assert_allclose(a, b, atol=2e-3 * b.max(), err_msg=f"galaxy {index}")


def test_a_parametric_catalog_draws_what_its_columns_say():
    options = population()
    table = sample_catalog(options, "cosmos", "test", 5, 1, 0.2)
    (images, _), *_ = draw_stamps(table, options, (48, 48), 0.2)
    for row, image in zip(table.itertuples(), images):
        galaxy = galsim.Sersic(n=row.sersic_n, half_light_radius=row.hlr, flux=row.flux)
        galaxy = galaxy.shear(g1=row.g1, g2=row.g2).shift(row.dx, row.dy)
        scene = galsim.Convolve(galaxy, psf_object(row, options.psf))
        np.testing.assert_array_equal(image, scene.drawImage(nx=48, ny=48, scale=0.2).array)


def test_a_real_galaxy_has_the_shape_its_catalog_says():
    options = population("real", shape_max=0.5)
    table = sample_catalog(options, "cosmos", "shear", 4, 1, 0.2)
    for row in table.iloc[::3].itertuples():
        unsheared = row._replace(shear1=0.0, shear2=0.0, dx=0.0, dy=0.0)
        # The HST image itself, seen through its own PSF: what its adaptive moments were taken of.
        original = galsim.Convolve(
            galaxy_object(unsheared, options), _original_psf(row).rotate(row.angle * galsim.radians)
        )
        image = original.drawImage(scale=0.03, method="no_pixel", nx=200, ny=200)
        seen = galsim.hsm.FindAdaptiveMom(image).observed_shape
        assert abs(complex(seen.g1, seen.g2) - complex(row.e1, row.e2)) < 0.03


def _original_psf(row):
    return galsim.RealGalaxyCatalog(REAL.name, dir=str(DATA)).getPSF(int(row.cosmos_index))


def test_pairs_of_real_galaxies_are_turned_and_sheared():
    options = population("real")
    table = sample_catalog(options, "cosmos", "shear", 2, 1, 0.2)
    first, turned = table.iloc[0], table.iloc[8]
    assert turned.angle - first.angle == pytest.approx(np.pi / 2)
    assert complex(turned.e1, turned.e2) == pytest.approx(-complex(first.e1, first.e2))
    (images, _), *_ = draw_stamps(table, options, (48, 48), 0.2)
    assert np.isfinite(images).all()
    moments = [galsim.hsm.FindAdaptiveMom(galsim.Image(image, scale=0.2)).observed_shape for image in images]
    # +shear in g1 gives a larger g1 than -shear, for each galaxy and orientation; and so for g2.
    # Neighbours differ in the noise alone.
    for k in range(0, len(table), 8):
        assert moments[k].g1 > moments[k + 2].g1
        assert moments[k + 4].g2 > moments[k + 6].g2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"catalogue_file": "nowhere.fits"}, "nowhere.fits is no GalSim catalogue"),
        ({"half_light_radius_arcsec": [5, 6]}, "populations.cosmos: only 0 of the 100 galaxies"),
    ],
)
def test_a_catalogue_that_cannot_serve_is_a_clear_error(changes, says):
    with pytest.raises(ConfigError, match=says):
        sample_catalog(population(**changes), "cosmos", "test", 5, 1, 0.2)
