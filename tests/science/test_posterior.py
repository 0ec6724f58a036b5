"""The posterior of shapes: closed forms, the population as prior, and the Bayes floor."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ks_2samp

from shearbench.bounds import bayes_floor as module
from shearbench.bounds.bayes_floor import POSTERIOR, Prior, sample_posterior
from shearbench.bounds.cramer_rao import cramer_rao
from shearbench.data.noise import unit_noise
from shearbench.data.stamps import StampBatch
from shearbench.evaluation.bayes_floor import BAYES_FLOOR, POSTERIOR_MEAN, bayes_floor, bayes_floor_table
from shearbench.figures import accuracy, efficiency
from shearbench.forward_model.fourier import parameter_names
from shearbench.simulation.catalog import sample_catalog
from shearbench.simulation.galsim_stamps import draw_stamps
from shearbench.simulation.populations import PRESETS, Population

SCALE, SHAPE, SEED = 0.2, (48, 48), 5
COLUMNS = ["dx", "dy", "hlr", "g1", "g2"]


class Stamps:
    """Stamps of a catalog in memory, with the interface of a `StampSet`."""

    shape, pixel_scale = SHAPE, SCALE

    def __init__(self, catalog, population):
        ((self.images, self.psf),) = draw_stamps(catalog, population, SHAPE, SCALE, block=len(catalog))
        self.id, self.noise_id = (catalog[name].to_numpy() for name in ("galaxy_id", "noise_id"))

    def __len__(self):
        return len(self.images)

    def batches(self, sigma, seed, size, start, stop):
        for low in range(start, stop, size):
            part = slice(low, min(low + size, stop))
            noisy = self.images[part] + np.float32(sigma) * unit_noise(seed, self.noise_id[part], SHAPE)
            psf = self.psf if self.psf.ndim == 2 else self.psf[part]
            yield StampBatch(noisy, psf, sigma, SCALE, self.id[part], self.noise_id[part])


@pytest.fixture(scope="module")
def setting():
    population = Population(**PRESETS["exp_gauss"])
    catalog = sample_catalog(population, "exp_gauss", "test", 40, SEED, SCALE)
    return population, catalog, Stamps(catalog, population), cramer_rao(catalog, SCALE, SHAPE)


@pytest.mark.parametrize(("guess", "width"), [(0.0, 1.0), (0.5, 0.3), (-1.0, 2.0)])
def test_gaussian_posterior_has_its_closed_form(guess, width):
    """A linear model in three variables with Gaussian noise, from good and bad first proposals."""
    design = torch.tensor([[1.0, 0.3, 0.0], [0.0, 2.0, 0.5], [0.2, 0.0, 3.0]], dtype=torch.float64)
    data = torch.tensor([0.5, 1.0, -1.0], dtype=torch.float64)
    precision = design.mT @ design + torch.eye(3)
    mean = torch.linalg.solve(precision, design.mT @ data)

    def log_likelihood(u):
        return -(data - u @ design.mT).square().sum(1) / 2

    start = mean + guess * torch.ones(3, dtype=torch.float64)
    covariance = width**2 * torch.linalg.inv(precision)
    u, weight = module._sample(log_likelihood, start, covariance, 30000, torch.Generator().manual_seed(1))
    found = weight @ u
    spread = (u - found).mT @ ((u - found) * weight[:, None])
    torch.testing.assert_close(found, mean, rtol=0, atol=0.01)
    torch.testing.assert_close(spread, torch.linalg.inv(precision), rtol=0.05, atol=0.01)
    assert weight.sum() == pytest.approx(1)
    assert 1 / weight.square().sum() > 5000


@pytest.mark.parametrize(
    "options", [{}, {"shear_max": 0.1}, {"shape_sigma": 0.5}, {"profile": "sersic"}, {"flux": 2.0}]
)
def test_prior_is_the_population(options):
    """Normal variables give the distributions of the catalogs, and the map can be inverted."""
    population = Population(**{"profile": "exponential", **options})
    catalog = sample_catalog(population, "p", "test", 20000, 3, SCALE)
    prior = Prior(population, SCALE)
    u = torch.randn(20000, prior.size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    drawn = prior.parameters(u)
    columns = [*COLUMNS, "sersic_n"][: prior.size]
    for column, values in zip(columns, drawn.T.numpy()):
        if column != "sersic_n":  # catalogs have it on a grid
            assert ks_2samp(values, catalog[column]).pvalue > 1e-4, column
    modulus = ks_2samp(np.hypot(*drawn[:, module._G].T.numpy()), np.hypot(catalog["g1"], catalog["g2"]))
    assert modulus.pvalue > 1e-4
    torch.testing.assert_close(prior.parameters(prior.variables(drawn)), drawn, rtol=1e-6, atol=1e-6)
    slopes = torch.autograd.functional.jacobian(prior.parameters, u[0])
    torch.testing.assert_close(prior.derivatives(u[0]), slopes, rtol=1e-6, atol=1e-9)


def test_catalogues_of_galaxies_have_no_density():
    with pytest.raises(ValueError, match="cosmos"):
        Prior(Population(**{**PRESETS["cosmos"], "catalogue_file": "x.fits"}), SCALE)


def test_posterior_is_the_bound_at_low_noise_and_the_prior_at_high(setting):
    population, catalog, stamps, bounds = setting
    table = sample_posterior(stamps, catalog, population, [1e-5, 30.0], 12, 480, SEED)
    assert tuple(table) == POSTERIOR
    low, high = table[table["noise"] == 1e-5], table[table["noise"] == 30.0]
    bound = 1e-5 * bounds[["crb_g1", "crb_g2"]].to_numpy()[:12]
    assert np.median(low[["sd_g1", "sd_g2"]].to_numpy() / bound) == pytest.approx(1, abs=0.03)
    pull = (low[["g1", "g2"]].to_numpy() - catalog[["g1", "g2"]].to_numpy()[:12]) / bound
    assert 0.6 < np.sqrt((pull**2).mean()) < 1.4
    assert (low["mc_g1"] < 0.05 * low["sd_g1"]).all()
    drawn = Prior(population, SCALE).parameters(torch.randn(40000, 5, dtype=torch.float64))
    width = drawn[:, module._G].std()
    assert np.sqrt((high[["sd_g1", "sd_g2"]].to_numpy() ** 2).mean()) == pytest.approx(float(width), rel=0.06)
    assert (high["ess"] > 100).all()


def test_more_samples_and_another_proposal_give_the_same_posterior(setting, monkeypatch):
    population, catalog, stamps, _ = setting
    few = sample_posterior(stamps, catalog, population, [1e-2], 6, 1500, SEED)
    again = sample_posterior(stamps, catalog, population, [1e-2], 6, 1500, SEED)
    assert few.equals(again)
    monkeypatch.setattr(module, "_FREEDOM", 3.0)
    monkeypatch.setattr(module, "_DEFENSIVE", 0.4)
    other = sample_posterior(stamps, catalog, population, [1e-2], 6, 1500, SEED)
    apart = few["g1"] - other["g1"]
    assert (np.abs(apart) < 4 * np.hypot(few["mc_g1"], other["mc_g1"])).all()
    assert (few["mc_g1"] < 0.03 * few["sd_g1"]).all()
    assert (other["sd_g1"] / few["sd_g1"]).mean() == pytest.approx(1, abs=0.05)


def test_a_psf_for_each_galaxy_and_a_sersic_index():
    population = Population(**PRESETS["sersic_moffat"])
    catalog = sample_catalog(population, "sersic_moffat", "test", 3, SEED, SCALE)
    table = sample_posterior(Stamps(catalog, population), catalog, population, [1e-2], 3, 240, SEED)
    bounds = cramer_rao(catalog, SCALE, SHAPE)
    ratio = table[["sd_g1", "sd_g2"]].to_numpy() / (1e-2 * bounds[["crb_g1", "crb_g2"]].to_numpy())
    assert 0.4 < np.median(ratio) < 1.1
    assert parameter_names("sersic")[1:] == ("x", "y", "hlr", "g1", "g2", "n")


def test_table_compares_estimators_on_the_same_galaxies(setting):
    population, catalog, stamps, bounds = setting
    table = sample_posterior(stamps, catalog, population, [1e-2], 40, 240, SEED)
    worse = catalog[["galaxy_id"]].assign(
        g1=table["g1"] + 0.3 * table["sd_g1"], g2=table["g2"], g1_err=0.1, g2_err=0.1, flag=0
    )
    worse.loc[3, "flag"] = 1
    worse.attrs = {"seconds": 1.0, "n": 40, "estimator": "worse", "kind": "toy", "population": "exp_gauss"}
    worse.attrs |= {"split": "test", "sigma": 1e-2, "seed": None}
    found = bayes_floor_table(bayes_floor(table, catalog, bounds, [(worse, "Worse")]))
    assert list(found) == BAYES_FLOOR
    least, row = found.iloc[0], found.iloc[1]
    assert (least["estimator"], least["rmse_over_floor"], least["n"]) == (POSTERIOR_MEAN, 1.0, 40)
    assert least["floor"] == pytest.approx(np.sqrt((table[["sd_g1", "sd_g2"]] ** 2).to_numpy().mean()))
    # the realised error agrees with the floor: 80 residuals
    assert least["rmse"] == pytest.approx(least["floor"], rel=0.35)
    assert least["floor_over_crb"] < 0.95
    assert (row["label"], row["n_failed"]) == ("Worse", 1)
    assert row["rmse_over_floor"] == pytest.approx(1.02, abs=0.15)
    assert row["floor"] == least["floor"]
    level = {"population": "exp_gauss", "noise": 1e-2, "estimator": "worse", "label": "Worse", "kind": "toy"}
    level |= {"seed": -1, "n": 40, "n_failed": 1, "snr": 20.0, "rmse": 0.1, "rmse_err": 0.01, "crb": 0.12}
    level |= {"prior_bound": 0.09, "rmse_over_crb": 0.8, "rmse_over_crb_err": 0.1}
    for figure in (accuracy, efficiency):
        drawn = figure.draw(pd.DataFrame([level]), found)
        names = [text.get_text() for legend in drawn.legends for text in legend.get_texts()]
        assert "Bayes floor" in names
        heights = [float(line.get_ydata()[0]) for axis in drawn.axes for line in axis.lines]
        scale = 1.0 if figure is efficiency else 0.12
        assert any(height == pytest.approx(scale * least["floor_over_crb"]) for height in heights)
