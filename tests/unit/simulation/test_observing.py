"""Neighbours, masks and noise that is correlated or varies: stamps, bounds, estimators, trainings."""

from __future__ import annotations

import galsim
import numpy as np
import pytest
import torch
from simulated import make_split, make_splits, train

from shearbench.bounds.cramer_rao import cramer_rao
from shearbench.bounds.fisher import jacobians
from shearbench.config.reading import resolve
from shearbench.data.observing import DEPTHS, Observing, filled
from shearbench.data.shapes import Flag, Shapes
from shearbench.data.stamps import StampBatch
from shearbench.errors import ConfigError
from shearbench.estimators import estimator_presets, make_estimator
from shearbench.measurement.renoising import second_noise
from shearbench.measurement.running import measure_batch, measure_stamps
from shearbench.simulation.catalog import sample_catalog
from shearbench.simulation.galsim_stamps import draw_stamps
from shearbench.simulation.populations import PRESETS, Population
from shearbench.tasks.shear.model_file import load_model, save_model
from shearbench.tasks.shear.observed import draw_masks, observed
from shearbench.tasks.shear.prediction import predict
from shearbench.training.recipe import Recipe
from shearbench.training.variants import resolve_variant

SIDE, SCALE, SEED = 40, 0.2, 5
NEAR = {"fraction": 0.5, "distance_arcsec": [1.5, 2.5], "flux_ratio": [0.5, 0.8]}
ALL = Observing(0.02, 1, 0.6, 0.3)


def sample(split="test", galaxies=6, **changes):
    population = Population(**{**PRESETS["exp_gauss"], **changes})
    return population, sample_catalog(population, "p", split, galaxies, SEED, SCALE)


# Neighbours


def test_galaxies_with_neighbours_are_those_of_galsim():
    population, catalog = sample(neighbours=NEAR, shear_max=0.1)
    ((images, _),) = draw_stamps(catalog, population, (SIDE, SIDE), SCALE)
    assert 0 < (catalog.near_flux > 0).sum() < len(catalog)
    for row, image in zip(catalog.itertuples(), images):
        scene = galsim.Exponential(half_light_radius=row.hlr, flux=row.flux).shear(g1=row.e1, g2=row.e2)
        if row.near_flux:
            assert 0.5 <= row.near_flux / row.flux <= 0.8
            assert 1.5 <= np.hypot(row.near_dx, row.near_dy) <= 2.5
            other = galsim.Exponential(half_light_radius=row.near_hlr, flux=row.near_flux)
            scene += other.shear(g1=row.near_e1, g2=row.near_e2).shift(row.near_dx, row.near_dy)
        # The shear acts on the whole scene.
        scene = scene.shear(g1=row.shear1, g2=row.shear2).shift(row.dx, row.dy)
        scene = galsim.Convolve(scene, galsim.Gaussian(fwhm=0.6))
        expected = scene.drawImage(nx=SIDE, ny=SIDE, scale=SCALE).array
        np.testing.assert_allclose(image, expected, atol=2e-6 * row.flux)


def test_neighbours_change_nothing_else_and_turn_with_their_galaxy():
    _, plain = sample(galaxies=100)
    _, crowded = sample(galaxies=100, neighbours=NEAR)
    assert plain.equals(crowded[list(plain)])
    _, pairs = sample("shear", 3, neighbours={**NEAR, "fraction": 1})
    for _, one in pairs.groupby("pair_id"):
        turned = one.iloc[[0, 8]]
        place = (turned.near_dx + 1j * turned.near_dy).to_numpy()
        shape = (turned.near_e1 + 1j * turned.near_e2).to_numpy()
        np.testing.assert_allclose(place[1], 1j * place[0])
        np.testing.assert_allclose(shape[1], -shape[0])
        assert one.near_flux.nunique() == 1


def test_a_neighbour_outside_the_stamp_is_refused():
    near = {"fraction": 0.1, "distance_arcsec": 9}
    with pytest.raises(ConfigError, match=r"populations\.p\.neighbours\.distance_arcsec: found 9, expected"):
        resolve({"populations": {"p": {"base": "exp_gauss", "neighbours": near}}})
    with pytest.raises(ConfigError, match=r"training.data: 'rendered' needs galaxies .* have neighbours"):
        resolve(
            {
                "populations": {"p": {"base": "exp_gauss", "neighbours": {"fraction": 0.1}}},
                "variants": {"whitened": {"training": {"data": "rendered"}}},
            }
        )


# Noise and masks


def test_noise_masks_and_depths_belong_to_the_noise_of_a_stamp():
    ids = np.array([7, ~7, 12, 7])
    noise = ALL.unit_noise(3, ids, (SIDE, SIDE))
    np.testing.assert_array_equal(noise[0], -noise[1])
    np.testing.assert_array_equal(noise[0], noise[3])
    masks, depths = ALL.masks(3, ids, (SIDE, SIDE)), ALL.depths(3, np.arange(4000))
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()
    assert (masks.all(1).sum(1) >= 1).all()
    assert len(np.unique(depths)) == DEPTHS
    assert np.log(depths).std() == pytest.approx(0.3, rel=0.15)  # the eight quantiles have lighter wings
    assert ALL.masks(4, ids, (SIDE, SIDE))[0].tolist() != masks[0].tolist()
    plain = Observing()
    assert plain.masks(3, ids, (8, 8)) is plain.depths(3, ids) is None
    assert plain.attributes == {}
    assert Observing.of(ALL.attributes) == ALL


def test_correlated_noise_has_its_covariance():
    observing, shape = Observing(correlation=0.6), (7, 9)
    noise = observing.unit_noise(3, np.arange(20000), shape).reshape(20000, -1)
    expected = observing.covariance(shape)
    np.testing.assert_allclose(np.diag(expected), 1, rtol=1e-12)
    np.testing.assert_allclose(np.cov(noise.T), expected, atol=6 / np.sqrt(20000))
    one = torch.randn(2000, 9, 9, generator=torch.Generator().manual_seed(3))
    of_training = observed(torch.zeros(2000, 9, 9), 1.0, one, observing, None)
    centre = of_training[:, 3:6, 3:6].reshape(2000, -1).numpy()
    np.testing.assert_allclose(np.cov(centre.T), observing.covariance((3, 3)), atol=0.12)


def test_masked_pixels_are_filled_alike_in_training_and_measurement():
    disc = galsim.Convolve(galsim.Exponential(half_light_radius=0.7), galsim.Gaussian(fwhm=0.6))
    image = disc.drawImage(nx=SIDE, ny=SIDE, scale=SCALE).array
    images = np.repeat(image[None], 8, 0)
    masks = Observing(0.03, 1).masks(SEED, np.arange(8), (SIDE, SIDE))
    found = filled(np.where(masks, np.float32(1e3), images), masks)
    np.testing.assert_array_equal(found[~masks], images[~masks])
    assert np.abs(found - images).max() < 0.05 * image.max()
    theirs = observed(
        torch.from_numpy(images), 0.0, torch.zeros(8, SIDE, SIDE), Observing(), torch.from_numpy(masks)
    )
    np.testing.assert_allclose(theirs, found, atol=1e-6)
    # Nothing is around the middle of a hole.
    hole = np.zeros((1, SIDE, SIDE), bool)
    hole[0, 10:15, 10:15] = True
    assert np.isnan(filled(images[:1], hole)).sum() == 1
    drawn = draw_masks(Observing(0.1, 2), torch.Size((300, 20, 20)), torch.Generator().manual_seed(1))
    assert (drawn.all(1).sum(1) >= 2).all()
    assert drawn.float().mean() == pytest.approx(0.1 + 0.1 * 0.9, abs=0.01)


@pytest.mark.parametrize(("observing", "profile"), [(Observing(0.05, 1), "exp"), (ALL, "two")])
def test_bounds_are_those_of_the_pixels_that_are_seen(observing, profile):
    shape = (21, 21)
    given = {"profile": "bulge-disc"} if profile == "two" else {}
    _, catalog = sample(galaxies=2, half_light_radius_arcsec=[0.3, 0.4], **given)
    catalog.attrs |= observing.attributes
    bounds = cramer_rao(catalog, SCALE, shape)
    _, slopes, names = jacobians(catalog, SCALE, shape)
    noise_id = catalog.noise_id.to_numpy()
    masks, depths = observing.masks(SEED, noise_id, shape), observing.depths(SEED, noise_id)
    for k in range(2):
        good = ~masks[k].ravel()
        covariance = observing.covariance(shape)[np.ix_(good, good)]
        covariance *= 1 if depths is None else depths[k] ** 2
        seen = slopes[k].reshape(len(names), -1)[:, good]
        error = np.sqrt(np.diag(np.linalg.inv(seen @ np.linalg.solve(covariance, seen.T))))
        assert bounds.crb_g1[k] == pytest.approx(error[names.index("g1")], rel=1e-5)


def test_the_mixture_fit_leaves_masked_pixels_out_and_reaches_the_bound(tmp_path):
    masks, noise = {"fraction": 0.03, "columns": 1}, {"variation": 0.4}
    stamps, catalog = make_split(
        tmp_path, "test", 100, side=SIDE, scale=SCALE, masks=masks, noise=noise, flux=[2, 3]
    )
    sigma, estimator = 1e-3, make_estimator(estimator_presets()["mixture-exp"])
    table = measure_stamps(estimator, stamps, sigma, SEED)
    assert (table.flag == 0).all()
    images = stamps.noiseless()[1]
    bounds = cramer_rao(catalog, SCALE, (SIDE, SIDE), psf_images=images)
    pull = (table.g1 - catalog.g1) / (sigma * bounds.crb_g1)
    assert pull.std() == pytest.approx(1, abs=0.28)
    assert ((table.g1 - catalog.g1) / table.g1_err).std() == pytest.approx(1, abs=0.28)
    slope = np.polyfit(catalog.g1, table.g1 - catalog.g1, 1)[0]
    assert abs(slope) < 4 * np.sqrt(np.mean((sigma * bounds.crb_g1) ** 2) / 100) / catalog.g1.std()
    # The value of a masked pixel does not matter to it; it does to a fit that knows of no mask.
    (batch,) = stamps.batches(sigma, SEED, 20, 0, 20)
    spoilt = np.where(batch.mask, np.float32(0.02), batch.images)
    moved = estimator.measure(next(part for _, part in _replaced(batch, images=spoilt).of_one_noise_level()))
    still = estimator.measure(next(part for _, part in batch.of_one_noise_level()))
    np.testing.assert_allclose(moved.g1, still.g1, atol=1e-3)


@pytest.mark.ngmix
def test_ngmix_leaves_masked_pixels_out_as_the_mixture_fit_does(tmp_path):
    stamps, _ = make_split(
        tmp_path, "test", 6, side=SIDE, scale=SCALE, masks={"fraction": 0.03, "columns": 1}
    )
    presets = estimator_presets()
    ngmix, mixture = (
        measure_stamps(make_estimator(presets[name]), stamps, 1e-3, SEED)
        for name in ("ngmix-exp", "mixture-exp")
    )
    assert (ngmix.flag == 0).all()
    np.testing.assert_allclose(ngmix[["g1", "g2"]], mixture[["g1", "g2"]], atol=1e-4)
    np.testing.assert_allclose(ngmix.g1_err, mixture.g1_err, rtol=2e-3)


def _replaced(batch, **changes):
    return StampBatch(**{**{name: getattr(batch, name) for name in batch.__dataclass_fields__}, **changes})


class _Asked:
    """An estimator that answers with what it was told."""

    kind = "asked"

    def __init__(self, weighs_masks):
        self.weighs_masks = weighs_masks

    def measure(self, batch):
        assert batch.depth is None
        n = len(batch)
        return Shapes(np.zeros(n), np.zeros(n), *np.full((2, n), batch.sigma), np.zeros(n, np.int64))


@pytest.mark.parametrize("weighs", [True, False])
def test_each_stamp_is_measured_with_its_noise_level_and_holes_are_flagged(weighs):
    images = np.ones((4, 9, 9), np.float32)
    mask = np.zeros(images.shape, bool)
    mask[2, 2:7, 2:7] = True
    depth, ids = np.array([1.0, 2.0, 1.0, 2.0]), np.arange(4)
    batch = StampBatch(filled(images, mask), images[0], 0.1, SCALE, ids, ids, mask, depth)
    table = measure_batch(_Asked(weighs), batch, 0).table
    flags = [0, 0, 0 if weighs else int(Flag.BAD_PIXELS), 0]
    assert table.flag.tolist() == flags
    np.testing.assert_allclose(table.g1_err[table.flag == 0], (0.1 * depth)[table.flag == 0])


def test_the_second_noise_is_correlated_as_the_first():
    ids = np.arange(40)
    batch = StampBatch(
        np.zeros((40, 30, 30), np.float32),
        np.zeros((30, 30), np.float32),
        2.0,
        SCALE,
        ids,
        ids,
        correlation=0.8,
    )
    noise = second_noise(batch) / 2
    expected = Observing(correlation=0.8).covariance((1, 3))[0]
    for lag in (0, 1, 2):
        assert (noise[:, :, lag:] * noise[:, :, : 30 - lag]).mean() == pytest.approx(expected[lag], abs=0.08)


def test_a_network_is_trained_with_the_noise_and_masks_of_its_stamps(tmp_path):
    changes = {
        "masks": {"fraction": 0.02, "columns": 1},
        "noise": {"correlation_pixels": 0.6, "variation": 0.3},
    }
    recipe = Recipe(
        data="stored", epochs=1, epoch_stamps=64, batch_size=32, noise=(1e-3, 1e-2), validation_noise=[3e-3]
    )
    variant = resolve_variant("dense", {"options": {}}, recipe)
    splits = make_splits(tmp_path, 64, 32, **changes)
    population = Population(**{**PRESETS["exp_gauss"], **changes})
    content, history = train(*splits, variant, population=population, name="dense", seed=1)
    assert np.isfinite(history.validation_loss).all()
    save_model(tmp_path / "model.pt", content)
    shapes, _ = predict(load_model(tmp_path / "model.pt", "dense"), splits[1], 3e-3, SEED)
    assert (shapes.flag == 0).all()
    assert len(np.unique(shapes.g1_err.round(12))) > 3  # by the noise level of each stamp
