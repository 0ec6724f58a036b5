"""PSFs of models made by Piff: stamps are those that Piff and GalSim draw."""

from __future__ import annotations

import galsim
import numpy as np
import pytest

from shearbench.data import external
from shearbench.data.external import external_files
from shearbench.errors import ConfigError
from shearbench.simulation.catalog import sample_catalog
from shearbench.simulation.galsim_stamps import draw_stamps
from shearbench.simulation.populations import Population

SIDE, SCALE = 33, 0.2


def population(*files):
    psf = {"profile": "piff", "piff_files": files, "image_pixel_scale_arcsec": SCALE, "fwhm_arcsec": 0.8}
    return Population(half_light_radius_arcsec=[0.4, 0.6], flux=[1, 2], psf=psf)


def test_a_missing_package_is_named_before_any_job_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(external, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"populations.p.psf.profile: .*pip install piff"):
        external_files("p", population(str(tmp_path / "a.piff")))
    monkeypatch.setattr(external, "find_spec", lambda name: object())
    with pytest.raises(ConfigError, match=r"populations.p.psf.piff_files: \S+a.piff cannot be read"):
        external_files("p", population(str(tmp_path / "a.piff")))


def test_files_and_profile_are_given_together():
    for psf in ({"profile": "piff"}, {"piff_files": "a.piff"}):
        with pytest.raises(ValueError, match="piff_files: must be given with `profile: piff`"):
            Population(psf=psf)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return a file of a Moffat model without the pixel, and one of two chips of pixels that hold it."""
    piff = pytest.importorskip("piff", reason="needs the package piff")
    rng = np.random.default_rng(1)
    files = []
    for model, chips in ((piff.Moffat(beta=3), [0]), (piff.PixelGrid(scale=SCALE, size=15), [3, 5])):
        wcs = dict.fromkeys(chips, galsim.PixelScale(SCALE))
        stars = []
        for chip in chips:
            for x, y in rng.uniform(100, 900, (8, 2)):
                about = {"wcs": wcs[chip], "stamp_size": 21, "properties": {"chipnum": chip}}
                star = piff.Star.makeTarget(x=x, y=y, **about)
                seen = galsim.Moffat(beta=3, fwhm=0.7 + 1e-4 * x).shear(g1=5e-5 * y, g2=-0.02)
                seen.drawImage(star.image, center=star.image_pos)
                star.data.weight.fill(1e6)
                stars.append(star)
        psf = piff.SimplePSF(model, piff.Polynomial(1))
        if len(chips) > 1:
            psf = piff.SingleChipPSF(psf)
        psf.set_context(wcs, None, None)
        psf.fit(stars)
        files.append(str(tmp_path_factory.mktemp("piff") / "model.piff"))
        psf.write(files[-1])
    return files


def test_stamps_under_a_model_are_those_of_galsim(models):
    import piff

    options = population(*models)
    catalog = sample_catalog(options, "p", "test", 12, 3, SCALE)
    assert set(catalog.psf_index) == {0, 1}
    assert set(catalog[catalog.psf_index == 0].psf_chip) == {0}
    assert set(catalog[catalog.psf_index == 1].psf_chip) == {3, 5}
    assert catalog[["psf_x", "psf_y"]].stack().between(100, 900).all()
    ((images, psfs),) = draw_stamps(catalog, options, (SIDE, SIDE), SCALE)
    for row, image, told in zip(catalog.itertuples(), images, psfs):
        model = piff.read(models[row.psf_index])
        where = {"x": row.psf_x, "y": row.psf_y, "chipnum": row.psf_chip}
        drawn = model.draw(**where, stamp_size=SIDE, center=True).array
        # The image that estimators are told has no frequencies beyond Nyquist.
        np.testing.assert_allclose(told, drawn, atol=2e-3 * drawn.max())
        psf, method = model.get_profile(**where)
        galaxy = galsim.Exponential(half_light_radius=row.hlr, flux=row.flux)
        scene = galsim.Convolve(galaxy.shear(g1=row.g1, g2=row.g2).shift(row.dx, row.dy), psf)
        expected = scene.drawImage(nx=SIDE, ny=SIDE, scale=SCALE, method=method).array
        np.testing.assert_allclose(image, expected, atol=1e-5 * row.flux)


def test_a_model_is_sheared_for_the_leakage(models):
    options = population(models[0])
    catalog = sample_catalog(options, "p", "leakage", 1, 3, SCALE)
    ((_, psfs),) = draw_stamps(catalog, options, (SIDE, SIDE), SCALE)
    found = [galsim.hsm.FindAdaptiveMom(galsim.Image(image)).observed_shape for image in psfs[:4:2]]
    assert found[0].g1 - found[1].g1 == pytest.approx(0.1, abs=5e-3)
    assert found[0].g2 == pytest.approx(found[1].g2, abs=5e-3)


def test_another_file_is_refused(models, tmp_path):
    (tmp_path / "a.piff").write_text("no model")
    with pytest.raises(ConfigError, match="is no model that Piff reads"):
        sample_catalog(population(str(tmp_path / "a.piff")), "p", "test", 4, 3, SCALE)
