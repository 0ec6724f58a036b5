"""The committee that corrects a network: its loss, its cases, what it removes, and its file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from astropy.table import Table

from shearbench.config.reading import resolve
from shearbench.data.observing import Observing
from shearbench.data.stamps import StampBatch
from shearbench.errors import ConfigError, ContractError, ShearbenchError
from shearbench.estimators import make_estimator
from shearbench.measurement.calibrated import measure_with
from shearbench.measurement.trained_network import NetworkMeasurer
from shearbench.networks import architecture_kinds
from shearbench.simulation.cases import ROTATIONS, SHEARS, sample_cases
from shearbench.simulation.catalog import sample_catalog
from shearbench.simulation.galsim_stamps import draw_stamps
from shearbench.simulation.populations import PRESETS, SPLITS, Population
from shearbench.tasks.shear import calibration
from shearbench.tasks.shear.calibration import Answers, Committee, calibrate, fit_member, msb
from shearbench.tasks.shear.model_file import TrainedNetwork, load_model, model_content
from shearbench.tasks.shear.network import Answer, ShearNetwork
from shearbench.training.checkpoint import Checkpoint, load, save
from shearbench.training.recipe import Recipe
from shearbench.training.variants import resolve_variant

CPU = torch.device("cpu")
SIDE, SCALE = 24, 0.3


def test_the_loss_is_the_squared_bias_of_the_mean_over_realisations():
    rng = np.random.default_rng(1)
    truth, estimates = rng.normal(0, 0.05, 7), rng.normal(0.1, 1, (7, 5))
    direct = sum((sum(of_case) / 5 - true) ** 2 for of_case, true in zip(estimates, truth)) / 7
    assert float(msb(torch.from_numpy(estimates), torch.from_numpy(truth))) == pytest.approx(
        direct, rel=1e-12
    )
    scatter = np.tile([1.0, -1.0], 3)  # which does not count
    assert float(msb(torch.from_numpy(truth[:, None] + scatter), torch.from_numpy(truth))) < 1e-30


# What a committee removes


def invented(galaxies, realisations, seed):
    """Return answers that are too small where the noise is large, and not linear in the shape."""
    rng = np.random.default_rng(seed)
    modulus, turn, phase = np.sqrt(rng.random((2, galaxies))), *np.exp(2j * np.pi * rng.random((2, galaxies)))
    shear = 0.1 * (modulus[0] * turn)[:, None] * np.array([1, -1, 1j, -1j])
    own = 0.4 * (modulus[1] * phase)[:, None] * np.exp(2j * np.pi * np.arange(ROTATIONS) / ROTATIONS)
    own, applied = own[:, None], shear[:, :, None]
    shape = (own + applied) / (1 + np.conj(applied) * own)
    snr = 10 ** rng.uniform(1, 2, (galaxies, 1, 1, 1, 1))
    noise = rng.standard_normal((2, galaxies, 1, realisations, ROTATIONS, 1))
    noisy = shape[:, :, None, :, None] + 1.5 / snr * (noise[0] + 1j * noise[1]) * np.array([1, -1])
    answer = snr**2 / (snr**2 + 200) * noisy * (1 - 0.3 * np.abs(noisy) ** 2) + 0.05 / snr
    answer = answer.reshape(galaxies, SHEARS, realisations, 2 * ROTATIONS)
    level = np.broadcast_to(np.log10(snr)[..., 0], answer.shape)
    parts = [answer.real, answer.imag, level + 0.02 * rng.standard_normal(answer.shape), -level]
    values = torch.from_numpy(np.stack(parts, -1).astype(np.float32))
    shapes = torch.from_numpy(np.stack([shape.real, shape.imag], -1).repeat(2, 2))
    truth = torch.from_numpy(np.stack([shear.real, shear.imag], -1))
    return Answers(values, torch.ones(*answer.shape, 2), shapes, truth, torch.from_numpy(1 / snr.ravel()))


def bias_of(estimates, truth):
    """Return m and c of mean estimates of shears."""
    m, c = np.polyfit(truth.flatten().numpy(), (estimates - truth).flatten().numpy(), 1)
    return m, c


def test_a_committee_removes_a_bias_that_depends_on_noise_and_shape():
    given, other = invented(96, 3, 1), invented(128, 6, 2)
    committee = Committee(4, [5, 5], 1)
    training, validation = given.of(slice(24, None)), given.of(slice(24))
    committee.fit_scaling(training.values.flatten(0, -2))
    for number in range(2):
        row = fit_member(committee, number, training, validation, 60)
        assert (row["member"], row["component"]) == (1, number + 1)
        assert row["validation_msb"] < 0.2 * row["uncorrected_msb"]
    with torch.no_grad():
        corrected = committee(other.values.flatten(0, -2))[0].unflatten(0, other.values.shape[:-1])
    for component in range(2):
        truth = other.shear[..., component]
        before = bias_of(other.values[..., component].double().mean((2, 3)), truth)
        after = bias_of(corrected[..., component].mean((2, 3)), truth)
        assert before[0] < -0.1
        assert abs(after[0]) < 0.3 * abs(before[0])
    assert abs(bias_of(corrected[..., 0].mean((2, 3)), other.shear[..., 0])[1]) < 1e-3


def test_before_the_training_a_committee_changes_nothing_and_its_inputs_are_limited():
    values = invented(8, 2, 3).values.flatten(0, -2)
    committee = Committee(4, [5], 3, seed=1)
    assert torch.equal(committee(values), values[:, :2].double().expand(3, -1, -1))
    starts = [one[0].weight for one in committee.perceptrons]
    assert len(starts) == 6
    assert not torch.equal(starts[0], starts[2]), "members start from other weights"
    committee.fit_scaling(values)
    far = values.clone()
    far[:, 3] += 100  # noisier than all cases
    highest = values.clone()
    highest[:, 3] = values[:, 3].max()
    assert torch.equal(committee.scaled(far), committee.scaled(highest))


# Cases


def cases_of(population="exp_gauss", galaxies=6, realisations=2, **changes):
    options = Population(**{**PRESETS[population], **changes})
    return options, sample_cases(options, population, galaxies, realisations, (1e-4, 1e-2), 0.1, 5, SCALE)


def test_a_case_has_one_galaxy_and_its_mean_shape_is_the_shear():
    _, cases = cases_of(galaxies=50)
    rows = cases.catalog[["hlr", "flux", "psf_fwhm"]].to_numpy().reshape(50, ROTATIONS * SHEARS, -1)
    assert (rows == rows[:, :1]).all()
    assert len(np.unique(rows[:, 0, 0])) == 50
    shapes = cases.catalog[["g1", "g2"]].to_numpy().reshape(50, ROTATIONS, SHEARS, 2)
    np.testing.assert_allclose(shapes.mean(1), cases.shear, atol=1e-4)
    assert np.hypot(*cases.shear.T).max() <= 0.1
    np.testing.assert_allclose(cases.shear.sum(1), 0, atol=1e-15)
    assert cases.sigma.min() >= 1e-4
    assert cases.sigma.max() <= 1e-2
    again = cases_of(galaxies=50)[1]
    assert again.catalog.equals(cases.catalog)
    assert np.array_equal(again.sigma, cases.sigma)


def test_cases_have_no_galaxy_and_no_noise_of_a_split(tmp_path):
    options, cases = cases_of(galaxies=50)
    splits = {split: sample_catalog(options, "exp_gauss", split, 200, 5, SCALE) for split in SPLITS}
    for table in splits.values():
        assert not set(table["hlr"]) & set(cases.catalog["hlr"])
        ids = table["noise_id"].to_numpy()
        assert not set(np.maximum(ids, ~ids)) & set(cases.noise_id.ravel())
    # The galaxies of a finite catalogue are those of the training.
    rng = np.random.default_rng(2)
    Table({"HLR": rng.uniform(0.4, 0.9, 60)}).write(tmp_path / "galaxies.fits")
    of_file = {
        "catalogue_file": str(tmp_path / "galaxies.fits"),
        "catalogue_columns": {"half_light_radius": "HLR"},
    }
    options, cases = cases_of(galaxies=300, half_light_radius_arcsec=[0.4, 1], **of_file)
    rows = {
        split: set(sample_catalog(options, "exp_gauss", split, 300, 5, SCALE)["catalogue_row"])
        for split in ("train", "validation", "test", "shear")
    }
    assert set(cases.catalog["catalogue_row"]) == rows.pop("train")
    assert not set(cases.catalog["catalogue_row"]) & set.union(*rows.values())


class TwoPixels:
    """A network whose answers are two pixels of a stamp, and whose S/N is its noise."""

    mean, median_flux, targets, per_galaxy_psf = torch.zeros(1), torch.ones(()), ("g1", "g2"), True

    def __call__(self, images, psf, sigma):
        pixels = torch.stack([images[:, 3, 4], psf[:, 12, 12]], 1)
        return Answer(pixels, torch.ones_like(pixels), sigma, torch.zeros_like(pixels), None)


@pytest.mark.parametrize("noise", [{}, {"variation": 0.3, "correlation_pixels": 0.7}])
def test_a_stamp_has_the_noise_of_its_number_with_both_signs_and_under_all_shears(noise, monkeypatch):
    monkeypatch.setattr(calibration, "_STAMPS", 50)
    varying = {"psf": {**PRESETS["exp_gauss"].get("psf", {}), "fwhm_arcsec": [0.6, 0.9]}, "noise": noise}
    options, cases = cases_of(galaxies=4, **varying)
    found = calibration.answers_for(TwoPixels(), cases, slice(1, 4), options, (SIDE, SIDE), SCALE, 5)
    assert found.values.shape == (3, SHEARS, 2, 2 * ROTATIONS, 4)
    pixel = found.values[..., 0].unflatten(3, (ROTATIONS, 2)).numpy()
    drawn = [
        np.concatenate(part)
        for part in zip(*draw_stamps(cases.rows(slice(1, 4)), options, (SIDE, SIDE), SCALE))
    ]
    noiseless, seen = (part.reshape(3, ROTATIONS, SHEARS, SIDE, SIDE).swapaxes(1, 2) for part in drawn)
    np.testing.assert_allclose(pixel.mean(-1), np.repeat(noiseless[:, :, None, :, 3, 4], 2, 2), atol=1e-8)
    np.testing.assert_array_equal(found.values[:, :, 0, ::2, 1], seen[:, :, :, 12, 12])
    assert not np.array_equal(seen[0], seen[1])
    observing = Observing(
        correlation=noise.get("correlation_pixels", 0.0), variation=noise.get("variation", 0.0)
    )
    ids = cases.noise_id[1:].ravel()
    depth = observing.depths(5, ids)
    level = np.repeat(cases.sigma[1:], ROTATIONS * 2) * (1 if depth is None else depth)
    own = (
        (level * observing.unit_noise(5, ids, (SIDE, SIDE))[:, 3, 4])
        .reshape(3, 1, ROTATIONS, 2)
        .swapaxes(2, 3)
    )
    half = (pixel[..., 0] - pixel[..., 1]) / 2
    np.testing.assert_allclose(half, np.broadcast_to(own, half.shape), atol=1e-8)
    assert torch.equal(found.shear, torch.from_numpy(cases.shear[1:]))
    np.testing.assert_allclose(found.shapes.mean(2), cases.shear[1:], atol=1e-4)


def test_galaxies_with_stamps_that_cannot_be_measured_are_left_out():
    answers = invented(6, 2, 4)
    answers.values[2, 1, 0, 3, 0] = torch.nan
    assert torch.equal(answers.finite.sigma, answers.sigma[[0, 1, 3, 4, 5]])


# Training and file


@pytest.fixture(scope="module")
def network_file(tmp_path_factory):
    torch.manual_seed(1)
    architecture = architecture_kinds()["convnet"](width=2, stages=2, hidden=[8], auxiliary=True)
    network = ShearNetwork(architecture, (SIDE, SIDE), SCALE, False)
    catalog = sample_catalog(Population(**PRESETS["exp_gauss"]), "exp_gauss", "train", 32, 5, SCALE)
    ((images, psf),) = draw_stamps(catalog, Population(**PRESETS["exp_gauss"]), (SIDE, SIDE), SCALE)
    columns = catalog[["flux", "dx", "dy", "hlr", "g1", "g2"]].to_numpy(np.float32)
    network.fit_scaling(torch.from_numpy(images), torch.from_numpy(psf), torch.from_numpy(columns))
    network.calibrate([1e-3], [torch.randn(32, 2)], [torch.linspace(5, 50, 32)])
    variant = resolve_variant("small", {"base": "convnet", "training": {"noise": [1e-4, 1e-2]}}, Recipe())
    variant = variant.model_copy(update={"options": architecture.model_dump(mode="json")})
    content = model_content(
        network,
        variant,
        name="small",
        seed=1,
        fingerprint="f",
        shape=(SIDE, SIDE),
        pixel_scale=SCALE,
        population="exp_gauss",
        epoch=1,
    )
    path = tmp_path_factory.mktemp("network") / "model.pt"
    save(path, content)
    return path


def trained(path, checkpoint=None, **changes):
    options = {
        "galaxies": 9,
        "realisations": 2,
        "noise": (1e-4, 1e-2),
        "shear": 0.1,
        "members": 2,
        "hidden": [3],
    }
    return calibrate(
        load_model(path),
        Population(**PRESETS["exp_gauss"]),
        **{**options, "iterations": 3, "seed": 5, **changes},
        checkpoint=checkpoint or Checkpoint(None, {}),
        device=CPU,
    )


def batch_of(n):
    images = np.random.default_rng(4).random((n, SIDE, SIDE), np.float32) + np.float32(0.1)
    return StampBatch(
        images, np.ones((SIDE, SIDE), np.float32) / SIDE**2, 1e-3, SCALE, np.arange(n), np.arange(n)
    )


@pytest.fixture(scope="module")
def whole(network_file):
    return trained(network_file)


def test_a_calibrated_network_in_its_file(network_file, whole, tmp_path):
    found, history = whole
    assert found["inputs"] == ("g1", "g2", "log_snr", "log_noise", "flux", "x", "y", "hlr")
    assert history["member"].tolist() == [1, 1, 2, 2]
    assert history["component"].tolist() == [1, 2, 1, 2]
    assert (history["validation_msb"] <= history["uncorrected_msb"]).all()
    path = tmp_path / "model.pt"
    save(path, calibration.calibrated_content(load(network_file, "train"), found))
    estimator = make_estimator({"kind": "calibrated", "network": "small", "network_file": str(path)})
    shapes = estimator.measure(batch_of(70))
    assert (shapes.extra["members"] == 2).all()
    assert np.isfinite(shapes.g1_err).all()
    part = estimator.measure(batch_of(70).select(slice(60, 70)))
    np.testing.assert_array_equal(shapes.g1[60:], part.g1)
    # The file is that of the network too, whose own answers it does not change.
    before, after = (
        NetworkMeasurer(load_model(one).network).measure(batch_of(5)) for one in (network_file, path)
    )
    np.testing.assert_array_equal(before.g1, after.g1)
    # A committee that has not been trained gives these answers.
    network, _ = calibration.load_calibrated(str(path), "small")
    plain = measure_with(network, Committee(8, [3], 2), batch_of(5))
    np.testing.assert_allclose(plain.g1, before.g1, rtol=1e-12)
    assert not np.array_equal(shapes.g1[:5], plain.g1)
    assert len(network.error_sigma) == 8
    with pytest.raises(ContractError, match="found 'small', expected 'shearnet'"):
        calibration.load_calibrated(str(path), "shearnet")
    with pytest.raises(ContractError, match="calibration"):
        calibration.load_calibrated(str(network_file))


@pytest.mark.parametrize("stop", ["answers_for", "fit_member"])
def test_a_training_that_was_killed_goes_on_from_its_state(network_file, whole, tmp_path, monkeypatch, stop):
    content, history = whole
    monkeypatch.setattr(calibration, "_SAVE", -1.0)
    monkeypatch.setattr(calibration, "_STAMPS", 32)  # two galaxies at a time
    checkpoint, calls, real = (
        Checkpoint(tmp_path / "seed1.pt", {"fingerprint": "f"}),
        [],
        getattr(calibration, stop),
    )

    def killed(*given, **named):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr(calibration, stop, killed)
    with pytest.raises(KeyboardInterrupt):
        trained(network_file, checkpoint)
    made = len(calls) - 1
    again, rest = trained(network_file, checkpoint)
    total = {"answers_for": 5, "fit_member": 4}[stop]
    assert len(calls) - 1 == total, f"{made} of {total} parts are not made again"
    assert rest["component"].tolist() == history["component"].tolist()
    np.testing.assert_allclose(rest["validation_msb"], history["validation_msb"], rtol=1e-3)
    assert again["state"].keys() == content["state"].keys()


def test_a_network_that_diverged_has_nothing_to_calibrate(network_file):
    model = load_model(network_file)
    diverged = TrainedNetwork(model.network, {**model.about, "diverged": True})
    with pytest.raises(ShearbenchError, match="small diverged"):
        calibrate(
            diverged,
            Population(**PRESETS["exp_gauss"]),
            galaxies=8,
            realisations=2,
            noise=(1e-4, 1e-2),
            shear=0.1,
            members=2,
            hidden=[3],
            iterations=1,
            seed=5,
            checkpoint=Checkpoint(None, {}),
            device=CPU,
        )


# Configuration

RUN = {
    "populations": {"exp_gauss": {}},
    "variants": {"shearnet": {}, "one": {"base": "shearnet", "training": {"noise": 0.1}}},
}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"network": "shearnett"},
            "calibrated.network: 'shearnett' is not a variant of this run \\(did you mean",
        ),
        (
            {"network": "one"},
            r"calibrated.noise: found \[1e-05, 0.01\], but 'one' is trained with 0.1; use noise",
        ),
        (
            {"noise": [1e-2, 1e-3]},
            r"calibrated.noise: found \[0.01, 0.001\], expected the lowest value first",
        ),
        ({"members": 1}, "calibrated.members: found 1, expected at least 2"),
        ({"realisations": 1}, "calibrated.realisations: found 1, expected at least 2"),
        ({"galaxies": 4}, "calibrated.galaxies: found 4, expected at least 8"),
        ({"hidden": [0]}, "calibrated.hidden.0: found 0, expected at least 1"),
    ],
)
def test_an_impossible_calibration_is_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        resolve({**RUN, "estimators": {"calibrated": options}})


def test_the_noise_of_the_cases_is_noise_that_the_network_knows():
    config = resolve({**RUN, "estimators": {"calibrated": {"noise": [1e-6, 3e-3]}}})
    calibrated = config.estimator("calibrated")
    assert calibrated.training(config.variants["shearnet"].training.noise)["noise"] == [1e-5, 3e-3]
    assert calibrated.training(1e-3)["noise"] == [1e-3, 1e-3]
