"""PSFs of PSFEx models and telescopes, and PSFs with a mean shape: stamps are those of GalSim."""

from __future__ import annotations

from pathlib import Path

import galsim
import galsim.des
import numpy as np
import pytest
import torch

from shearbench.bounds.cramer_rao import cramer_rao
from shearbench.data.external import external_files, psfex_range
from shearbench.errors import ConfigError
from shearbench.forward_model.fourier import G, Grid, Renderer
from shearbench.simulation.catalog import sample_catalog
from shearbench.simulation.galsim_stamps import draw_stamps
from shearbench.simulation.populations import Population
from shearbench.tasks.shear.data import Rendered

MODEL = str(Path(__file__).parents[2] / "data/psfex/superbit_cut.psf")
SIDE, SCALE = 53, 0.141
PSFEX = {"profile": "psfex", "psfex_files": MODEL, "image_pixel_scale_arcsec": SCALE, "fwhm_arcsec": 0.4}
TELESCOPE = {
    "diffraction_arcsec": 0.2,
    "jitter_fwhm_arcsec": 0.25,
    "obscuration": 0.3,
    "struts": 4,
    "defocus": 0.1,
    "astigmatism": [0.05, 0.0],
    "coma": [0.0, 0.04],
    "trefoil": [0.02, 0.0],
    "spherical": 0.03,
}


def population(psf, **changes):
    sizes = {"half_light_radius_arcsec": [0.4, 0.7], "flux": [1, 2]}
    return Population(**{"profile": "exponential", **sizes, "psf": psf, **changes})


def drawn(options, split="test", galaxies=4, shape=(SIDE, SIDE), **given):
    catalog = sample_catalog(options, "p", split, galaxies, 3, SCALE, **given)
    parts = list(draw_stamps(catalog, options, shape, SCALE))
    psfs = [part[1] for part in parts]
    images = np.concatenate([part[0] for part in parts])
    return catalog, images, psfs[0] if psfs[0].ndim == 2 else np.concatenate(psfs)


def galaxy(row):
    disc = galsim.Exponential(half_light_radius=row.hlr, flux=row.flux)
    return disc.shear(g1=row.g1, g2=row.g2).shift(row.dx, row.dy)


def band_limited(psf, pixel=None):
    """Return the samples of a PSF without its frequencies beyond Nyquist, from an image of fine pixels."""
    fine, seen = 3, psf if pixel is None else galsim.Convolve(psf, pixel)
    image = seen.drawImage(nx=SIDE * fine, ny=SIDE * fine, scale=SCALE / fine, method="no_pixel", dtype=float)
    transform = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image.array)))
    low = (SIDE * fine - SIDE) // 2
    kept = transform[low : low + SIDE, low : low + SIDE]
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kept))).real


def test_stamps_under_a_psfex_model_are_those_of_galsim():
    catalog, images, psfs = drawn(population(PSFEX))
    model = galsim.des.DES_PSFEx(MODEL)
    for row, image, told in zip(catalog.itertuples(), images, psfs):
        psf = model.getPSF(galsim.PositionD(row.psf_x, row.psf_y)).dilate(SCALE)
        scene = galsim.Convolve(galaxy(row), psf)
        expected = scene.drawImage(nx=SIDE, ny=SIDE, scale=SCALE, method="no_pixel").array
        np.testing.assert_allclose(image, expected, atol=1e-6 * row.flux)
        np.testing.assert_allclose(told, band_limited(psf), atol=1e-4)
    assert len(np.unique(psfs, axis=0)) == len(psfs)


def test_positions_are_within_the_fit_of_their_model():
    table = sample_catalog(population(PSFEX | {"psfex_margin_pixels": 200}), "p", "test", 5000, 3, SCALE)
    (x_low, x_high), (y_low, y_high) = psfex_range("psf", MODEL, 200)
    assert (round(x_low), round(y_high)) == (233, 6184)
    assert table.psf_x.between(x_low, x_high).all()
    assert table.psf_y.between(y_low, y_high).all()
    assert table.psf_x.max() - table.psf_x.min() > 0.99 * (x_high - x_low)
    assert set(table.psf_index) == {0}


def test_a_psfex_model_is_sheared_for_the_leakage():
    catalog, _, psfs = drawn(population(PSFEX), "leakage", 1)
    row = catalog.iloc[2]
    psf = galsim.des.DES_PSFEx(MODEL).getPSF(galsim.PositionD(row.psf_x, row.psf_y)).dilate(SCALE)
    expected = band_limited(psf.shear(g1=row.psf_shear1, g2=row.psf_shear2))
    np.testing.assert_allclose(psfs[2], expected, atol=1e-4)


def test_stamps_under_a_telescope_are_those_of_galsim():
    psf = {"profile": "optical", "optical": TELESCOPE, "shape_mean": [0.03, -0.02], "fwhm_arcsec": 0.5}
    assert population(psf).psf.constant
    catalog, images, psfs = drawn(population(psf | {"shape_sigma": 0.02}), galaxies=2)
    telescope = galsim.OpticalPSF(
        lam_over_diam=0.2,
        obscuration=0.3,
        nstruts=4,
        strut_thick=0.02,
        defocus=0.1,
        astig1=0.05,
        coma2=0.04,
        trefoil1=0.02,
        spher=0.03,
    )
    row = catalog.iloc[1]
    seen = galsim.Convolve(telescope, galsim.Gaussian(fwhm=0.25)).shear(g1=row.psf_g1, g2=row.psf_g2)
    expected = galsim.Convolve(galaxy(row), seen).drawImage(nx=SIDE, ny=SIDE, scale=SCALE).array
    np.testing.assert_allclose(images[1], expected, atol=1e-6 * row.flux)
    # Light beyond the edge of the fine image comes back in on its other side.
    np.testing.assert_allclose(psfs[1], band_limited(seen, galsim.Pixel(SCALE)), atol=1e-4)


@pytest.mark.parametrize("psf", [PSFEX, {"profile": "optical", "optical": TELESCOPE, "fwhm_arcsec": 0.5}])
def test_forward_model_and_bound_know_these_psfs_from_their_images(psf):
    catalog, images, psfs = drawn(population(psf), galaxies=12)
    assert catalog.attrs["psf"]["profile"] == "image"
    renderer = Renderer("exponential", (SIDE, SIDE), SCALE, Grid(96, 1.0), torch.float64)
    columns = ["flux", "dx", "dy", "hlr", "g1", "g2"]
    parameters = torch.from_numpy(catalog[columns].to_numpy(copy=True))
    known, stamps = renderer.psf_image(torch.from_numpy(psfs)), torch.from_numpy(images).double()
    expected = renderer(parameters, known).numpy()
    # A telescope's light beyond the edge of the stamp is missing in its image.
    assert np.abs(images - expected).max() < 1e-3 * images.max()
    sigma = 1e-3
    bounds = cramer_rao(catalog, SCALE, (SIDE, SIDE), psf_images=psfs)
    noisy = stamps + sigma * torch.from_numpy(np.random.default_rng(5).standard_normal(images.shape))
    pulls = []
    for data in (stamps, noisy):
        fit = parameters.clone()
        for _ in range(3):
            matrix, force = renderer.normal_equations(fit, known, data)
            fit += torch.linalg.solve(matrix, force)
        away = (fit - parameters)[:, G].numpy()
        pulls.append(np.sqrt(np.mean((away / (sigma * bounds[["crb_g1", "crb_g2"]].to_numpy())) ** 2)))
    assert pulls[0] < 0.1  # S/N of hundreds: the forward model is exact to a tenth of the noise
    assert 0.6 < pulls[1] < 1.5  # 24 shapes


def test_new_galaxies_are_rendered_under_the_psfs_of_the_stored_ones():
    options = population(PSFEX, half_light_radius_arcsec=[0.4, 0.41], flux=[1, 1.0001])
    side = 25
    catalog, _, psfs = drawn(options, "train", 3, (side, side))
    source = Rendered(options, "p", catalog, torch.from_numpy(psfs), SCALE, ("g1", "g2"), 8, [1])
    source.start(0)
    images, told, truth, *_ = source.take(slice(0, 8))
    assert images.shape == told.shape == (8, side, side)
    assert truth.shape == (8, 2)
    same = [(told == one).all((1, 2)) for one in torch.from_numpy(psfs)]
    assert torch.stack(same).any(0).all()
    renderer = Renderer("exponential", (side, side), SCALE, Grid(96, 1.0))
    expected = renderer(source.parameters[0], renderer.psf_image(told))
    torch.testing.assert_close(images, expected, atol=3e-6, rtol=0)


def test_a_mean_shape_moves_all_psfs_and_changes_no_other_number():
    moffat = {"profile": "moffat", "fwhm_arcsec": [0.5, 0.6], "shape_sigma": 0.02}
    plain, moved = (
        sample_catalog(population(psf), "p", "test", 500, 3, 0.2)
        for psf in (moffat, moffat | {"shape_mean": [0.05, -0.01]})
    )
    np.testing.assert_array_equal(moved.psf_g1, plain.psf_g1 + 0.05)
    np.testing.assert_array_equal(moved.psf_g2, plain.psf_g2 - 0.01)
    others = [column for column in plain if column not in ("psf_g1", "psf_g2")]
    assert plain[others].equals(moved[others])


def test_psfex_files_that_cannot_be_used_are_named_before_any_job(tmp_path):
    assert external_files("p", population(PSFEX)) == [MODEL]
    with pytest.raises(ConfigError, match=r"populations\.p\.psf\.psfex_files: no\.psf cannot be read"):
        external_files("p", population(PSFEX | {"psfex_files": [MODEL, "no.psf"]}))
    with pytest.raises(ConfigError, match="leaves none"):
        external_files("p", population(PSFEX | {"psfex_margin_pixels": 4000}))
    fits, path = galsim.fits.pyfits, tmp_path / "other.psf"
    with fits.open(MODEL) as hdus:
        for key, value in (("POLNGRP", 2), ("POLNAME1", "MAG_AUTO"), ("PSFAXIS3", 7)):
            changed = fits.HDUList([hdu.copy() for hdu in hdus])
            changed[1].header[key] = value
            changed.writeto(path, overwrite=True)
            with pytest.raises(ConfigError, match=r"other\.psf is no PSFEx model that GalSim reads"):
                external_files("p", population(PSFEX | {"psfex_files": str(path)}))
    with pytest.raises(ConfigError, match="no PSFEx model"):
        external_files("p", population(PSFEX | {"psfex_files": str(Path(__file__))}))
