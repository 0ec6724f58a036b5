"""Fisher matrices compared with GalSim images, and bounds compared with the scatter of fits."""

import galsim
import numpy as np
import pandas as pd
import pytest
import torch
from simulated import PRECISE, precise_galaxy

from shearbench.bounds.cramer_rao import cramer_rao, marginal_variance, prior_limited, read_bounds
from shearbench.bounds.fisher import fisher
from shearbench.data.catalogs import PARAMETER_COLUMNS
from shearbench.errors import ContractError
from shearbench.files.tables import write_table
from shearbench.forward_model.fourier import G, Grid, Renderer

SHAPE, SCALE = (48, 48), 0.2
GAUSSIAN = {"profile": "gaussian"}
MOFFAT = {"profile": "moffat", "beta": 2.5}


def catalog(profile, psf, count, seed, elliptical=False):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "galaxy_id": np.arange(count),
            "flux": rng.uniform(0.5, 5, count),
            "dx": rng.uniform(-0.1, 0.1, count),
            "dy": rng.uniform(-0.1, 0.1, count),
            "hlr": rng.uniform(0.5, 1.2, count),
            "g1": rng.uniform(-0.3, 0.3, count),
            "g2": rng.uniform(-0.3, 0.3, count),
            "sersic_n": {"gaussian": 0.5, "exponential": 1.0}.get(profile, rng.uniform(0.7, 3.5, count)),
            "profile": profile,
            "psf_fwhm": rng.uniform(0.6, 0.9, count) if elliptical else 0.6,
            "psf_g1": rng.uniform(-0.06, 0.06, count) if elliptical else 0.0,
            "psf_g2": rng.uniform(-0.06, 0.06, count) if elliptical else 0.0,
        }
    )
    table.attrs = {"psf": psf, "population": "p", "split": "test", "digest": "d"}
    return table


def galsim_image(row, psf):
    parameters = (row.flux, row.dx, row.dy, row.hlr, row.g1, row.g2, row.sersic_n)
    galaxy = precise_galaxy(row.profile, *parameters)
    blur = (
        galsim.Gaussian(fwhm=row.psf_fwhm, gsparams=PRECISE)
        if psf["profile"] == "gaussian"
        else galsim.Moffat(psf["beta"], fwhm=row.psf_fwhm, gsparams=PRECISE)
    ).shear(g1=row.psf_g1, g2=row.psf_g2)
    scene = galsim.Convolve(galaxy, blur, gsparams=PRECISE)
    return scene.drawImage(nx=48, ny=48, scale=SCALE, dtype=float).array


def difference_fisher(row, psf, names):
    """Return the Fisher matrix from fourth-order finite differences of GalSim images."""
    step, derivatives = 0.01, []
    for name in names:

        def moved(by, column=PARAMETER_COLUMNS[name]):
            return galsim_image(row._replace(**{column: getattr(row, column) + by}), psf).ravel()

        near, far = moved(step) - moved(-step), moved(2 * step) - moved(-2 * step)
        derivatives.append((8 * near - far) / (12 * step))
    return np.array(derivatives) @ np.array(derivatives).T


@pytest.mark.parametrize(
    ("profile", "psf", "elliptical", "count"),
    [
        ("gaussian", GAUSSIAN, False, 3),
        ("exponential", GAUSSIAN, False, 3),
        ("exponential", MOFFAT, True, 3),
        ("sersic", MOFFAT, True, 1),
        pytest.param("sersic", MOFFAT, True, 8, marks=pytest.mark.slow),
    ],
)
def test_fisher_matrices_are_those_of_galsims_images(profile, psf, elliptical, count):
    galaxies = catalog(profile, psf, count, seed=3, elliptical=elliptical)
    matrices, names = fisher(galaxies, SCALE, SHAPE)
    assert names == ("flux", "x", "y", "hlr", "g1", "g2", "n")[: 7 if profile == "sersic" else 6]
    for row, matrix in zip(galaxies.itertuples(index=False), matrices):
        expected = difference_fisher(row, psf, names)
        scale = np.sqrt(np.diag(expected))
        assert np.abs((matrix - expected) / np.outer(scale, scale)).max() < 1e-4
        bound, other = marginal_variance(np.stack([matrix, expected]))[:, G]
        np.testing.assert_allclose(np.sqrt(bound), np.sqrt(other), rtol=1e-4)


@pytest.mark.parametrize("profile", ["gaussian", "exponential"])
def test_maximum_likelihood_scatters_as_the_bound_says(profile):
    galaxies, realisations, sigma = catalog(profile, GAUSSIAN, 16, seed=2), 128, 1e-4
    bounds = cramer_rao(galaxies, SCALE, SHAPE)[["crb_g1", "crb_g2"]].to_numpy()
    renderer = Renderer(profile, SHAPE, SCALE, Grid(96, 1.0625), torch.float64)
    psf = renderer.psf(GAUSSIAN, 0.6)
    columns = [PARAMETER_COLUMNS[name] for name in renderer.names]
    generator = torch.Generator().manual_seed(3)
    pulls, steps = [], []
    for values, bound in zip(galaxies[columns].to_numpy(np.float64), bounds):
        truth = torch.tensor(values).repeat(realisations, 1)
        noise = torch.randn(realisations, *SHAPE, dtype=torch.float64, generator=generator)
        data, fit = renderer(truth, psf) + sigma * noise, truth
        for _ in range(3):
            model, derivatives = renderer.jacobian(fit, psf)
            j = derivatives.flatten(2)
            step = torch.linalg.solve(j @ j.mT, j @ (data - model).flatten(1)[:, :, None])[:, :, 0]
            fit = fit + step
        pulls.append((fit - truth)[:, G].numpy() / (sigma * bound))
        steps.append(step[:, G].numpy() / (sigma * bound))
    assert np.abs(steps).max() < 1e-2  # the fits have converged
    # 4,096 pulls: their standard deviation is known to 1.1%, their mean to 1.6%.
    assert abs(np.std(pulls) - 1) < 0.035
    assert abs(np.mean(pulls)) < 0.05


def test_bounds_keep_their_contract(tmp_path):
    galaxies = pd.concat(
        [
            catalog("exponential", MOFFAT, 3, seed=4),
            catalog("sersic", MOFFAT, 3, seed=5),
            catalog("real", MOFFAT, 3, seed=5),
        ],
        ignore_index=True,
    )
    galaxies["galaxy_id"] = np.arange(9)
    galaxies.attrs = catalog("sersic", MOFFAT, 1, seed=5).attrs
    bounds = cramer_rao(galaxies, SCALE, SHAPE)
    assert bounds.attrs == {
        "population": "p",
        "split": "test",
        "digest": "d",
        "parameters": ["flux", "x", "y", "hlr", "g1", "g2", "n"],
    }
    assert len(bounds.columns) == 4 + 28
    assert bounds.loc[:2, "F_n_n"].isna().all()
    assert bounds.drop(columns=[name for name in bounds if name.endswith("_n")]).notna().all(axis=None)
    # A real galaxy has the bound of its Sersic parameters.
    pd.testing.assert_frame_equal(
        bounds.iloc[3:6].drop(columns="galaxy_id").reset_index(drop=True),
        bounds.iloc[6:].drop(columns="galaxy_id").reset_index(drop=True),
        rtol=1e-6,
    )
    image = galsim_image(next(galaxies.iloc[4:5].itertuples(index=False)), MOFFAT)
    assert bounds["snr"][4] == pytest.approx(np.sqrt((image**2).sum()), rel=1e-5)

    path = tmp_path / "bounds.parquet"
    write_table(path, bounds, bounds.attrs)
    pd.testing.assert_frame_equal(read_bounds(path), bounds)
    write_table(path, bounds.drop(columns="F_x_hlr"), bounds.attrs)
    with pytest.raises(ContractError, match="column 'F_x_hlr'"):
        read_bounds(path)


def test_bounds_follow_the_symmetries_of_the_problem():
    galaxies = catalog("exponential", GAUSSIAN, 20, seed=6)
    bounds = cramer_rao(galaxies, SCALE, SHAPE)
    brighter = cramer_rao(galaxies.assign(flux=3 * galaxies["flux"]), SCALE, SHAPE)
    np.testing.assert_allclose(brighter["crb_g1"], bounds["crb_g1"] / 3, rtol=1e-5)
    turned = galaxies.assign(g1=-galaxies["g1"], g2=-galaxies["g2"], dx=-galaxies["dy"], dy=galaxies["dx"])
    np.testing.assert_allclose(cramer_rao(turned, SCALE, SHAPE)["crb_g2"], bounds["crb_g2"], rtol=1e-5)
    # A Sersic index to be found as well can only make the shape less certain.
    freer = cramer_rao(galaxies.assign(profile="sersic"), SCALE, SHAPE)
    assert (freer["crb_g1"] >= bounds["crb_g1"] * (1 - 1e-5)).all()


def test_psf_images_give_the_bounds_of_the_psf_they_show():
    galaxies = catalog("exponential", GAUSSIAN, 6, seed=7).assign(psf_fwhm=[0.9, 1.0] * 3)
    expected = cramer_rao(galaxies, SCALE, SHAPE)
    stamps = [
        galsim.Gaussian(fwhm=w).drawImage(nx=48, ny=48, scale=SCALE).array for w in galaxies["psf_fwhm"]
    ]
    galaxies.attrs["psf"] = {"profile": "image"}
    bounds = cramer_rao(galaxies, SCALE, SHAPE, psf_images=np.stack(stamps))
    np.testing.assert_allclose(bounds["crb_g1"], expected["crb_g1"], rtol=1e-5)
    one = galaxies[galaxies["psf_fwhm"] == 0.9]
    np.testing.assert_allclose(
        cramer_rao(one, SCALE, SHAPE, {"profile": "image"}, stamps[0])["crb_g2"],
        expected["crb_g2"][::2],
        rtol=1e-5,
    )
    with pytest.raises(ValueError, match="psf_images was not given"):
        cramer_rao(galaxies, SCALE, SHAPE)
    with pytest.raises(ValueError, match=r"expected \(ny, nx\) or \(6, ny, nx\)"):
        cramer_rao(galaxies, SCALE, SHAPE, psf_images=np.stack(stamps[:2]))


def test_catalogs_without_a_bound_are_refused():
    galaxies = catalog("exponential", GAUSSIAN, 2, seed=8)
    with pytest.raises(ValueError, match="unknown profile 'spiral'"):
        fisher(galaxies.assign(profile="spiral"), SCALE, SHAPE)
    with pytest.raises(ValueError, match="hlr > 0"):
        fisher(galaxies.assign(g1=1.0), SCALE, SHAPE)
    galaxies.attrs = {}
    with pytest.raises(ValueError, match="no attribute 'psf'"):
        fisher(galaxies, SCALE, SHAPE)


def test_a_singular_matrix_has_no_bound_and_spoils_no_other():
    good = np.diag([1.0, 4.0, 9.0])
    good[0, 1] = good[1, 0] = 1.0
    singular = np.diag([1.0, 0.0, 9.0])
    absent = np.full((3, 3), np.nan)
    absent[:2, :2] = good[:2, :2]
    variance = marginal_variance(np.stack([good, singular, absent]))
    np.testing.assert_allclose(variance[0], np.diag(np.linalg.inv(good)))
    assert np.isnan(variance[1]).all()
    np.testing.assert_allclose(variance[2], [*np.diag(np.linalg.inv(good[:2, :2])), np.nan])


def test_the_prior_limits_noisy_shapes_and_leaves_precise_ones_alone():
    galaxies = catalog("sersic", MOFFAT, 40, seed=9)
    bounds = cramer_rao(galaxies, SCALE, SHAPE)
    levels = np.array([1e-6, 1e-3, 1e-1, 1e3])
    limited = prior_limited(bounds, galaxies, levels)
    assert limited.shape == (4, 40, 2)
    plain = levels[:, None, None] * bounds[["crb_g1", "crb_g2"]].to_numpy()
    assert (limited <= plain * (1 + 1e-9)).all()
    assert (np.diff(limited, axis=0) > 0).all()
    np.testing.assert_allclose(limited[0], plain[0], rtol=1e-4)
    spread = galaxies[["g1", "g2"]].std(ddof=0).to_numpy()
    np.testing.assert_allclose(limited[-1], np.broadcast_to(spread, (40, 2)), rtol=1e-4)
    np.testing.assert_array_equal(prior_limited(bounds, galaxies, 1e-3), limited[1])
    # The textbook form, for one galaxy.
    names = bounds.attrs["parameters"]
    matrix = fisher(galaxies, SCALE, SHAPE)[0][0] / 1e-2
    variance = galaxies[[PARAMETER_COLUMNS[name] for name in names]].var(ddof=0).to_numpy()
    expected = np.sqrt(np.diag(np.linalg.inv(matrix + np.diag(1 / variance))))[G]
    np.testing.assert_allclose(limited[2, 0], expected, rtol=1e-6)
    # A parameter that is the same for all is a known one.
    fixed = prior_limited(bounds, galaxies.assign(hlr=0.8), 1e-1)
    assert (fixed <= limited[2] * (1 + 1e-9)).all()


@pytest.mark.slow
def test_prior_limited_scatter_of_a_linear_gaussian_world():
    # Where it claims to be exact: a linear image, Gaussian parameters, the posterior mean as estimator.
    galaxies = catalog("gaussian", GAUSSIAN, 1, seed=10)
    bounds = cramer_rao(galaxies, SCALE, SHAPE)
    population = catalog("gaussian", GAUSSIAN, 500, seed=11)
    renderer = Renderer("gaussian", SHAPE, SCALE, Grid(96), torch.float64)
    row = torch.tensor(galaxies[[PARAMETER_COLUMNS[name] for name in renderer.names]].to_numpy(np.float64))
    j = renderer.jacobian(row, renderer.psf(GAUSSIAN, 0.6))[1][0].flatten(1).numpy()
    spread = population[[PARAMETER_COLUMNS[name] for name in renderer.names]].std(ddof=0).to_numpy()
    rng = np.random.default_rng(12)
    sigma = 0.05
    truth = spread * rng.standard_normal((20_000, 6))
    data = truth @ j + sigma * rng.standard_normal((20_000, j.shape[1]))
    posterior = np.linalg.inv(j @ j.T / sigma**2 + np.diag(spread**-2.0))
    estimate = data @ j.T @ posterior / sigma**2
    rms = np.sqrt(np.mean((estimate - truth)[:, G] ** 2, axis=0))
    np.testing.assert_allclose(rms, prior_limited(bounds, population, sigma)[0], rtol=0.03)
